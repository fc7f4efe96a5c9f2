"""What a network must beat: no change, the mean change, sums of single changes, and a bilinear ridge regression."""

from collections.abc import Mapping, Sequence

import numpy as np

from cellfm.tasks.perturbation._conditions import Condition

RIDGE = 0.1
N_COMPONENTS = 10
NO_CHANGE = "no change"
MEAN = "mean change"
ADDITIVE = "additive"
BILINEAR_PCA = "bilinear, PCA genes"
BILINEAR_CELLFM = "bilinear, CellFM genes"


def no_change(wanted: Sequence[Condition], n_genes: int) -> np.ndarray:
    """Control stays as it is: (n_wanted, n_genes) zeros."""
    return np.zeros((len(wanted), n_genes), np.float32)


def mean_change(wanted: Sequence[Condition], changes: np.ndarray) -> np.ndarray:
    """Every condition changes as the training conditions do on average; `changes` is (n_train, n_genes)."""
    return np.tile(changes.mean(0), (len(wanted), 1)).astype(np.float32)


def additive(wanted: Sequence[Condition], train: Sequence[Condition], changes: np.ndarray) -> np.ndarray:
    """The sum of the changes of the single genes; a gene that was not perturbed alone counts as the mean change."""
    single = {condition[0]: change for condition, change in zip(train, changes, strict=True) if len(condition) == 1}
    fallback = changes.mean(0)
    sums = [sum((single.get(gene, fallback) for gene in condition), np.zeros_like(fallback)) for condition in wanted]
    return np.array(sums, np.float32).reshape(len(wanted), -1)


def start_changes(
    kind: str, wanted: Sequence[Condition], train: Sequence[Condition], changes: np.ndarray
) -> np.ndarray:
    """What the network departs from: ``"additive"``, ``"mean"`` change or ``"none"``, (n_wanted, n_genes)."""
    if kind == "additive":
        return additive(wanted, train, changes)
    return mean_change(wanted, changes) if kind == "mean" else no_change(wanted, changes.shape[1])


def bilinear(
    wanted: Sequence[Condition],
    train: Sequence[Condition],
    changes: np.ndarray,
    vectors: Mapping[str, np.ndarray],
    *,
    n_components: int = N_COMPONENTS,
    ridge: float = RIDGE,
) -> np.ndarray:
    """Ridge regression ``Y ~ G K P^T + b`` between genes and perturbations (Ahlmann-Eltze 2025).

    `Y` are the changes, genes x training conditions, `b` their mean, `G` the principal components of `Y`, and `P` the
    vectors of the perturbed genes, summed where there are two. ``K = (G'G + r)^-1 G' (Y - b) P (P'P + r)^-1``.

    Parameters
    ----------
    vectors
        One vector a gene; a gene without counts as zeros.
    """
    y = np.asarray(changes, np.float64).T  # (n_genes, n_train)
    b = y.mean(1, keepdims=True)
    u, s, _ = np.linalg.svd(y - b, full_matrices=False)
    kept = min(n_components, int((s > 1e-9).sum()))
    g = u[:, :kept] * s[:kept]
    d = len(next(iter(vectors.values()))) if vectors else 1
    p, q = (_summed(conditions, vectors, d) for conditions in (train, wanted))
    left = np.linalg.solve(g.T @ g + ridge * np.eye(g.shape[1]), g.T @ (y - b))
    k = left @ p @ np.linalg.inv(p.T @ p + ridge * np.eye(d))
    return (g @ k @ q.T + b).T.astype(np.float32)


def principal_vectors(
    names: Sequence[str], features: np.ndarray, *, n_components: int = N_COMPONENTS
) -> dict[str, np.ndarray]:
    """Rows of `features` (n_genes, d) as their principal components, by name; rows with NaN are left out."""
    usable = np.isfinite(features).all(1)
    x = np.asarray(features[usable], np.float64)
    x = x - x.mean(0)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    scores = u[:, :n_components] * s[:n_components]
    # As large as unit vectors on average, so that the ridge means the same whatever the features.
    scores = scores / max(float(np.sqrt((scores**2).sum(1).mean())), 1e-12)
    return dict(zip(np.asarray(names, object)[usable], scores, strict=True))


def baselines(
    wanted: Sequence[Condition],
    train: Sequence[Condition],
    changes: np.ndarray,
    *,
    measured: Mapping[str, np.ndarray],
    cellfm: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """All of them by name, (n_wanted, n_genes) predicted changes each.

    Parameters
    ----------
    train, changes
        Training conditions and their changes against control.
    measured, cellfm
        Vectors of genes from the expression of the training cells, and from CellFM.
    """
    found = {
        NO_CHANGE: no_change(wanted, changes.shape[1]),
        MEAN: mean_change(wanted, changes),
        ADDITIVE: additive(wanted, train, changes),
        BILINEAR_PCA: bilinear(wanted, train, changes, measured),
    }
    if cellfm:
        found[BILINEAR_CELLFM] = bilinear(wanted, train, changes, cellfm)
    return found


def _summed(conditions: Sequence[Condition], vectors: Mapping[str, np.ndarray], d: int) -> np.ndarray:
    zero = np.zeros(d)
    return np.array([sum((vectors.get(gene, zero) for gene in condition), zero) for condition in conditions])
