"""Convert labels of genes from any supported form to a table of 0 and 1."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from cellfm.errors import InputError
from cellfm.tasks.genes._enrich import read_gene_sets

Task = Literal["binary", "multilabel"]
MIN_OF_A_CLASS = 10


def read_labels(
    labels: Mapping[str, Any] | pd.Series | pd.DataFrame | str | Path,
    genes: pd.Index,
    task: Task,
    n_terms: int = 10,
) -> pd.DataFrame:
    """Labels of those of the `genes` that have any, (n_labelled, k) of 0 and 1, named.

    Parameters
    ----------
    labels
        For two classes: a dict or Series from gene to one of two values, or the path of a table whose first two columns
        are these. For many labels: gene sets (a GMT file, a dict from term to genes, an Enrichr name), of which the
        `n_terms` with most of the `genes` are taken; or a table genes x labels of 0 and 1.

    Raises
    ------
    InputError
        Not two classes, too few genes of a class, no gene in common.
    """
    if task not in ("binary", "multilabel"):
        raise InputError(f"task must be 'binary' or 'multilabel', not {task!r}.")
    table = _two_classes(labels) if task == "binary" else _many_labels(labels, genes, n_terms)
    known = table[table.index.isin(genes)]
    if not len(known):
        theirs, ours = ", ".join(map(str, table.index[:5])), ", ".join(map(str, genes[:5]))
        raise InputError(f"No labelled gene has features. The labels have {theirs} ..., the features {ours} ...")
    known = known[~known.index.duplicated()]
    counts = known.sum()
    for name, n in counts.items():
        if min(n, len(known) - n) < MIN_OF_A_CLASS:
            raise InputError(
                f"{int(n)} of {len(known)} labelled genes with features are {name!r}; at least {MIN_OF_A_CLASS} "
                "must be, and as many must not."
            )
    return known.astype("float32")


def _two_classes(labels: Mapping[str, Any] | pd.Series | pd.DataFrame | str | Path) -> pd.DataFrame:
    if isinstance(labels, str | Path):
        path = Path(labels).expanduser()
        if not path.is_file():
            raise InputError(f"No table of labels at {path}.")
        read = pd.read_csv(path, sep="\t" if path.suffix in (".tsv", ".txt") else ",", dtype=str)
        if read.shape[1] < 2:
            raise InputError(f"{path.name} has {read.shape[1]} column; expected genes and labels.")
        labels = pd.Series(read.iloc[:, 1].to_numpy(), index=read.iloc[:, 0])
    elif isinstance(labels, pd.DataFrame):
        if labels.shape[1] != 1:
            raise InputError(f"For two classes one column of labels is expected, found {labels.shape[1]}.")
        labels = labels.iloc[:, 0]
    series = pd.Series(labels).dropna()
    values = sorted(series.unique(), key=str)
    if len(values) != 2:
        raise InputError(f"Expected two classes of genes, found {len(values)}: {', '.join(map(str, values[:6]))}.")
    positive = values[1]
    return pd.DataFrame({str(positive): (series == positive).astype(float)}, index=series.index.astype(str))


def _many_labels(
    labels: Mapping[str, Any] | pd.Series | pd.DataFrame | str | Path, genes: pd.Index, n_terms: int
) -> pd.DataFrame:
    if isinstance(labels, pd.DataFrame):
        return labels
    if isinstance(labels, pd.Series):
        raise InputError("For many labels, expected gene sets or a table of genes x labels, found a Series.")
    sets = {term: [gene for gene in names if gene in genes] for term, names in read_gene_sets(labels).items()}
    largest = sorted(sets, key=lambda term: -len(sets[term]))[:n_terms]
    members = sorted({gene for term in largest for gene in sets[term]})
    return pd.DataFrame({term: pd.Index(members).isin(sets[term]).astype(float) for term in largest}, index=members)
