"""Run the cells of a table through a model in blocks, or use a stored embedding that is still valid."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from anndata import AnnData
from tqdm import tqdm

from cellfm.cells.fingerprint import among, tie
from cellfm.cells.input import CellInput
from cellfm.cells.outputs import run_record
from cellfm.io.logging import logger
from cellfm.io.messages import counted, warn
from cellfm.io.prefetch import prefetch
from cellfm.io.progress import progress
from cellfm.keys import EMBED
from cellfm.model import CellFM
from cellfm.model._embed_dask import client_of, embed_on_workers

_DECIDE = ("weights_sha256", "vocabulary_sha256", "precision", "random_state")
"""Facts in the record of a run that determine the embedding of a cell."""


def embed_cells(
    model: CellFM,
    cells: CellInput,
    *,
    batch_size: int | None = None,
    random_state: int = 0,
) -> np.ndarray:
    """Embeddings of all cells, (n_cells, d_model) float32; NaN for cells without a known gene."""
    return embed_known_cells(model, cells, batch_size=batch_size, random_state=random_state)[0]


def embed_known_cells(
    model: CellFM,
    cells: CellInput,
    *,
    batch_size: int | None = None,
    random_state: int = 0,
    of: slice | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of all cells, or of a span of them, (n_cells, d_model) float32, and their fingerprints, (n_cells,).

    A span that starts at a multiple of `BLOCK_CELLS` has the bits that its cells have among all.
    """
    span = slice(0, cells.counts.n_cells) if of is None else of
    with progress(span.stop - span.start, "embedding", "cells") as bar:
        found = embed_spans(model, cells, [span], batch_size=batch_size, random_state=random_state, bar=bar)
        _, embedding, fingerprints = next(found)
    return embedding, fingerprints


def embed_spans(
    model: CellFM,
    cells: CellInput,
    spans: Sequence[slice],
    *,
    batch_size: int | None,
    random_state: int,
    bar: tqdm,
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Each span of cells, its embeddings and its fingerprints."""
    # What depends on the amount of work depends on all of it, not on what is left: the same bits either way.
    n_tokens = cells.estimate_tokens()
    options: dict[str, Any] = {"batch_size": batch_size, "random_state": random_state}
    if client := client_of(cells):
        blocks = embed_on_workers(client, model, cells, spans, n_tokens=n_tokens, **options)
        yield from _gathered(spans, blocks, model.config.d_model, bar)
        return
    model.prepare(n_tokens)
    for span in spans:
        yield span, *embed_span(model, cells, span, **options, bar=bar)


def _gathered(
    spans: Sequence[slice], blocks: Iterable[tuple[slice, np.ndarray, np.ndarray]], d_model: int, bar: tqdm
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Spans of cells, each as soon as all of its blocks are there, in any order."""
    starts = np.array([span.start for span in spans])
    begun: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    left = [span.stop - span.start for span in spans]
    for block, *found in blocks:
        i = int(np.searchsorted(starts, block.start, side="right")) - 1
        if i not in begun:
            begun[i] = np.empty((left[i], d_model), np.float32), np.empty(left[i], np.uint64)
        for array, part in zip(begun[i], found, strict=True):
            array[block.start - spans[i].start : block.stop - spans[i].start] = part
        bar.update(len(found[0]))
        left[i] -= len(found[0])
        if not left[i]:
            yield spans[i], *begun.pop(i)


def embed_span(
    model: CellFM, cells: CellInput, span: slice, *, batch_size: int | None, random_state: int, bar: tqdm | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Blocks are read and tokenised while the previous one is computed."""
    embedding = np.empty((span.stop - span.start, model.config.d_model), np.float32)
    fingerprints = np.empty(len(embedding), np.uint64)
    for block, tokens, known in prefetch(cells.known_tokens(model.config.max_genes, random_state, of=span)):
        part = slice(block.start - span.start, block.stop - span.start)
        embedding[part] = model.encode(tokens, batch_size=batch_size).cell
        fingerprints[part] = known
        if bar is not None:
            bar.update(tokens.n_cells)
    return embedding, fingerprints


def stored_or_new_embedding(
    adata: AnnData,
    model: CellFM,
    cells: CellInput,
    *,
    key: str = EMBED.obsm,
    batch_size: int | None = None,
    random_state: int = 0,
) -> np.ndarray:
    """The embedding in ``obsm[key]`` if this model would give the same, otherwise a new one; nothing is written.

    It is used if the record of its run names the same model and contains the fingerprint of each cell with its
    embedding, in any order; the record may contain further cells.
    """
    if key in adata.obsm:
        stored = np.asarray(adata.obsm[key])
        reason = _why_not(stored, run_record(adata, key, "obsm"), model, cells, random_state)
        if reason is None:
            logger.info("used the embedding in obsm[%r], which comes from this model.", key)
            return stored
        say = warn if reason.unexpected else logger.info
        say(f"obsm[{key!r}] is not used, and the cells are embedded again: {reason.text}.")
    return embed_cells(model, cells, batch_size=batch_size, random_state=random_state)


@dataclass(frozen=True)
class _Reason:
    """Why a stored embedding is not used."""

    text: str
    unexpected: bool = False
    """Whether the user may expect the stored embedding to be used."""


def _why_not(
    stored: np.ndarray, record: Mapping[str, Any], model: CellFM, cells: CellInput, random_state: int
) -> _Reason | None:
    """Why a stored embedding is not used; None if it is used."""
    wanted = cells.facts(model, random_state)
    if not record:
        return _Reason("no record says what it was made from")
    other = [name for name in wanted if str(record.get(name)) != str(wanted[name])]
    if decisive := [name for name in other if name in _DECIDE and name in record]:
        return _Reason(f"it was made with another {', '.join(decisive)}")
    same_input = not set(other) - {"model", *_DECIDE}
    known = record.get(EMBED.fingerprints)
    if not isinstance(known, np.ndarray) or known.dtype != np.uint64:
        return _Reason("an earlier version of cellfm made it, which kept no fingerprints of its cells", same_input)
    known = np.unique(known)
    n_cells = cells.counts.n_cells
    if stored.shape != (n_cells, model.config.d_model) or stored.dtype != np.float32:
        return _Reason(f"it was changed, and is {stored.dtype} of shape {stored.shape}", same_input)
    n_other = 0
    for span, found in cells.fingerprints():
        n_other += int((~among(tie(found, stored[span]), known)).sum())
        if n_other == span.stop and not same_input:
            return _Reason("it was made from other genes or values")
    if n_other:
        changed = f"{n_other:,} of {counted(n_cells, 'cell')}"
        return _Reason(f"the counts or the embeddings of {changed} have changed since it was made", unexpected=True)
    return None
