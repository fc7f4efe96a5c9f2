"""What a trained `QueryHead` says of cells: tokens in, logits and embeddings out."""

import mindspore as ms
import numpy as np
from mindspore import nn

from cellfm.data import TokenBatch, chunk_cells, depth_values, fill_batches
from cellfm.model import CellFM
from cellfm.nn import CellFMNetwork, QueryHead, build_network, computing, set_head, use_device
from cellfm.train._classify_feed import chunk_length, chunks_needed, default_chunks


class _Judge(nn.Cell):
    def __init__(self, network: CellFMNetwork, head: QueryHead) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.head = head

    def construct(self, gene_ids, values, mask, chunk_cell, cls_row) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
        cell, tokens, _, _ = self.network(gene_ids, values, mask, mask, chunk_cell, cls_row)
        of_queries, of_cls = self.head(cell, tokens, (gene_ids, mask, chunk_cell, cls_row))
        return of_queries, of_cls, cell


class TokenScorer:
    """Runs a model with a `QueryHead` over cells, in batches of one shape.

    Parameters
    ----------
    weights
        Those of the head, by parameter name.
    batch_size
        Cells computed at once, at most; it changes no result.
    """

    def __init__(self, model: CellFM, weights: dict[str, np.ndarray], *, batch_size: int | None = None) -> None:
        use_device()
        self.config = model.config
        self.batch_size = batch_size
        self.n_chunks = default_chunks(model.config)
        self.n_classes = len(weights["classes"])
        head = QueryHead(model.config, self.n_classes)
        set_head(head, weights)
        judge = _Judge(build_network(model.config, model.weights), head).set_train(False)

        def forward(*arrays: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor, ms.Tensor]:
            return judge(*arrays)

        self._forward = ms.jit(forward)

    @computing()
    def __call__(self, tokens: TokenBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Both logits, (n_cells, n_classes), and CLS, (n_cells, d); NaN for cells without tokens."""
        n = tokens.n_cells
        results = [np.empty((n, width), np.float32) for width in (self.n_classes, self.n_classes, self.config.d_model)]
        self.n_chunks = max(self.n_chunks, chunks_needed(tokens, self.config))
        n_slots = min(self.n_chunks, self.batch_size or self.n_chunks)
        length, n_special = chunk_length(self.config), self.config.n_special
        shape = {"n_chunks": self.n_chunks, "n_slots": n_slots, "length": length}
        for cells in fill_batches(tokens.lengths, **shape, n_special=n_special):
            depth = None if tokens.depth is None else tokens.depth[cells]
            specials = depth_values(depth, depth) if self.config.depth_tokens else None
            chunks = chunk_cells(tokens, cells, **shape, specials=specials)
            arrays = (chunks.gene_ids, chunks.values, chunks.mask, chunks.chunk_cell, chunks.cls_row)
            for result, found in zip(results, self._forward(*map(ms.Tensor, arrays)), strict=True):
                result[cells] = found.asnumpy()[: len(cells)]
        for result in results:
            result[tokens.lengths == 0] = np.nan
        return results[0], results[1], results[2]
