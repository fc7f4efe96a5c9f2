"""Fits an annotator: reference cells with labels to a classifier on a model."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

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
from cellfm.tasks.annotation._head import Head, Kind, MLPHead, QueryHead
from cellfm.tasks.annotation._hold_out import class_weights, hold_out
from cellfm.tasks.annotation._labels import require_classes
from cellfm.tasks.annotation._mlp import MLP, N_ITERATIONS, LabelledCells, fit_mlp
from cellfm.tasks.annotation._reject import Reference

Method = Literal["frozen", "lora", "full"]
RATES = {"lora": 1e-3, "full": 3e-4, "frozen": 1e-3}
"""Learning rates of what trains through the network."""
EPOCHS = {"lora": 5, "full": 5, "frozen": 10}
BATCH_SIZE = 64
PATIENCE = 4


@dataclass(frozen=True)
class _Reference:
    """The labelled cells that have an embedding."""

    rows: np.ndarray
    """(n,) int64: which of the given cells they are."""
    kind: np.ndarray
    """(n,) int64: number of the class."""
    classes: tuple[str, ...]
    embedding: np.ndarray
    """(n, d): by the model as it came."""
    held_out: np.ndarray
    """(n,) bool: cells for validation."""
    weight: np.ndarray
    """(n,) float32: how much a cell counts."""

    def cells(self, weight: np.ndarray) -> LabelledCells:
        return LabelledCells(self.embedding, self.kind, weight)


def train_annotator(
    model: CellFM,
    cells: CellInput,
    labels: np.ndarray,
    *,
    method: Method = "frozen",
    head: Kind = "mlp",
    n_layers: int = 1,
    embedding: np.ndarray | None = None,
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
        (n_cells,) str; None or "" where unknown: these cells are left out.
    embedding
        (n_cells, d_model) their embedding by `model`, if it is there already.

    Raises
    ------
    InputError
        An option that is none, fewer than two classes, or a class of one cell.
    """
    check_options(method, head, n_layers, validation_fraction, class_weight, lora_rank)
    known = np.array([label is not None and label != "" for label in labels], bool)
    require_classes(np.asarray(labels, object)[known].astype(str), "labels")
    if embedding is None:
        embedding = embed_cells(model, cells, random_state=random_state)
    of = _reference(labels, known, embedding, validation_fraction, class_weight, random_state)

    train, held_out = ~of.held_out, of.held_out
    tuned = model
    first: MLP | None = None
    if head == "mlp":
        width = model.config.d_model  # also on other features than the model's embedding
        start = MLP.start(of.embedding[train], len(of.classes), n_layers, random_state, width=width)
        validation = of.cells(of.weight * held_out) if held_out.any() else None
        iterations = n_epochs if n_epochs and method == "frozen" else N_ITERATIONS
        first, history = fit_mlp(start, of.cells(of.weight * train), n_iterations=iterations, validation=validation)
    final: Head
    if head == "mlp" and method == "frozen":
        judged, seen = first.logits(of.embedding[held_out]), of.embedding
        # What was held out has done its duty: the head that is kept learns from all cells.
        whole, _ = fit_mlp(
            MLP.start(of.embedding, len(of.classes), n_layers, random_state, width=width),
            of.cells(of.weight),
            n_iterations=iterations,
        )
        final = MLPHead(whole)
    else:
        from cellfm.train._classify import train_classifier

        if not held_out.any():
            raise InputError(f"method={method!r} needs validation cells; no class has three cells or more.")
        tuned, weights, history = train_classifier(
            model,
            _tokens(model, cells, of.rows, random_state),
            of.kind,
            of.weight,
            held_out,
            len(of.classes),
            head=None if first is None else MLPHead(first).arrays(),
            method=method,
            lora_rank=lora_rank,
            n_epochs=n_epochs or EPOCHS[method],
            batch_size=batch_size or BATCH_SIZE,
            learning_rate=learning_rate or RATES[method],
            patience=patience or PATIENCE,
            random_state=random_state,
            backend=backend,
        )
        final = QueryHead(weights) if head == "query" else MLPHead.from_arrays(weights)
        logits, seen = final.judge(tuned, cells, random_state=random_state)
        judged, seen = logits[of.rows][held_out], seen[of.rows]

    temperature = fit_temperature(judged, of.kind[held_out])
    n_classes = len(of.classes)
    near = Reference.of(seen[train], of.kind[train], n_classes).distance(seen[held_out])
    confidence_threshold, distance_threshold = fit_thresholds(calibrated(judged, temperature).max(1), near)
    logger.info(
        "fitted %d classes to %d cells: temperature %.2f; unknown below confidence %.2f or above distance %.2f.",
        *(n_classes, len(of.kind), temperature, confidence_threshold, distance_threshold),
    )
    ids = cells.match.ids
    return Annotator(
        model=tuned,
        classes=of.classes,
        method=method,
        head=final,
        reference=Reference.of(seen, of.kind, n_classes),
        gene_ids=np.unique(ids[ids > 0]),
        history=history,
        temperature=temperature,
        confidence_threshold=confidence_threshold,
        distance_threshold=distance_threshold,
        n_cells=len(of.kind),
        random_state=random_state,
    )


def check_options(
    method: str,
    head: str,
    n_layers: int = 1,
    validation_fraction: float = 0.15,
    class_weight: str | None = "balanced",
    lora_rank: int = 16,
) -> None:
    """Refuse options that are none, before any work.

    Raises
    ------
    InputError
        There are such.
    """
    for name, value, choices in (
        ("method", method, ("frozen", "lora", "full")),
        ("head", head, ("mlp", "query")),
        ("n_layers", n_layers, (1, 2, 3)),
        ("class_weight", class_weight, ("balanced", None)),
    ):
        if value not in choices:
            raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}.")
    if not 0 < validation_fraction < 1:
        raise InputError(f"validation_fraction must be above 0 and below 1, not {validation_fraction}.")
    if lora_rank < 1:
        raise InputError(f"lora_rank must be 1 or more, not {lora_rank}.")


def _reference(
    labels: np.ndarray,
    known: np.ndarray,
    embedding: np.ndarray,
    validation_fraction: float,
    class_weight: str | None,
    random_state: int,
) -> _Reference:
    there = np.isfinite(embedding[:, 0])
    if n_empty := int((known & ~there).sum()):
        said = counted(n_empty, "labelled cell expresses", "labelled cells express")
        warn(f"{said} no gene that the model knows; left out of the training.")
    rows = np.flatnonzero(known & there)
    names = np.asarray(labels, object)[rows].astype(str)
    require_classes(names, "labels")
    classes, kind = np.unique(names, return_inverse=True)
    held_out = hold_out(kind, validation_fraction, random_state=random_state)
    weight = class_weights(kind, len(classes), balanced=class_weight == "balanced")
    return _Reference(rows, kind, tuple(map(str, classes)), embedding[rows], held_out, weight)


def _tokens(model: CellFM, cells: CellInput, rows: np.ndarray, random_state: int) -> TokenBatch:
    """Tokens of some of the cells."""
    indptr, ids, values, depth = [np.zeros(1, np.int64)], [], [], []
    wanted = np.zeros(cells.counts.n_cells, bool)
    wanted[rows] = True
    for span, block in cells.tokens(model.config.max_genes, random_state):
        kept = wanted[span]
        of_kept = np.repeat(kept, block.lengths)
        indptr.append(indptr[-1][-1] + np.cumsum(block.lengths[kept]))
        ids.append(block.gene_ids[of_kept])
        values.append(block.values[of_kept])
        depth.append(block.depth[kept])
    return TokenBatch(*map(np.concatenate, (indptr, ids, values, depth)))
