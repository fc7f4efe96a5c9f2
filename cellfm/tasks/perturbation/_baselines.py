"""Baselines for the network: no change, the mean change, sums of single changes, and two ridge regressions."""

from collections.abc import Mapping, Sequence

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import scipy.sparse.linalg
from sklearn.decomposition import PCA

from cellfm.tasks.perturbation._conditions import Condition

RIDGE = 0.1
TINY = 1e-12
"""Share of the largest variance below which a component is dropped."""
N_COMPONENTS = 10
NO_CHANGE = "no change"
MEAN = "mean change"
ADDITIVE = "additive"
GENE_EFFECTS = "gene effects"
BILINEAR_PCA = "bilinear, PCA genes"
BILINEAR_CELLFM = "bilinear, CellFM genes"
BASELINES = (NO_CHANGE, MEAN, ADDITIVE, GENE_EFFECTS, BILINEAR_PCA, BILINEAR_CELLFM)


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


def gene_effects(
    wanted: Sequence[Condition], train: Sequence[Condition], changes: np.ndarray, *, ridge: float = RIDGE
) -> np.ndarray:
    """The sum of the effects of the genes, which singles and pairs give together by a ridge regression.

    Change = sum over genes of (``mu`` + own effect) + noise, where own effects have variance 1 and noise has variance
    `ridge`; ``mu``, the effect of a gene that training does not have, is the generalised least squares estimate.
    So a gene that was perturbed only in pairs has an effect of its own, and with all genes alone and no pairs this is
    nearly the additive model.
    """
    places = {gene: i for i, gene in enumerate(sorted({gene for condition in train for gene in condition}))}
    x, q = _members(train, places), _members(wanted, places)
    solve = scipy.sparse.linalg.splu(sp.csc_matrix(x @ x.T + ridge * sp.eye(len(train)))).solve
    n_genes = np.array([len(condition) for condition in train], np.float64)
    y = np.asarray(changes, np.float64)
    weights = solve(n_genes)
    mu = weights @ y / (weights @ n_genes)
    own = x.T @ solve(y - n_genes[:, None] * mu)
    n_wanted = np.array([len(condition) for condition in wanted], np.float64)
    return (n_wanted[:, None] * mu + q @ own).astype(np.float32)


def start_changes(
    kind: str, wanted: Sequence[Condition], train: Sequence[Condition], changes: np.ndarray
) -> np.ndarray:
    """The prediction that the network corrects: ``"effects"``, ``"additive"``, ``"mean"`` change or ``"none"``,
    (n_wanted, n_genes).
    """
    if kind == "effects":
        return gene_effects(wanted, train, changes)
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
    n = y.shape[1]
    # Components from inner products of conditions, of which there are far fewer than genes.
    centred = y - b
    square, v = scipy.linalg.eigh(centred.T @ centred, subset_by_index=[max(n - n_components, 0), n - 1])
    g = centred @ v[:, square > TINY * max(square.max(), TINY)]  # (n_genes, n_kept)
    d = len(next(iter(vectors.values()))) if vectors else 1
    p, q = (_summed(conditions, vectors, d) for conditions in (train, wanted))
    left = np.linalg.solve(g.T @ g + ridge * np.eye(g.shape[1]), g.T @ centred)
    k = left @ p @ np.linalg.inv(p.T @ p + ridge * np.eye(d))
    return q.astype(np.float32) @ (g @ k).T.astype(np.float32) + b.T.astype(np.float32)


def principal_vectors(features: np.ndarray, *, n_components: int = N_COMPONENTS) -> np.ndarray:
    """Rows of `features` (n_genes, d) as their principal components, (n_genes, n_kept); NaN where it has NaN."""
    usable = np.isfinite(features).all(1)
    x = np.asarray(features[usable], np.float64)
    n = min(n_components, *x.shape)
    found = np.full((len(features), n), np.nan)
    if n:
        scores = PCA(n, random_state=0).fit_transform(x)
        # As long as unit vectors on average, so that the ridge has the same effect for all features.
        found[usable] = scores / max(float(np.sqrt((scores**2).sum(1).mean())), 1e-12)
    return found


def vectors_by_name(names: Sequence[str], vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Vectors of genes by name, without those that are NaN."""
    return {name: row for name, row in zip(names, vectors, strict=True) if np.isfinite(row).all()}


def baseline(
    name: str,
    wanted: Sequence[Condition],
    train: Sequence[Condition],
    changes: np.ndarray,
    *,
    measured: Mapping[str, np.ndarray],
    cellfm: Mapping[str, np.ndarray],
) -> np.ndarray:
    """One of `BASELINES`, (n_wanted, n_genes) predicted changes.

    Parameters
    ----------
    train, changes
        Training conditions and their changes against control.
    measured, cellfm
        Vectors of genes from the expression of the training cells, and from CellFM.
    """
    if name == NO_CHANGE:
        return no_change(wanted, changes.shape[1])
    if name == MEAN:
        return mean_change(wanted, changes)
    if name == ADDITIVE:
        return additive(wanted, train, changes)
    if name == GENE_EFFECTS:
        return gene_effects(wanted, train, changes)
    return bilinear(wanted, train, changes, cellfm if name == BILINEAR_CELLFM else measured)


def baselines(
    wanted: Sequence[Condition],
    train: Sequence[Condition],
    changes: np.ndarray,
    *,
    measured: Mapping[str, np.ndarray],
    cellfm: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """All of `BASELINES` by name; see `baseline`."""
    given = {"measured": measured, "cellfm": cellfm}
    return {name: baseline(name, wanted, train, changes, **given) for name in BASELINES}


def _members(conditions: Sequence[Condition], places: Mapping[str, int]) -> sp.csr_matrix:
    """(n_conditions, n_places): 1 for each gene of a condition; genes without a place are left out."""
    members = [(i, places[gene]) for i, genes in enumerate(conditions) for gene in genes if gene in places]
    rows, columns = np.array(members, int).reshape(-1, 2).T
    return sp.csr_matrix((np.ones(len(rows)), (rows, columns)), (len(conditions), len(places)))


def _summed(conditions: Sequence[Condition], vectors: Mapping[str, np.ndarray], d: int) -> np.ndarray:
    zero = np.zeros(d)
    return np.array([sum((vectors.get(gene, zero) for gene in condition), zero) for condition in conditions])
