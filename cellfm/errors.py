"""Errors that users can fix: each message says what was expected, what was found and what to do.

All derive from `CellFMError`, and each is also the built-in error that a user would catch for it.
"""


class CellFMError(Exception):
    """The root of all errors of the package."""


class InputError(CellFMError, ValueError):
    """Data, an argument or a file cannot be used as it is."""


class InputTypeError(InputError, TypeError):
    """An argument has the wrong type."""


class MissingKeyError(InputError, KeyError):
    """A requested name does not exist; the message lists the available names."""

    def __str__(self) -> str:
        # KeyError would show the repr of the message, with its line breaks escaped.
        return str(self.args[0])


class CheckpointError(InputError):
    """A weight file or model directory is damaged, incomplete or does not fit the model."""


class DownloadError(InputError, OSError):
    """A download failed."""


class MissingPackageError(InputError, ImportError):
    """A required engine or optional package is not installed; the message names the extra that installs it."""


class TrainingError(InputError, RuntimeError):
    """Training cannot continue; the message names the last good checkpoint."""

    exit_code = 1


class DataWarning(UserWarning):
    """The result may be poorer than the user expects; the message says why, with numbers."""
