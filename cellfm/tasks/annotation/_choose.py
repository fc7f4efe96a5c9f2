"""`method="auto"`: heads on the embedding, on genes and on both, and the choice among them by cross-validation."""

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from cellfm.errors import InputError
from cellfm.io.messages import counted, warn
from cellfm.tasks.annotation._features import COMPONENTS, GENES, MODEL
from cellfm.tasks.annotation._gene_space import ALL_GENES, INPUTS, GeneSpace
from cellfm.tasks.annotation._head import CombinedHead, Head, MLPHead, mean_logits
from cellfm.tasks.annotation._mlp import MLP, N_ITERATIONS, LabelledCells, fit_mlp, logistic_layer

CANDIDATES = {
    "cellfm": (MODEL,),
    "pca": (COMPONENTS,),
    "hvg": (GENES,),
    "genes": (ALL_GENES,),
    "cellfm+pca": (MODEL, COMPONENTS),
    "cellfm+pca+hvg": (MODEL, COMPONENTS, GENES),
    "cellfm+pca+genes": (MODEL, COMPONENTS, ALL_GENES),
}
"""What the heads of a candidate read; their probabilities are averaged."""
PREFERRED = "cellfm+pca+hvg"
"""Chosen unless the accuracy of another candidate is higher by more than `TOLERANCE`."""
TOLERANCE = 0.01
"""Differences of accuracy up to this are taken for noise of the cross-validation."""
N_FOLDS = 3
MAX_CELLS = 10_000
"""The choice is made on a sample of this many cells; the chosen candidate is fitted to all."""
MIN_CELLS = 10
"""Cells of a part of a fold; with fewer, a warning says that groups are too uneven for a choice."""
_GENES_PENALTY = 1.0
"""L2 penalty of logistic regression on all genes: 1 / C, the default of scikit-learn."""


@dataclass(frozen=True)
class Described:
    """Labelled cells by everything that a head may read."""

    codes: np.ndarray
    """(n_cells,) int64: class of each cell."""
    weight: np.ndarray
    """(n_cells,) float32: weight of each cell."""
    embedding: np.ndarray
    """(n_cells, d) float32."""
    ids: np.ndarray
    """(n_genes,) int32: ids of the genes, ascending."""
    values: sp.csr_matrix
    """(n_cells, n_genes) float32: log-normalised."""
    n_layers: int
    """Layers of each head."""
    random_state: int = 0
    n_iterations: int = N_ITERATIONS

    def fit(self, inputs: tuple[str, ...], rows: np.ndarray) -> tuple[CombinedHead, pd.DataFrame]:
        """Heads on these inputs, fitted to the cells `rows`; they know the classes that occur there, in order.

        Returns
        -------
        The heads together, and the history of each.
        """
        codes = np.unique(self.codes[rows], return_inverse=True)[1]
        genes = GeneSpace.fit(self.ids, self.values[rows], random_state=self.random_state)
        parts, histories = {}, []
        for name in inputs:
            x = self.embedding[rows] if name == MODEL else genes.describe(name, self.values[rows])
            mlp, history = self._fit_part(name, x, codes, self.weight[rows])
            parts[name] = MLPHead(mlp)
            histories.append(history.assign(features=name))
        return CombinedHead(parts, genes), pd.concat(histories, ignore_index=True)

    def _fit_part(
        self, name: str, x: np.ndarray | sp.csr_matrix, codes: np.ndarray, weight: np.ndarray
    ) -> tuple[MLP, pd.DataFrame]:
        if name == ALL_GENES:  # not standardised, as scikit-learn does by default: few counts of rare genes are noise
            w, b, n_iterations = logistic_layer(x, codes, weight, _GENES_PENALTY, self.n_iterations)
            d = x.shape[1]
            mlp = MLP(np.zeros(d, np.float32), np.ones(d, np.float32), (w,), (b,))
            return mlp, pd.DataFrame([{"step": n_iterations, "loss": np.nan, "validation_loss": np.nan}])
        width = self.embedding.shape[1]  # the same for all inputs
        start = MLP.start(x, int(codes.max()) + 1, self.n_layers, self.random_state, width=width)
        return fit_mlp(start, LabelledCells(x, codes, weight), n_iterations=self.n_iterations)


def choose(of: Described, groups: np.ndarray | None) -> pd.DataFrame:
    """Score each candidate on folds of the cells, and choose one.

    Parameters
    ----------
    groups
        (n_cells,) str: no group is in both parts of a fold. None for stratified folds. See `folds`.

    Returns
    -------
    A row for each candidate: ``candidate``, ``mean_score`` and ``sd_score`` (accuracy, over the folds), ``chosen``.
    """
    rows = []
    for train, test in folds(of.codes, groups, random_state=of.random_state):
        head, _ = of.fit(INPUTS, train)
        logits, known = head.part_logits(of.values[test], of.embedding[test]), np.unique(of.codes[train])
        for name, inputs in CANDIDATES.items():
            predicted = known[mean_logits([logits[part] for part in inputs]).argmax(1)]
            rows.append({"candidate": name, "score": float((predicted == of.codes[test]).mean())})
    by_candidate = pd.DataFrame(rows).groupby("candidate", sort=False)["score"]
    scores = by_candidate.agg(mean_score="mean", sd_score="std").reset_index()
    means = scores.set_index("candidate")["mean_score"]
    chosen = PREFERRED if means[PREFERRED] >= means.max() - TOLERANCE else means.idxmax()
    return scores.assign(chosen=scores["candidate"] == chosen)


def folds(
    codes: np.ndarray, groups: np.ndarray | None, *, random_state: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and test cells of each fold, of at most `MAX_CELLS` cells; test cells are of classes that training has.

    If all these cells are of one group, groups are ignored, with a warning.

    Raises
    ------
    InputError
        Without the cells of some groups, fewer than two classes are left in every fold.
    """
    rows = np.sort(np.random.default_rng(random_state).permutation(len(codes))[:MAX_CELLS])
    n_folds = max(2, min(N_FOLDS, int(np.bincount(codes[rows]).max())))
    n_groups = 0 if groups is None else len(np.unique(groups[rows]))
    if n_groups == 1:
        warn("groups_key: all cells that are compared are of one group, so the cross-validation has random folds.")
        groups = None
    if groups is not None:
        n_folds = min(n_folds, n_groups)
    split = (StratifiedKFold if groups is None else StratifiedGroupKFold)(
        n_folds, shuffle=True, random_state=random_state
    )
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes of fewer cells than folds
        for train, test in split.split(rows, codes[rows], None if groups is None else groups[rows]):
            kept = test[np.isin(codes[rows[test]], codes[rows[train]])]
            if len(kept) and len(np.unique(codes[rows[train]])) > 1:
                found.append((rows[train], rows[kept]))
    if not found:
        raise InputError(
            "groups_key: each group holds cells of its own classes alone, so that no classifier can be tested on other "
            "groups. Pass a column whose groups share classes, or leave out groups_key=."
        )
    if groups is not None and (fewest := min(min(len(train), len(test)) for train, test in found)) < MIN_CELLS:
        warn(
            f"groups_key: a part of the cross-validation has only {counted(fewest, 'cell')}, because a group is small, "
            f"so the choice may be chance. Merge groups of fewer than {MIN_CELLS} cells, or leave out groups_key=."
        )
    return found


def chosen_head(head: CombinedHead) -> Head:
    """A head on the embedding alone needs no genes."""
    return head.parts[MODEL] if tuple(head.parts) == (MODEL,) else head
