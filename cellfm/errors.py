"""Errors that the user can mend: each message says what was expected, what was found and what to do.

All are `CellFMError`, and each is also the built-in error that a user would catch for its like.
"""


class CellFMError(Exception):
    """The root of all errors of the package."""


class InputError(CellFMError, ValueError):
    """Data, an argument or a file cannot be used as it is."""


class InputTypeError(InputError, TypeError):
    """An argument is of another type than what is expected."""


class MissingKeyError(InputError, KeyError):
    """A name asked for is not there; the message lists the names that are."""

    def __str__(self) -> str:
        # KeyError would show the repr of the message, with its line breaks escaped.
        return str(self.args[0])


class CheckpointError(InputError):
    """A weight file or model directory is damaged, incomplete or does not fit the model."""


class DownloadError(InputError, OSError):
    """Something that has to come from the network could not be fetched."""


class MissingPackageError(InputError, ImportError):
    """An engine or another optional package is needed and missing; the message names the extra that installs it."""


class TrainingError(InputError, RuntimeError):
    """Training cannot go on; the message names the last good checkpoint."""

    exit_code = 1


class DataWarning(UserWarning):
    """The result may be poorer than the user expects; the message says why, with numbers."""
