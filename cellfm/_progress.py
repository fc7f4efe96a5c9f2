"""Progress bars: shown for work of more than a few seconds, unless the user wants silence."""

import warnings

from tqdm import TqdmWarning
from tqdm.auto import tqdm

from cellfm.settings import settings

_PATIENCE = 3.0  # seconds before a bar appears


def progress(total: int, description: str, unit: str) -> tqdm:
    """A progress bar over `total` units; use it as a context manager and call its `update`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmWarning)  # Jupyter without widgets gets the text bar
        silent = settings.verbosity == "error"
        return tqdm(total=total, desc=description, unit=unit, delay=_PATIENCE, leave=False, disable=silent)
