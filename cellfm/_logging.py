"""The one logger of the package. Silent but for warnings until `cf.settings.verbosity` says otherwise."""

import logging

logger = logging.getLogger("cellfm")

LEVELS = {"error": logging.ERROR, "warning": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}


def set_level(name: str) -> None:
    """Show messages of this level and above on stderr."""
    logger.setLevel(LEVELS[name])
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
