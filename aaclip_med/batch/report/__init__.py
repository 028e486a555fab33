"""The report page of a run: small pictures of each case, and one self-contained HTML file that shows them."""
