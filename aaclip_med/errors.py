"""What can go wrong, in words a user can act on.

Every message is one sentence or two on one line: what is wrong, with which value, in which file, and what to do. The
command line prints the message alone and exits with the class's ``exit_code``.
"""


class AaclipError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 2


class InputError(AaclipError, ValueError):
    """An input file, an index row or an option cannot be used as it is."""


class WeightsError(AaclipError):
    """The tower's weights cannot be found, read or matched to its architecture."""


class CheckpointError(AaclipError):
    """An adapter checkpoint is damaged, or was made for another tower."""


class OutputError(AaclipError):
    """A result cannot be written: the folder is read-only, the disk is full."""

    exit_code = 1
