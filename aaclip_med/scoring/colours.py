"""The colours of heat, in every picture alike."""

HEAT_COLOURS = "inferno"
"""A colour table of matplotlib."""
OUTLINE_COLOUR = "#3ddc97"
"""Of a reference lesion, or of a synthetic one."""
