"""Fit an annotator: a classifier on a model, from reference cells with labels."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellfm.cells.input import CellInput
from cellfm.cells.tokenize import TokenBatch
from cellfm.engines import Backend
from cellfm.errors import InputError
from cellfm.io.logging import logger
from cellfm.io.messages import counted, warn
from cellfm.model import CellFM
from cellfm.model._embed import embed_cells
from cellfm.tasks.annotation._annotator import Annotator
from cellfm.tasks.annotation._calibrate import calibrated, fit_temperature, fit_thresholds
from cellfm.tasks.annotation._choose import CANDIDATES, Described, choose, chosen_head
from cellfm.tasks.annotation._gene_space import log_values
from cellfm.tasks.annotation._head import Head, Kind, MLPHead, QueryHead
from cellfm.tasks.annotation._hold_out import class_weights, hold_out
from cellfm.tasks.annotation._labels import require_classes
from cellfm.tasks.annotation._mlp import MLP, N_ITERATIONS, LabelledCells, fit_mlp
from cellfm.tasks.annotation._reject import Reference

MAX_LOG_VALUE = 30.0
"""Logarithms of normalised counts, to any base in use, are smaller."""
Method = Literal["frozen", "lora", "full", "auto"]
RATES = {"lora": 1e-3, "full": 3e-4, "frozen": 1e-3}
"""Learning rates of training through the network."""
EPOCHS = {"lora": 5, "full": 5, "frozen": 10}
BATCH_SIZE = 64
PATIENCE = 4


@dataclass(frozen=True)
class _Reference:
    """The labelled cells that have an embedding."""

    rows: np.ndarray
    """(n,) int64: their rows among the given cells."""
    codes: np.ndarray
    """(n,) int64: class of each cell."""
    classes: tuple[str, ...]
    embedding: np.ndarray
    """(n, d): by the model before fine-tuning."""
    held_out: np.ndarray
    """(n,) bool: cells for validation."""
    weight: np.ndarray
    """(n,) float32: weight of each cell."""

    def cells(self, weight: np.ndarray) -> LabelledCells:
        return LabelledCells(self.embedding, self.codes, weight)


class _Start(NamedTuple):
    """Shape and seed of a new MLP."""

    n_layers: int
    width: int
    random_state: int


class _Fitted(NamedTuple):
    """A fitted head, and its predictions for the reference."""

    model: CellFM
    head: Head
    history: pd.DataFrame
    logits: np.ndarray
    """(n_held_out, n_classes) of the validation cells, by a head that has not seen them."""
    embedding: np.ndarray
    """(n, d) of all labelled cells, by the fitted model."""
    selection: pd.DataFrame | None = None
    """The candidates of ``"auto"``."""


def train_annotator(
    model: CellFM,
    cells: CellInput,
    labels: np.ndarray,
    *,
    method: Method = "frozen",
    head: Kind = "mlp",
    n_layers: int = 1,
    embedding: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    validation_fraction: float = 0.15,
    class_weight: Literal["balanced"] | None = "balanced",
    lora_rank: int = 16,
    n_epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    patience: int | None = None,
    random_state: int = 0,
    backend: Backend = "auto",
) -> Annotator:
    """Fit an annotator; see `cf.tl.fit_annotator` for the parameters that are not explained here.

    Parameters
    ----------
    cells
        All reference cells.
    labels
        (n_cells,) str; cells whose label is None or "" are left out.
    embedding
        (n_cells, d_model) embedding of the cells by `model`, if it has been computed.
    groups
        (n_cells,) str: donors or batches of the cells, by which ``"auto"`` splits them.

    Raises
    ------
    InputError
        An option is invalid, there are fewer than two classes, or a class has one cell.
    """
    check_options(method, head, n_layers, validation_fraction, class_weight, lora_rank)
    known = np.array([label is not None and label != "" for label in labels], bool)
    require_classes(np.asarray(labels, object)[known].astype(str), "labels")
    if embedding is None:
        embedding = embed_cells(model, cells, random_state=random_state)
    of = _reference(labels, known, embedding, validation_fraction, class_weight, random_state)

    start = _Start(n_layers, model.config.d_model, random_state)  # the same width for features other than embeddings
    if method == "auto":
        groups = None if groups is None else groups[of.rows]
        fitted = _fit_auto(model, cells, of, start, groups, n_epochs or N_ITERATIONS)
    elif head == "mlp" and method == "frozen":
        fitted = _fit_frozen(model, of, start, n_epochs or N_ITERATIONS)
    else:
        fitted = _fit_network(
            model,
            cells,
            of,
            MLPHead(_fit_mlp(of, ~of.held_out, start, N_ITERATIONS)[0]) if head == "mlp" else None,
            method=method,
            lora_rank=lora_rank,
            n_epochs=n_epochs or EPOCHS[method],
            batch_size=batch_size or BATCH_SIZE,
            learning_rate=learning_rate or RATES[method],
            patience=patience or PATIENCE,
            random_state=random_state,
            backend=backend,
        )
    return _annotator(fitted, of, method=method, gene_ids=cells.match.ids, random_state=random_state)


def check_options(
    method: str,
    head: str,
    n_layers: int = 1,
    validation_fraction: float = 0.15,
    class_weight: str | None = "balanced",
    lora_rank: int = 16,
) -> None:
    """Refuse invalid options before any work.

    Raises
    ------
    InputError
        An option is invalid.
    """
    for name, value, choices in (
        ("method", method, get_args(Method)),
        ("head", head, ("mlp", "query")),
        ("n_layers", n_layers, (1, 2, 3)),
        ("class_weight", class_weight, ("balanced", None)),
    ):
        if value not in choices:
            raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}.")
    if method == "auto" and head != "mlp":
        raise InputError(f"method='auto' chooses among heads of the type 'mlp'; head must be 'mlp', not {head!r}.")
    if not 0 < validation_fraction < 1:
        raise InputError(f"validation_fraction must be above 0 and below 1, not {validation_fraction}.")
    if lora_rank < 1:
        raise InputError(f"lora_rank must be 1 or more, not {lora_rank}.")


def _fit_mlp(of: _Reference, used: np.ndarray, start: _Start, n_iterations: int) -> tuple[MLP, pd.DataFrame]:
    """Fit an MLP to the embeddings of the cells that are `used` (n,) bool; the others are for validation."""
    mlp = MLP.start(of.embedding[used], len(of.classes), start.n_layers, start.random_state, width=start.width)
    validation = None if used.all() else of.cells(of.weight * ~used)
    return fit_mlp(mlp, of.cells(of.weight * used), n_iterations=n_iterations, validation=validation)


def _fit_frozen(model: CellFM, of: _Reference, start: _Start, n_iterations: int) -> _Fitted:
    first, history = _fit_mlp(of, ~of.held_out, start, n_iterations)
    # The held-out cells are needed only for calibration: the final head learns from all cells.
    final, _ = _fit_mlp(of, np.ones_like(of.held_out), start, n_iterations)
    return _Fitted(model, MLPHead(final), history, first.logits(of.embedding[of.held_out]), of.embedding)


def _fit_auto(
    model: CellFM, cells: CellInput, of: _Reference, start: _Start, groups: np.ndarray | None, n_iterations: int
) -> _Fitted:
    """The best of several heads on the embedding and on genes; see `cellfm.tasks.annotation._choose`."""
    ids = np.unique(cells.match.ids[cells.match.ids > 0])
    values = sp.vstack([block for _, block in log_values(cells, ids)], format="csr")[of.rows]
    if (most := values.max()) > MAX_LOG_VALUE:
        raise InputError(
            f"method='auto' reads log-normalised values, and the values of the reference reach {most:,.0f}. Pass "
            "counts, or the logarithm (log1p) of the values in values_layer=, or choose another method."
        )
    options = start.n_layers, start.random_state, n_iterations
    described = Described(of.codes, of.weight, of.embedding, ids, values, *options)
    selection = choose(described, groups)
    inputs = CANDIDATES[selection["candidate"][selection["chosen"]].item()]
    first, history = described.fit(inputs, np.flatnonzero(~of.held_out))
    logits = first.logits(values[of.held_out], of.embedding[of.held_out])
    final, _ = described.fit(inputs, np.arange(len(of.codes)))
    return _Fitted(model, chosen_head(final), history, logits, of.embedding, selection)


def _fit_network(
    model: CellFM,
    cells: CellInput,
    of: _Reference,
    start: MLPHead | None,
    *,
    method: Literal["frozen", "lora", "full"],
    **options: Any,
) -> _Fitted:
    """Train a head with the network: an MLP from its start, or a new query head."""
    from cellfm.train._classify import train_classifier

    if not of.held_out.any():
        raise InputError(f"method={method!r} needs validation cells; no class has three cells or more.")
    random_state = options["random_state"]
    tuned, weights, history = train_classifier(
        model,
        _tokens(model, cells, of.rows, random_state),
        of.codes,
        of.weight,
        of.held_out,
        len(of.classes),
        head=None if start is None else start.arrays(),
        method=method,
        **options,
    )
    head: Head = QueryHead(weights) if start is None else MLPHead.from_arrays(weights)
    logits, embedding = head.judge(tuned, cells, random_state=random_state)
    return _Fitted(tuned, head, history, logits[of.rows][of.held_out], embedding[of.rows])


def _annotator(
    fitted: _Fitted, of: _Reference, *, method: Method, gene_ids: np.ndarray, random_state: int
) -> Annotator:
    """The annotator, with temperature and thresholds from the validation cells."""
    temperature = fit_temperature(fitted.logits, of.codes[of.held_out])
    n_classes = len(of.classes)
    nearest = Reference.of(fitted.embedding[~of.held_out], of.codes[~of.held_out], n_classes)
    confidence_threshold, distance_threshold = fit_thresholds(
        calibrated(fitted.logits, temperature).max(1), nearest.distance(fitted.embedding[of.held_out])
    )
    logger.info(
        "fitted %d classes to %d cells: temperature %.2f; unknown below confidence %.2f or above distance %.2f.",
        *(n_classes, len(of.codes), temperature, confidence_threshold, distance_threshold),
    )
    annotator = Annotator(
        model=fitted.model,
        classes=of.classes,
        method=method,
        head=fitted.head,
        reference=Reference.of(fitted.embedding, of.codes, n_classes),
        gene_ids=np.unique(gene_ids[gene_ids > 0]),
        history=fitted.history,
        temperature=temperature,
        confidence_threshold=confidence_threshold,
        distance_threshold=distance_threshold,
        n_cells=len(of.codes),
        random_state=random_state,
        selection=fitted.selection,
    )
    if annotator.choice:
        logger.info(annotator.choice)
    return annotator


def _reference(
    labels: np.ndarray,
    known: np.ndarray,
    embedding: np.ndarray,
    validation_fraction: float,
    class_weight: str | None,
    random_state: int,
) -> _Reference:
    embedded = np.isfinite(embedding[:, 0])
    if n_empty := int((known & ~embedded).sum()):
        cells = counted(n_empty, "labelled cell expresses", "labelled cells express")
        warn(f"{cells} no gene that the model knows; left out of the training.")
    rows = np.flatnonzero(known & embedded)
    names = np.asarray(labels, object)[rows].astype(str)
    require_classes(names, "labels")
    classes, codes = np.unique(names, return_inverse=True)
    held_out = hold_out(codes, validation_fraction, random_state=random_state)
    weight = class_weights(codes, len(classes), balanced=class_weight == "balanced")
    return _Reference(rows, codes, tuple(map(str, classes)), embedding[rows], held_out, weight)


def _tokens(model: CellFM, cells: CellInput, rows: np.ndarray, random_state: int) -> TokenBatch:
    """Tokens of the cells in `rows`."""
    indptr, ids, values, depth = [np.zeros(1, np.int64)], [], [], []
    chosen = np.zeros(cells.counts.n_cells, bool)
    chosen[rows] = True
    for span, block in cells.tokens(model.config.max_genes, random_state):
        kept = chosen[span]
        of_kept = np.repeat(kept, block.lengths)
        indptr.append(indptr[-1][-1] + np.cumsum(block.lengths[kept]))
        ids.append(block.gene_ids[of_kept])
        values.append(block.values[of_kept])
        depth.append(np.asarray(block.depth)[kept])
    return TokenBatch(*map(np.concatenate, (indptr, ids, values, depth)))
