"""How training ends before its last step: errors and stops, and the exit codes that a command makes of them."""

from cellfm.errors import InputError


class TrainingError(InputError):
    """Training cannot go on; the message names the last good checkpoint."""

    exit_code = 1


class TrainingStopped(KeyboardInterrupt):
    """SIGTERM or Ctrl-C ended the training after a checkpoint; the same call goes on from there."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number
