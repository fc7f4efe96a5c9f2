"""Run the network on ragged tokens, in batches of few shapes, with either engine; returns ragged arrays."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from cellfm.cells.chunk import CHUNK, Chunks, chunk_cells, chunks_of, depth_values, fill_batches
from cellfm.cells.tokenize import TokenBatch
from cellfm.config import ModelConfig
from cellfm.engines import DeviceMemoryError
from cellfm.errors import InputError

# Chunks computed at once. On a CPU wide networks are fastest while a layer's temporaries stay near the caches, narrow
# ones need more tokens to be worth a call (benchmarks/README.md).
_WIDE = 512
_CHUNKS_WIDE = 33
_CHUNKS_NARROW = 96
_CHUNKS_ACCELERATOR = 1024
_ROUNDED = 32  # chunks: cells too large for a batch share few shapes, each of which is compiled
_GENES_OF_A_CELL = 1024  # assumed per cell if the user gives a batch size
_IN_FLIGHT = 2
"""Number of batches in computation while the next one is prepared, if the engine does not wait."""


class Encoder:
    """Runs a network over cells in batches of one shape, compiled once.

    `network` is a `CompiledNetwork`, or anything with the methods that are called.
    """

    def __init__(self, config: ModelConfig, network: Any) -> None:
        self.config = config
        self.network = network
        self._shapes: set[int] = set()
        self._expected = 0  # chunks
        self._announced = 0  # tokens for which the network is prepared already
        # Decay needs all tokens of a cell in one chunk.
        length = CHUNK if config.retention == "linear" else config.max_genes + config.n_special
        self._cut = {"length": length, "n_special": config.n_special}
        self.chunks_of_a_cell = int(chunks_of(np.array(_GENES_OF_A_CELL), **self._cut))
        self.n_chunks = 0
        """Number of chunks in the last batch."""

    @contextmanager
    def clear_memory_errors(self) -> Iterator[None]:
        """A block whose error says which batch size should fit if the device runs out of memory."""
        try:
            with self.network.memory_checked():
                yield
        except DeviceMemoryError as error:
            raise error.advised(self.n_chunks, self.chunks_of_a_cell) from error

    def prepare(self, n_tokens: int) -> None:
        """Prepare for a number of tokens, so that the last ones use batches of the same shape and give the same
        bits.
        """
        self.network.prepare(n_tokens)
        self._expected = max(self._expected, n_tokens // self._cut["length"])
        self._announced = 2 * n_tokens  # an estimate, which must not be too low: it decides for all of them

    def run(self, batch: TokenBatch, outputs: tuple[str, ...], batch_size: int | None) -> dict[str, np.ndarray]:
        """Compute the named `outputs` for all cells; see `Encoded` for their shapes."""
        d, n_tokens = self.config.d_model, len(batch.gene_ids)
        shapes: dict[str, int | tuple[int, ...]]
        shapes = {"cell": (batch.n_cells, d), "tokens": (n_tokens, d), "gene_wise": n_tokens, "cell_wise": n_tokens}
        self.network.prepare(max(0, n_tokens - self._announced))
        self._announced = max(0, self._announced - n_tokens)
        results = {name: np.empty(shapes[name], np.float32) for name in outputs}

        def compute(chunks: Chunks) -> dict[str, Any]:
            if outputs == ("cell",):
                return {"cell": self.network.cell(chunks)}
            return self.network.outputs(chunks, outputs)

        for cells, chunks, computed in self.computed(batch, batch_size, compute):
            for name, result in results.items():
                array = np.asarray(computed[name])
                if name == "cell":
                    result[cells] = array[: len(cells)]
                else:
                    result[chunks.source] = array.reshape(-1, *array.shape[2:])[chunks.token_row]
        if "cell" in results:
            results["cell"][batch.lengths == 0] = np.nan
        return results

    def attend(self, batch: TokenBatch, layer: int, batch_size: int | None) -> dict[str, np.ndarray]:
        """Queries and keys of a layer for all cells; see `Attended` for their shapes."""
        d, n_tokens = self.config.d_model, len(batch.gene_ids)
        shapes = {"cls_query": (batch.n_cells, d), "query": (n_tokens, d), "key": (n_tokens, d)}
        results = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}

        def compute(chunks: Chunks) -> tuple[Any, ...]:
            return self.network.attend(chunks, layer)

        for cells, chunks, computed in self.computed(batch, batch_size, compute):
            cls_query, query, key = map(np.asarray, computed)
            results["cls_query"][cells] = cls_query[: len(cells)]
            results["query"][chunks.source] = query.reshape(-1, d)[chunks.token_row]
            results["key"][chunks.source] = key.reshape(-1, d)[chunks.token_row]
        heads = (self.config.n_heads, self.config.d_head)
        return {name: array.reshape(-1, *heads) for name, array in results.items()}

    def contributions(
        self, batch: TokenBatch, directions: np.ndarray, layer: int, batch_size: int | None
    ) -> dict[str, np.ndarray]:
        """Contributions in a layer along directions (m, d); see `Contributions` for the shapes."""
        m = len(directions)
        results = {
            "genes": np.empty((len(batch.gene_ids), m), np.float32),
            "cls": np.empty((batch.n_cells, m), np.float32),
        }

        def compute(chunks: Chunks) -> tuple[Any, Any]:
            return self.network.contributions(chunks, directions, layer)

        for cells, chunks, computed in self.computed(batch, batch_size, compute):
            of_cls, of_tokens = map(np.asarray, computed)
            results["cls"][cells] = of_cls[: len(cells)]
            results["genes"][chunks.source] = of_tokens.reshape(-1, m)[chunks.token_row]
        return results

    def computed(
        self, batch: TokenBatch, batch_size: int | None, compute: Callable[[Chunks], Any]
    ) -> Iterator[tuple[np.ndarray, Chunks, Any]]:
        """Cells of each batch, their chunks, and the outputs."""
        running: deque[tuple[np.ndarray, Chunks, Any]] = deque()
        for cells, chunks in self._batches(batch, batch_size):
            running.append((cells, chunks, compute(chunks)))
            if len(running) > _IN_FLIGHT:
                yield running.popleft()
        yield from running

    def _batches(self, batch: TokenBatch, batch_size: int | None) -> Iterator[tuple[np.ndarray, Chunks]]:
        n_chunks, n_slots = self._shape(batch, batch_size)
        for cells in fill_batches(batch.lengths, n_chunks=n_chunks, n_slots=n_slots, **self._cut):
            yield (
                cells,
                chunk_cells(
                    batch,
                    cells,
                    n_chunks=n_chunks,
                    n_slots=n_slots,
                    length=self._cut["length"],
                    specials=depth_tokens(batch, cells, self.config),
                ),
            )

    def _shape(self, batch: TokenBatch, batch_size: int | None) -> tuple[int, int]:
        """Chunks and cells of a batch: fixed by the model and the user, but no more than the cells can fill."""
        needed = chunks_of(batch.lengths, **self._cut)
        if batch_size is not None:
            n_chunks = batch_size * self.chunks_of_a_cell
        else:
            n_chunks = chunks_on_cpu(self.config) if self.network.on_cpu else _CHUNKS_ACCELERATOR
        if (largest := int(needed.max(initial=1))) > n_chunks:
            n_chunks = -(-largest // _ROUNDED) * _ROUNDED
        enough = min(n_chunks, 1 << int(max(needed.sum() - 1, self._expected, 0)).bit_length())  # a power of two
        # A few cells use a larger shape that has been compiled.
        n_chunks = min((shape for shape in self._shapes if enough <= shape <= n_chunks), default=enough)
        self._shapes.add(n_chunks)
        self.n_chunks = n_chunks
        return n_chunks, min(n_slots_of(n_chunks, needed), batch_size or n_chunks)


def n_slots_of(n_chunks: int, needed: np.ndarray) -> int:
    """Cells in a batch of `n_chunks` chunks: up to four times as many as fit on average, in steps of a factor of two.

    The last layer computes the CLS of every slot, used or not.
    """
    mean = max(2.0, float(needed.mean()) if len(needed) else 0.0)
    return max(1, n_chunks >> (int(mean).bit_length() - 2))


def depth_tokens(batch: TokenBatch, cells: np.ndarray, config: ModelConfig) -> np.ndarray | None:
    """(n, 2) values of the depth tokens of some cells; None for a model without them."""
    if not config.depth_tokens:
        return None
    if batch.depth is None:
        raise InputError("The model reads the depth of cells, which the tokens lack: pass TokenBatch(depth=...).")
    return depth_values(batch.depth[cells], batch.depth[cells])


def chunks_on_cpu(config: ModelConfig) -> int:
    """Chunks computed at once: the fastest number."""
    return _CHUNKS_WIDE if config.d_model >= _WIDE else _CHUNKS_NARROW
