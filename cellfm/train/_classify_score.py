"""Apply a trained query head: tokens in, logits and embeddings out."""

from typing import Any

import numpy as np

from cellfm.cells.tokenize import TokenBatch
from cellfm.engines import HEAD, start_engine
from cellfm.model import CellFM
from cellfm.model._encoder import Encoder
from cellfm.model._network import arrays_of
from cellfm.nn.heads import query_head, query_head_config
from cellfm.nn.network import network
from cellfm.nn.parameters import merged_weights
from cellfm.nn.weights import nest


class TokenScorer:
    """Runs a model with a query head over cells, in batches of one shape.

    Parameters
    ----------
    weights
        Those of the head, by flat name.
    batch_size
        Number of cells computed at once; it does not change results.
    """

    def __init__(self, model: CellFM, weights: dict[str, np.ndarray], *, batch_size: int | None = None) -> None:
        engine = start_engine(model.backend, model.precision)
        self.config = config = model.config
        self.batch_size = batch_size
        self.n_classes = len(weights["classes"])
        cross = query_head_config(config)

        def score(xp: Any, p: Any, values: Any, gene_ids: Any, mask: Any, chunk_cell: Any, cls_row: Any) -> Any:
            layout = (gene_ids, mask, chunk_cell, cls_row)
            cell, tokens, _, _ = network(xp, config, p, values, mask, layout)
            of_queries, of_cls = query_head(xp, cross, p["head"], cell, tokens, layout)
            return of_queries, of_cls, cell

        flat = merged_weights(model.weights) | {HEAD + name: array for name, array in weights.items()}
        compiled = engine.compile(score, engine.place(nest(flat)))
        self._score = lambda chunks: compiled(*arrays_of(chunks))
        self.encoder = Encoder(config, engine)

    def __call__(self, tokens: TokenBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Both logits, (n_cells, n_classes), and CLS, (n_cells, d); NaN for cells without tokens."""
        n = tokens.n_cells
        results = [np.empty((n, width), np.float32) for width in (self.n_classes, self.n_classes, self.config.d_model)]
        with self.encoder.clear_memory_errors():
            for cells, _, computed in self.encoder.computed(tokens, self.batch_size, self._score):
                for result, found in zip(results, computed, strict=True):
                    result[cells] = np.asarray(found)[: len(cells)]
        for result in results:
            result[tokens.lengths == 0] = np.nan
        return results[0], results[1], results[2]
