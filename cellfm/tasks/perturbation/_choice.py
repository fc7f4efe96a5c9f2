"""Which epoch to keep, by errors on few validation conditions."""

import numpy as np


def choose_epoch(errors: np.ndarray, *, start_predicts: bool) -> int:
    """The earliest epoch whose error is no more than one standard error above the least.

    Parameters
    ----------
    errors
        (n_epochs, n_conditions), from the epoch before anything is learnt.
    start_predicts
        Before anything is learnt there is a prediction that is worth keeping, such as the additive one.

    Returns
    -------
    The epoch. Differences to the epoch with the least mean error are taken condition by condition, and the standard
    error is that of their mean (Breiman 1984, the one-standard-error rule, paired). With one condition there is none:
    epoch 0 is kept if `start_predicts`, otherwise the epoch with the least error.
    """
    least = int(errors.mean(1).argmin())
    n = errors.shape[1]
    if n < 2:
        return 0 if start_predicts else least
    above = errors - errors[least]
    within = above.mean(1) <= above.std(1, ddof=1) / np.sqrt(n)
    return int(np.argmax(within[: least + 1]))
