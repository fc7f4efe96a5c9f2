"""Which epoch to keep, by errors on few validation conditions."""

import numpy as np


def choose_epoch(errors: np.ndarray) -> int:
    """The earliest epoch whose error is no more than one standard error above the least.

    Parameters
    ----------
    errors
        (n_epochs, n_conditions), from the epoch before anything is learnt.

    Returns
    -------
    The epoch. Differences to the epoch with the least mean error are taken condition by condition, and the standard
    error is that of their mean (Breiman 1984, the one-standard-error rule, paired). With one condition there is none,
    and the epoch with the least error is taken.
    """
    least = int(errors.mean(1).argmin())
    n = errors.shape[1]
    if n < 2:
        return least
    above = errors - errors[least]
    within = above.mean(1) <= above.std(1, ddof=1) / np.sqrt(n)
    return int(np.argmax(within[: least + 1]))
