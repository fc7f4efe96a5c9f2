"""What every annotator is measured against: logistic regression on principal components, and celltypist."""

import importlib.util
import inspect
import logging
import warnings
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from cellfm._adata import Matrix

TARGET_SUM = 1e4
N_TOP_GENES = 2000
N_COMPONENTS = 50


def log_normalised(counts: Matrix) -> sp.csr_matrix:
    """log1p of counts per 10,000 over all measured genes; values that are logarithms already stay as they are."""
    values = counts.rows(0, counts.n_cells).astype(np.float32)
    if counts.describe().kind == "log-normalised":
        return values
    total = np.asarray(values.sum(1)).ravel()
    scale = np.divide(TARGET_SUM, total, out=np.zeros_like(total), where=total > 0)
    return sp.csr_matrix(sp.diags(scale) @ values).log1p()


@dataclass(frozen=True)
class Judgement:
    """What a classifier without a model says of some cells."""

    labels: np.ndarray
    """(n_cells,) str."""
    confidence: np.ndarray
    """(n_cells,) float32: probability of that label by the classifier's own word."""


def logistic_regression(
    train: sp.csr_matrix, labels: np.ndarray, test: sp.csr_matrix, *, random_state: int = 0
) -> Judgement:
    """Judge test cells; everything, the choice of genes included, is fitted on the training cells alone.

    The 2,000 most variable genes (scanpy's default way) -> 50 principal components -> multinomial logistic regression
    with an L2 penalty of 1.

    Parameters
    ----------
    train, test
        (n_train, n_genes) and (n_test, n_genes): log-normalised.
    labels
        (n_train,) str.
    """
    genes = _variable_genes(train)
    dense = train[:, genes].toarray()
    n_components = min(N_COMPONENTS, *(size - 1 for size in dense.shape))
    pca = PCA(n_components, svd_solver="randomized", random_state=random_state).fit(dense)
    classifier = LogisticRegression(max_iter=2000).fit(pca.transform(dense), labels)
    probabilities = classifier.predict_proba(pca.transform(test[:, genes].toarray()))
    return Judgement(classifier.classes_[probabilities.argmax(1)], probabilities.max(1).astype(np.float32))


def celltypist_name() -> str | None:
    """What the rows of celltypist are called; None where it is not installed.

    Its own logistic regression is what it uses by default; with scikit-learn 1.8 and later, whose interface celltypist
    1.7 does not know, only its stochastic gradient descent runs.
    """
    if importlib.util.find_spec("celltypist") is None:
        return None
    return "celltypist (SGD)" if _only_sgd() else "celltypist"


def celltypist(train: sp.csr_matrix, labels: np.ndarray, test: sp.csr_matrix, *, random_state: int = 0) -> Judgement:
    """Judge test cells by a celltypist model of all genes, trained on the training cells with its default settings.

    Parameters
    ----------
    train, test
        (n_train, n_genes) and (n_test, n_genes): log1p of counts per 10,000.
    labels
        (n_train,) str.
    """
    names = [f"gene{i}" for i in range(train.shape[1])]
    cells = AnnData(test)
    cells.var_names = names
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = _quiet_celltypist()
        model = package.train(
            train,
            labels=labels,
            genes=names,
            use_SGD=_only_sgd(),
            check_expression=False,
            random_state=random_state,
        )
        found = package.annotate(cells, model=model)
    confidence = found.probability_matrix.to_numpy().max(1).astype(np.float32)
    return Judgement(found.predicted_labels["predicted_labels"].to_numpy().astype(str), confidence)


def _quiet_celltypist() -> ModuleType:
    """The package, without the logging that it sets up for the whole program at its import."""
    handlers = list(logging.root.handlers)
    import celltypist

    logging.root.handlers[:] = handlers
    celltypist.logger.set_level(logging.ERROR)
    return celltypist


def _only_sgd() -> bool:
    return "multi_class" not in inspect.signature(LogisticRegression).parameters


def _variable_genes(values: sp.csr_matrix) -> np.ndarray:
    """(n_genes,) bool: the most variable genes, or all where there are no more."""
    expressed = np.asarray((values > 0).sum(0)).ravel() > 0
    if expressed.sum() <= N_TOP_GENES:
        return expressed
    import scanpy as sc  # slow to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = sc.pp.highly_variable_genes(
            AnnData(values[:, expressed]), n_top_genes=N_TOP_GENES, flavor="seurat", inplace=False
        )
    expressed[np.flatnonzero(expressed)[~table["highly_variable"].to_numpy()]] = False
    return expressed
