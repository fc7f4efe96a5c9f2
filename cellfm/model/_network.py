"""The compiled network of a model, in the faster form if there is one."""

from collections.abc import Callable
from typing import Any

import numpy as np

from cellfm.cells.chunk import Chunks
from cellfm.config import ModelConfig
from cellfm.engines import Engine
from cellfm.nn import inference, network
from cellfm.nn.parameters import Weights, merged_weights, n_active_layers
from cellfm.nn.weights import nest
from cellfm.settings import settings

OUTPUTS = ("cell", "tokens", "gene_wise", "cell_wise")


class CompiledNetwork:
    """The network of a model on the device of an engine: chunks in, arrays out, or objects that convert to arrays."""

    def __init__(self, config: ModelConfig, weights: Weights, engine: Engine) -> None:
        self.config, self.engine = config, engine
        self.on_cpu, self.memory_checked = engine.on_cpu, engine.memory_checked
        self.short = inference.has_short_form(config)
        self._n_tokens, self._min_tokens = 0, np.inf
        if self.short:
            arranged = inference.arrange(config, weights, engine.dtype, stack=engine.scans)
            self._weights = engine.place(arranged)
            self._of_cells = inference.for_cells(config, weights, self._weights)
            if self.on_cpu:
                self._min_tokens = inference.tokens_that_pay(
                    config,
                    n_active_layers(config, merged_weights(weights)),
                    bytes_of_a_number=engine.dtype.itemsize,
                    max_gb=settings.folding_gb,
                )
        else:
            self._weights = self._of_cells = engine.place(nest(merged_weights(weights)))
        self._cell: Callable[..., Any] | None = None
        self._outputs: dict[tuple[str, ...], Callable[..., Any]] = {}
        self._attention: dict[int, Callable[..., Any]] = {}
        self._contributions: dict[int, Callable[..., Any]] = {}

    def prepare(self, n_tokens: int) -> None:
        """Precompute tables of the first layer as soon as there are enough tokens to make this faster."""
        self._n_tokens += n_tokens
        if self._min_tokens < self._n_tokens and "tables" not in self._of_cells:
            tables = self.engine.place(self.engine.compile(inference.precompute_tables, self._of_cells)())
            self._of_cells, self._cell = inference.with_tables(self._of_cells, tables), None

    def cell(self, chunks: Chunks) -> Any:
        """CLS alone, (b, d)."""
        if self._cell is None:
            encode, config = inference.encode_cells if self.short else network.embed_cells, self.config

            def of_cells(xp, weights, values, gene_ids, mask, chunk_cell, cls_row):
                return encode(xp, config, weights, values, (gene_ids, mask, chunk_cell, cls_row))

            self._cell = self.engine.compile(of_cells, self._of_cells)
        return self._cell(*arrays_of(chunks))

    def outputs(self, chunks: Chunks, names: tuple[str, ...] = OUTPUTS) -> dict[str, Any]:
        """Some of CLS, all tokens, and the output of both decoders, by name; what nobody asks for is not computed."""
        if names not in self._outputs:
            encode, config = inference.encode_all if self.short else _whole, self.config
            places = tuple(OUTPUTS.index(name) for name in names)

            def of_tokens(xp, weights, values, gene_ids, mask, chunk_cell, cls_row):
                everything = encode(xp, config, weights, values, (gene_ids, mask, chunk_cell, cls_row))
                chosen = ()
                for place in places:
                    chosen = chosen + (everything[place],)  # type: ignore[assignment]  # noqa: RUF005 (jit has no *)
                return chosen

            self._outputs[names] = self.engine.compile(of_tokens, self._weights)
        return dict(zip(names, self._outputs[names](*arrays_of(chunks)), strict=True))

    def attend(self, chunks: Chunks, layer: int) -> tuple[Any, ...]:
        """Queries of CLS (b, d), queries and keys of tokens (c, s, d)."""
        if layer not in self._attention:
            compare, config = (inference if self.short else network).queries_and_keys, self.config

            def of_layer(xp, weights, values, gene_ids, mask, chunk_cell, cls_row):
                return compare(xp, config, weights, values, (gene_ids, mask, chunk_cell, cls_row), layer)

            self._attention[layer] = self.engine.compile(of_layer, self._weights)
        return self._attention[layer](*arrays_of(chunks))

    def contributions(self, chunks: Chunks, directions: np.ndarray, layer: int) -> tuple[Any, Any]:
        """Contributions to CLS of itself (b, m) and of each token (c, s, m) along directions (m, d)."""
        if layer not in self._contributions:
            take, config = (inference if self.short else network).cls_contributions, self.config

            def of_layer(xp, weights, directions, values, gene_ids, mask, chunk_cell, cls_row):
                layout = (gene_ids, mask, chunk_cell, cls_row)
                return take(xp, config, weights, values, layout, directions, layer)

            self._contributions[layer] = self.engine.compile(of_layer, self._weights)
        return self._contributions[layer](directions, *arrays_of(chunks))


def _whole(xp, config, weights, values, layout):
    return network.network(xp, config, weights, values, layout[1], layout)


def arrays_of(chunks: Chunks) -> tuple[np.ndarray, ...]:
    return chunks.values, chunks.gene_ids, chunks.mask, chunks.chunk_cell, chunks.cls_row
