"""Scores of batch mixing and separation of cell types by scib-metrics, on arrays."""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors

from cellfm.errors import InputError, MissingPackageError
from cellfm.tasks.integration._harmony import harmonize

Profile = Literal["fast", "full"]
AVG_BIO = "AvgBio"
SCORES = (AVG_BIO, "Bio conservation", "Batch correction", "Total")
"""Columns of the aggregates; the others are single metrics."""
AVERAGED = ("Leiden NMI", "Leiden ARI", "Silhouette label")
N_GENES, N_COMPONENTS = 2000, 50


@dataclass(frozen=True)
class Cells:
    """Batches and labels of the cells."""

    batches: np.ndarray
    """(n_cells,) str."""
    labels: np.ndarray
    """(n_cells,) str."""


def score_embeddings(
    embeddings: dict[str, np.ndarray],
    cells: Cells,
    unintegrated: np.ndarray,
    *,
    profile: Profile = "fast",
) -> pd.DataFrame:
    """Score embeddings of the same cells with scib-metrics (Luecken 2022).

    Parameters
    ----------
    embeddings
        (n_cells, any width) by name.
    unintegrated
        (n_cells, n_components): principal components of the cells before integration, to which PCR compares.
    profile
        ``"full"`` computes all metrics of scib-metrics; ``"fast"`` leaves out the slow ones, kBET and isolated labels.

    Returns
    -------
    A row for each embedding: metrics (at most 1, higher is better) and the aggregates `SCORES`.

    Raises
    ------
    InputError
        An embedding has values that are not finite.
    """
    for name, embedding in embeddings.items():
        bad = ~np.isfinite(embedding).all(axis=1)
        if bad.any():
            raise InputError(
                f"obsm[{name!r}] is not finite for {bad.sum():,} of {len(bad):,} cells (cells without known genes are "
                f"NaN). Leave them out: adata[np.isfinite(adata.obsm[{name!r}]).all(axis=1)].copy()."
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation  # slow: brings jax

    whole = profile == "full"
    obs = pd.DataFrame({"batch": pd.Categorical(cells.batches), "label": pd.Categorical(cells.labels)})
    adata = AnnData(obs=obs.set_index(obs.index.astype(str)), obsm={"unintegrated": unintegrated})
    keys = {f"embedding{i}": name for i, name in enumerate(embeddings)}
    for key, name in keys.items():
        adata.obsm[key] = np.asarray(embeddings[name], np.float32)
    benchmarker = Benchmarker(
        adata,
        batch_key="batch",
        label_key="label",
        embedding_obsm_keys=list(keys),
        bio_conservation_metrics=BioConservation(
            isolated_labels=whole, nmi_ari_cluster_labels_leiden={"n_jobs": 1}, nmi_ari_cluster_labels_kmeans=False
        ),
        batch_correction_metrics=BatchCorrection(kbet_per_label=whole),
        pre_integrated_embedding_obsm_key="unintegrated",
        progress_bar=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        benchmarker.prepare(_neighbours)
        benchmarker.benchmark()
        found = benchmarker.get_results().drop(index="Metric Type").astype(float)
    found.index = pd.Index([keys[key] for key in found.index], name="embedding")
    found.columns.name = None
    found[AVG_BIO] = found[list(AVERAGED)].mean(axis=1)
    return found[[*(name for name in found if name not in SCORES), *SCORES]]


def principal_components(values: sp.csr_matrix, *, random_state: int = 0) -> np.ndarray:
    """The baseline: 50 components of the 2,000 most variable genes of log-normalised values, (n_cells, 50) float32."""
    import scanpy as sc  # slow to import

    adata = AnnData(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.highly_variable_genes(adata, n_top_genes=min(N_GENES, adata.n_vars))
        adata = adata[:, adata.var["highly_variable"]].copy()
        n = min(N_COMPONENTS, adata.n_obs - 1, adata.n_vars - 1)
        sc.pp.pca(adata, n_comps=n, random_state=random_state)
    return adata.obsm["X_pca"].astype(np.float32)


def harmony(components: np.ndarray, batches: np.ndarray, *, random_state: int = 0) -> np.ndarray | None:
    """Components after Harmony (Korsunsky 2019), or None if harmonypy is not installed."""
    try:
        return harmonize(components, batches, random_state=random_state)
    except MissingPackageError:
        return None


def _neighbours(embedding: np.ndarray, n_neighbors: int) -> Any:
    """Exact neighbours, each cell itself first; all cells of small data."""
    from scib_metrics.nearest_neighbors import NeighborsResults

    class AtMost(NeighborsResults):  # type: ignore[misc]
        def subset_neighbors(self, n: int) -> NeighborsResults:
            return super().subset_neighbors(min(n, self.n_neighbors))

    search = NearestNeighbors(n_neighbors=min(n_neighbors, len(embedding)), algorithm="brute").fit(embedding)
    distances, indices = search.kneighbors(embedding)
    return AtMost(indices=indices, distances=distances)
