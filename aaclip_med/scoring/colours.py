"""The colours of heat, in every picture alike."""

HEAT_COLOURS = "inferno"
"""A colour table of matplotlib."""
