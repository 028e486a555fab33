"""What the module does, without its panel: jobs, the three places they run, and their results as MRML nodes.

Imports slicer, vtk, numpy and the standard library, nothing else, so that the module opens before any package is installed.
"""

# ruff: noqa: N999 - Slicer's way to name it
