"""The compiled network: ragged tokens in, ragged arrays out. The only user of MindSpore outside `nn` and `train`."""

from collections.abc import Callable, Iterator
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from cellfm.config import ModelConfig
from cellfm.data import CHUNK, Chunks, TokenBatch, chunk_cells, chunks_of, depth_values, fill_batches
from cellfm.nn import CellEncoder, CellFMNetwork, Outputs, QueriesAndKeys

# Chunks computed at once. Wide networks are fastest while a layer's temporaries stay near the caches, narrow ones
# need more tokens to be worth a call (benchmarks/README.md).
_WIDE = 512
_CHUNKS_WIDE = 33
_CHUNKS_NARROW = 96
_GENES_OF_A_CELL = 1024  # what a cell is taken to hold when the user asks for a number of cells


class Engine:
    """Runs a network over cells in batches of one shape, compiled once."""

    def __init__(self, config: ModelConfig, network: CellFMNetwork) -> None:
        self.config = config
        self._shapes: set[int] = set()
        self._cells = network
        self._network = _compiled(network)
        self._encoder = _compiled(CellEncoder(network)) if config.is_published_form else None
        self._attention: dict[int, Callable[..., Any]] = {}
        # Decay needs all tokens of a cell in one chunk.
        length = CHUNK if config.retention == "linear" else config.max_genes + config.n_special
        self._cut = {"length": length, "n_special": config.n_special}

    def run(self, batch: TokenBatch, outputs: tuple[str, ...], batch_size: int | None) -> dict[str, np.ndarray]:
        """Compute the named `outputs` for all cells; see `Encoded` for their shapes."""
        results = self._empty(batch, outputs)
        for cells, chunks in self._batches(batch, batch_size):
            if outputs == ("cell",) and self._encoder is not None:
                results["cell"][cells] = self._encode_cells(chunks)[: len(cells)]
            else:
                self._encode_all(chunks, cells, results)
        if "cell" in results:
            results["cell"][batch.lengths == 0] = np.nan
        return results

    def attend(self, batch: TokenBatch, layer: int, batch_size: int | None) -> dict[str, np.ndarray]:
        """Queries and keys of a layer for all cells; see `Attended` for their shapes."""
        if layer not in self._attention:
            self._attention[layer] = _compiled(QueriesAndKeys(self._cells, layer))
        d, n_tokens = self.config.d_model, len(batch.gene_ids)
        results = {"cls_query": (batch.n_cells, d), "query": (n_tokens, d), "key": (n_tokens, d)}
        results = {name: np.empty(shape, np.float32) for name, shape in results.items()}
        for cells, chunks in self._batches(batch, batch_size):
            arrays = (chunks.gene_ids, chunks.values, chunks.mask, chunks.chunk_cell, chunks.cls_row)
            cls_query, query, key = (array.asnumpy() for array in self._attention[layer](*map(ms.Tensor, arrays)))
            results["cls_query"][cells] = cls_query[: len(cells)]
            results["query"][chunks.source] = query.reshape(-1, d)[chunks.token_row]
            results["key"][chunks.source] = key.reshape(-1, d)[chunks.token_row]
        heads = (self.config.n_heads, self.config.d_head)
        return {name: array.reshape(-1, *heads) for name, array in results.items()}

    def _batches(self, batch: TokenBatch, batch_size: int | None) -> Iterator[tuple[np.ndarray, Chunks]]:
        """Cells computed together, and how they lie."""
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
                    specials=depth_values(batch.depth[cells], batch.depth[cells]) if self.config.depth_tokens else None,
                ),
            )

    def _empty(self, batch: TokenBatch, outputs: tuple[str, ...]) -> dict[str, np.ndarray]:
        d, n_tokens = self.config.d_model, len(batch.gene_ids)
        shapes = {"cell": (batch.n_cells, d), "tokens": (n_tokens, d), "gene_wise": n_tokens, "cell_wise": n_tokens}
        return {name: np.empty(shapes[name], np.float32) for name in outputs}

    def _shape(self, batch: TokenBatch, batch_size: int | None) -> tuple[int, int]:
        """Chunks and cells of a batch: fixed by the model and the user, but no more than the cells can fill."""
        needed = chunks_of(batch.lengths, **self._cut)
        if batch_size is None:
            n_chunks = _CHUNKS_WIDE if self.config.d_model >= _WIDE else _CHUNKS_NARROW
        else:
            n_chunks = batch_size * int(chunks_of(np.array(_GENES_OF_A_CELL), **self._cut))
        n_chunks = max(n_chunks, int(needed.max(initial=1)))
        enough = min(n_chunks, 1 << int(max(needed.sum() - 1, 0)).bit_length())  # a power of two: few shapes
        enough = max(enough, int(needed.max(initial=1)))
        # A few cells ride along in a larger shape that is compiled already.
        n_chunks = min((shape for shape in self._shapes if enough <= shape <= n_chunks), default=enough)
        self._shapes.add(n_chunks)
        return n_chunks, min(n_chunks, batch_size or n_chunks)

    def _encode_cells(self, chunks: Chunks) -> np.ndarray:
        arrays = (chunks.gene_ids, chunks.values, chunks.mask, chunks.chunk_cell, chunks.cls_row)
        return self._encoder(*map(ms.Tensor, arrays)).asnumpy()

    def _encode_all(self, chunks: Chunks, cells: np.ndarray, results: dict[str, np.ndarray]) -> None:
        visible = np.ones_like(chunks.mask)
        arrays = (chunks.gene_ids, chunks.values, visible, chunks.mask, chunks.chunk_cell, chunks.cls_row)
        computed = Outputs(*self._network(*map(ms.Tensor, arrays)))
        for name, result in results.items():
            array = getattr(computed, name).asnumpy()
            if name == "cell":
                result[cells] = array[: len(cells)]
            else:
                result[chunks.source] = array.reshape(-1, *array.shape[2:])[chunks.token_row]


def _compiled(cell: nn.Cell) -> Callable[..., Any]:
    """The compiled function of a cell, which itself stays as it is."""

    def forward(*arrays: ms.Tensor) -> Any:
        return cell(*arrays)

    return ms.jit(forward)
