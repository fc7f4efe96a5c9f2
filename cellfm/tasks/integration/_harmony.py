"""Harmony (Korsunsky 2019) by harmonypy: batches of an embedding are moved onto each other, cluster by cluster."""

from types import ModuleType

import numpy as np
import pandas as pd

from cellfm.errors import MissingPackageError

THETA = 2.0
"""Default of Harmony itself."""
CELLS_OF_A_CLUSTER, MAX_CLUSTERS = 30, 100
"""Defaults of Harmony, too, which however finds no cluster in 15 cells or fewer."""


def require_harmonypy() -> ModuleType:
    """The package harmonypy.

    Raises
    ------
    MissingPackageError
        It is not installed.
    """
    try:
        import harmonypy
    except ImportError as error:
        raise MissingPackageError(
            f"Harmony needs harmonypy ({error}). Install it with pip install 'cellfm[harmony]', or use method='lora', "
            "which needs no extra package."
        ) from None
    return harmonypy


def harmonize(embedding: np.ndarray, batches: np.ndarray, *, theta: float = THETA, random_state: int = 0) -> np.ndarray:
    """The embedding without differences between batches, (n_cells, d) float32.

    Parameters
    ----------
    embedding
        (n_cells, d), finite. Harmony clusters cells by their cosine, so the origin matters: of embeddings, we keep it,
        because Harmony could not mix the batches of scmix (see the benchmark) around the mean of its cells.
    batches
        (n_cells,) str.
    theta
        How strongly clusters with cells of few batches are penalised; 0 is not at all.

    Raises
    ------
    MissingPackageError
        harmonypy is not installed.
    """
    n_cells = len(batches)
    found = (
        require_harmonypy()
        .run_harmony(
            embedding.T,  # dimensions x cells: of as many cells as dimensions, harmonypy takes it for that
            pd.DataFrame({"batch": batches}),
            "batch",
            theta=theta,
            nclust=min(max(1, round(n_cells / CELLS_OF_A_CLUSTER)), MAX_CLUSTERS),
            random_state=random_state,
            verbose=False,
        )
        .Z_corr
    )
    return np.asarray(found if found.shape == embedding.shape else found.T, np.float32)  # turned before harmonypy 2
