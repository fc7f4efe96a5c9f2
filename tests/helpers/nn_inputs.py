"""Random cells, laid out as the functions of `cellfm.nn` take them."""

import dataclasses
from functools import cache

import numpy as np

from cellfm.cells.chunk import Chunks, chunk_cells, depth_values
from cellfm.cells.tokenize import TokenBatch
from cellfm.config import ModelConfig
from cellfm.nn.parameters import initial_weights
from cellfm.train._feed import MicroBatch

CONFIG = ModelConfig(n_layers=2, d_model=24, n_heads=3, n_genes=400, d_value=8, max_genes=300)
OUTPUTS = ("cell", "tokens", "gene_wise", "cell_wise")


def random_weights(config: ModelConfig = CONFIG, seed: int = 3, noise: float = 0.1) -> dict[str, np.ndarray]:
    """Initial weights with noise on all of them, so that none has a value that hides its part."""
    generator = np.random.default_rng(seed)
    weights = initial_weights(config, random_state=seed)
    return {
        name: array if name == "embed.gene" else array + noise * generator.standard_normal(array.shape, np.float32)
        for name, array in weights.items()
    }


def random_tokens(lengths, n_genes: int = 400, *, seed: int = 0, zeros: float = 0.0) -> TokenBatch:
    """Cells of some numbers of genes; of their values a share of `zeros` is 0."""
    generator = np.random.default_rng(seed)
    ids = np.concatenate([generator.permutation(n_genes)[:n] + 1 for n in lengths]).astype(np.int32)
    values = generator.random(len(ids), np.float32) * 4 + 0.1
    values[generator.random(len(ids)) < zeros] = 0
    depth = np.array(lengths, np.float32) * 10
    return TokenBatch(np.concatenate(([0], np.cumsum(lengths))), ids, values, depth)


def laid_out(tokens: TokenBatch, config: ModelConfig = CONFIG, **shape) -> Chunks:
    if config.retention == "decay":
        shape.setdefault("length", config.max_genes + config.n_special)
    if config.depth_tokens:
        shape["specials"] = depth_values(tokens.depth, tokens.depth)
    return chunk_cells(tokens, np.arange(tokens.n_cells), **shape)


def arrays_of(chunks: Chunks, visible: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    """What `of_layout` takes; `visible` is 1 for tokens whose value is shown, by default all."""
    shown = np.ones_like(chunks.mask) if visible is None else chunks.spread(visible, 1)
    return chunks.values, shown, chunks.gene_ids, chunks.mask, chunks.chunk_cell, chunks.cls_row


@cache
def of_layout(function, config: ModelConfig = CONFIG):
    """``function(xp, config, weights, values, visible, layout)`` as a function of the arrays of `arrays_of`."""

    def run(xp, p, values, visible, gene_ids, mask, chunk_cell, cls_row):
        return function(xp, config, p, values, visible, (gene_ids, mask, chunk_cell, cls_row))

    return run


def ragged(outputs, chunks: Chunks, n_cells: int) -> list[np.ndarray]:
    """Outputs of the network without padding: cells, and tokens one after the other."""
    cell, *others = outputs
    return [cell[:n_cells], *(array.reshape(-1, *array.shape[2:])[chunks.token_row] for array in others)]


def micro_batch(tokens: TokenBatch, config: ModelConfig, *, n_slots: int | None = None, **shape) -> MicroBatch:
    """Cells in two views each, of whose values some are asked for and most of these hidden."""
    generator = np.random.default_rng(1)
    n_slots = n_slots or tokens.n_cells
    chunks = laid_out(tokens, config, n_slots=n_slots, **shape)
    target = generator.random(len(tokens.values)) < 0.4
    hidden = target & (generator.random(len(target)) < 0.7)
    n = tokens.n_cells
    partner, kind = np.full(n_slots, -1, np.int32), np.full(n_slots, -2, np.int32)
    partner[:n] = np.roll(np.arange(n), n // 2)
    kind[:n] = np.arange(n) % (n // 2)
    return MicroBatch.of(chunks, ~hidden, target, partner, kind, int(target.sum()), 1.0)


def with_options(**options) -> ModelConfig:
    return dataclasses.replace(CONFIG, **options)
