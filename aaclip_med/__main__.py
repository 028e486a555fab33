"""``python -m aaclip_med`` is ``aaclip-med``."""

from aaclip_med.cli.main import run

run()
