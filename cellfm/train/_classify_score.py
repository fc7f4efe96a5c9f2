"""What a trained query head says of cells: tokens in, logits and embeddings out."""

import numpy as np

from cellfm.data import TokenBatch, chunk_cells, depth_values, fill_batches
from cellfm.engines import HEAD, DeviceMemoryError, start_engine
from cellfm.model import CellFM
from cellfm.nn.heads import query_head, query_head_config
from cellfm.nn.network import network
from cellfm.nn.parameters import merged_weights
from cellfm.nn.weights import nest
from cellfm.train._classify_feed import chunk_length, chunks_at_once, chunks_needed


class TokenScorer:
    """Runs a model with a query head over cells, in batches of one shape.

    Parameters
    ----------
    weights
        Those of the head, by flat name.
    batch_size
        Cells computed at once, at most; it changes no result.
    """

    def __init__(self, model: CellFM, weights: dict[str, np.ndarray], *, batch_size: int | None = None) -> None:
        self.engine = engine = start_engine(model.backend, model.precision)
        self.config = config = model.config
        self.batch_size = batch_size
        self.n_chunks = 0
        self.n_classes = len(weights["classes"])
        cross = query_head_config(config)

        def score(xp, p, values, gene_ids, mask, chunk_cell, cls_row):
            layout = (gene_ids, mask, chunk_cell, cls_row)
            cell, tokens, _, _ = network(xp, config, p, values, mask, layout)
            of_queries, of_cls = query_head(xp, cross, p["head"], cell, tokens, layout)
            return of_queries, of_cls, cell

        flat = merged_weights(model.weights) | {HEAD + name: array for name, array in weights.items()}
        self._score = engine.compile(score, engine.place(nest(flat)))

    def __call__(self, tokens: TokenBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Both logits, (n_cells, n_classes), and CLS, (n_cells, d); NaN for cells without tokens."""
        try:
            with self.engine.memory_checked():
                return self._run(tokens)
        except DeviceMemoryError as error:
            raise error.advised(self.n_chunks, chunks_needed(tokens, self.config)) from error

    def _run(self, tokens: TokenBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n = tokens.n_cells
        results = [np.empty((n, width), np.float32) for width in (self.n_classes, self.n_classes, self.config.d_model)]
        self.n_chunks = max(self.n_chunks, chunks_at_once(tokens, self.config, self.batch_size))
        n_slots = min(self.n_chunks, self.batch_size or self.n_chunks)
        length, n_special = chunk_length(self.config), self.config.n_special
        shape = {"n_chunks": self.n_chunks, "n_slots": n_slots, "length": length}
        for cells in fill_batches(tokens.lengths, **shape, n_special=n_special):
            depth = None if tokens.depth is None else tokens.depth[cells]
            specials = depth_values(depth, depth) if self.config.depth_tokens else None
            chunks = chunk_cells(tokens, cells, **shape, specials=specials)
            arrays = (chunks.values, chunks.gene_ids, chunks.mask, chunks.chunk_cell, chunks.cls_row)
            for result, found in zip(results, self._score(*arrays), strict=True):
                result[cells] = np.asarray(found)[: len(cells)]
        for result in results:
            result[tokens.lengths == 0] = np.nan
        return results[0], results[1], results[2]
