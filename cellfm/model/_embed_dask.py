"""Embed cells of a Dask array on the workers of the user's cluster."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cellfm.cells.blocks import Block, stacked
from cellfm.cells.input import CellInput
from cellfm.cells.matrix import BLOCK_CELLS, Matrix
from cellfm.errors import InputError
from cellfm.io.messages import reason_of
from cellfm.model import CellFM

_PREPARING = threading.Lock()


@dataclass
class Work:
    """What a worker gets once: the model, and all about the cells but their values."""

    model: CellFM
    cells: CellInput
    n_tokens: int
    """Of all cells."""
    options: dict[str, Any]
    """`batch_size` and `random_state`."""
    prepared: bool = False

    def embed(self, span: slice, counts: list[list[Any]], values: list[list[Any]] | None) -> tuple[Any, Any]:
        """Embeddings of a span of cells from chunks of their counts, and of the user's values, and fingerprints."""
        from cellfm.model._embed import embed_span

        with _PREPARING:
            if not self.prepared:
                self.model.prepare(self.n_tokens)
                self.prepared = True
        own = None if self.cells.values is None else _placed(self.cells.values, span, values or [])
        cells = replace(self.cells, counts=_placed(self.cells.counts, span, counts), values=own)
        return embed_span(self.model, cells, span, **self.options)


def client_of(cells: CellInput) -> Any:
    """The client of the user's cluster, if the cells are in a dask array and dask computes on a cluster."""
    if not cells.counts.in_dask:
        return None
    from dask.base import get_scheduler

    owner = getattr(get_scheduler(), "__self__", None)  # of distributed.Client.get
    return owner if hasattr(owner, "scatter") else None


def embed_on_workers(
    client: Any, model: CellFM, cells: CellInput, spans: Sequence[slice], *, n_tokens: int, **options: Any
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Embeddings and fingerprints of blocks of cells, as they become ready."""
    import dask
    from distributed import CancelledError, KilledWorker, as_completed

    if not spans:
        return
    own = None if cells.values is None else _without_values(cells.values)
    work = Work(model, replace(cells, counts=_without_values(cells.counts), values=own), n_tokens, options)
    held = client.scatter(work, broadcast=True, hash=False)
    embed = dask.delayed(_embed, pure=False)
    blocks = [
        slice(start, min(start + BLOCK_CELLS, span.stop))
        for span in spans
        for start in range(span.start, span.stop, BLOCK_CELLS)
    ]
    tasks = [
        embed(held, block, *(_delayed(matrix, block) for matrix in (cells.counts, cells.values))) for block in blocks
    ]
    waiting = dict(zip(client.compute(tasks), blocks, strict=True))
    try:
        for future, found in as_completed(list(waiting), with_results=True):
            yield waiting.pop(future), *found
    except (KilledWorker, CancelledError) as error:
        raise InputError(
            f"The workers of the cluster died while they embedded cells ({reason_of(error)}). Give them more memory, "
            "or pass a smaller batch_size=; with checkpoint= the same call continues from the finished cells."
        ) from error
    finally:
        client.cancel(list(waiting))


def _embed(work: Work, *args: Any) -> tuple[Any, Any]:
    return work.embed(*args)


def _without_values(matrix: Matrix) -> Matrix:
    return matrix.with_values(np.empty((0, 0)))


def _delayed(matrix: Matrix | None, rows: slice) -> list[list[Any]] | None:
    if matrix is None:
        return None
    return matrix.values.delayed(rows) if matrix.in_dask else [[matrix.values[rows]]]


def _placed(matrix: Matrix, span: slice, chunks: list[list[Any]]) -> Matrix:
    rows = stacked(chunks, matrix.name)
    return matrix.with_values(Block(rows, span.start, (span.stop, rows.shape[1])))
