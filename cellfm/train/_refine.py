"""The co-expression start improved by contrast: gene vectors, and the way of CLS through the first layer.

What CLS reads in the first layer is ``sum_g x_g L_g - average``, which costs one sparse product; gate, output, norms
and SGLU follow for CLS alone, so that a step takes a hundredth of one on all tokens. Two views of a cell must be near
each other among the cells of their source; so, half as much, must cells of one type, and cells that are near by the
principal components of their own source. One view is a little thinned; the other is thinned more, and each gene is
caught better or worse in all its cells, as protocols differ. Half of the views see a random panel of the genes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import scipy.sparse as sp

from cellfm.cells.tokenize import TARGET_SUM
from cellfm.config import ModelConfig
from cellfm.engines import Array, Operations, apply
from cellfm.io.progress import progress
from cellfm.nn.eretnet import add
from cellfm.nn.linear import linear
from cellfm.nn.parameters import Weights
from cellfm.nn.weights import nest

N_SOURCES, N_CELLS = 4, 48
"""Sources of a step, and cells of each, with two views each."""
MAX_GENES = 1000
"""Genes of a view; of more a sample is taken, whose values are raised for those that are not in it."""
KEEP_COUNTS = (0.8, 0.3)
"""Least share of the counts that the two views keep, drawn evenly on a log scale."""
CAPTURE = 0.5
"""Largest standard deviation of the log of how well the second view catches a gene."""
WHOLE_PANEL = 0.5
"""Share of the views that keep all genes."""
LEAST_PANEL = 0.1
"""Least share of genes that other views keep, drawn evenly on a log scale."""
TYPE_WEIGHT, COMPONENT_WEIGHT = 1.5, 0.25
COMPONENT_TEMPERATURE = 0.1
TEMPERATURE = 0.3
LEARNING_RATE = 1e-3
"""Of the layer; of a gene's vector as a share of their usual size."""
WARM_UP = 30
MEMORY = 0.99
"""Of the running average of the weights."""
KEPT = 0.5
"""How far the weights go from the start to that average: half-way, neighbours are found as well as at the start, and
types are nearly as compact as at the end (Wortsman 2022)."""
HIDDEN = 1e4
"""Taken from the logits of what a row does not see."""
MIN_GENES = 5
MIN_CELLS = 10
"""Sources with fewer usable cells (small panels, thinned) are passed over in a step."""
LAYER = "backbone.layers.0"
TRAINED = tuple(f"{LAYER}.{name}.weight" for name in ("attention.output", "glu.gate", "glu.value", "glu.output"))


@dataclass(frozen=True)
class SourceCells:
    """Cells of one source: contrast is among these alone."""

    counts: sp.csr_matrix
    """(n_cells, n_genes)."""
    types: np.ndarray
    """(n_cells,) codes, negative where unknown."""
    components: np.ndarray
    """(n_cells, n) unit vectors: principal components of the source."""


@dataclass
class Adam:
    """A weight and its moments, where the rows that a step does not see stay as they are."""

    value: np.ndarray
    size: float
    """What a step of rate 1 changes."""
    by_row: bool = False
    """One second moment a row, so that the direction of its gradient is kept."""

    def __post_init__(self) -> None:
        self.first = np.zeros_like(self.value)
        self.second = np.zeros_like(self.value[..., :1] if self.by_row else self.value)
        self.mean = self.value.copy()

    def __call__(self, gradient: np.ndarray, rate: float, rows: Any = slice(None)) -> None:
        square = gradient**2
        square = square.mean(-1, keepdims=True) if self.by_row else square
        self.first[rows] = 0.9 * self.first[rows] + 0.1 * gradient
        self.second[rows] = 0.97 * self.second[rows] + 0.03 * square
        self.value[rows] -= rate * self.size * self.first[rows] / (np.sqrt(self.second[rows]) + 1e-12)

    def remember(self, step: int) -> None:
        memory = min(MEMORY, step / (step + 10))
        self.mean += (1 - memory) * (self.value - self.mean)


def refine(
    config: ModelConfig,
    weights: Weights,
    components: np.ndarray,
    cls_key: float,
    sources: Sequence[SourceCells],
    n_steps: int,
    random_state: int = 0,
) -> Weights:
    """The weights of a start after some steps of Adam; sources are drawn by the root of their size.

    Parameters
    ----------
    components
        Dimensions of the gene vectors that CLS reads.
    cls_key
        How much CLS, whose vector is less the average cell, counts as a key.
    """
    generator = np.random.default_rng(random_state)
    genes = weights["embed.gene"][:, components]
    usual = float(np.sqrt((genes**2).sum() / max(1, np.any(genes != 0, axis=1).sum())))
    shift = cls_key * weights["embed.cls"].reshape(-1)[components]
    gene = Adam(genes.astype(np.float32), usual, by_row=True)
    average = Adam(shift.astype(np.float32), float(np.abs(shift).mean()))
    layer = {name: Adam(weights[name].astype(np.float32), 1.0) for name in TRAINED}
    fixed = {name: array for name, array in weights.items() if name.startswith(LAYER) and name not in TRAINED}
    fixed["embed.cls"] = weights["embed.cls"]
    gradient = partial(contrast_gradient, config, components)
    shares = np.sqrt([source.counts.shape[0] for source in sources])
    n_sources = min(N_SOURCES, len(sources))
    with progress(n_steps, "refining", "steps") as bar:
        for step in range(1, n_steps + 1):
            chosen = generator.choice(len(sources), n_sources, replace=False, p=shares / shares.sum())
            views = [_draw(sources[i], len(genes), generator) for i in chosen]
            views = [(values, wanted) for values, wanted in views if len(wanted) >= 2 * MIN_CELLS]
            bar.update()
            if not views:
                continue
            values, wanted = sp.vstack([values for values, _ in views]).tocsr(), [wanted for _, wanted in views]
            of_layer, slope = gradient(
                fixed,
                {name: weight.value for name, weight in layer.items()},
                values @ gene.value + average.value,
                wanted,
            )
            rate = LEARNING_RATE * min(step / WARM_UP, 0.5 * (1 + np.cos(np.pi * step / n_steps)))
            seen = np.unique(values.indices)
            gene((values.T @ slope)[seen], rate, seen)
            average(slope.sum(0), rate)
            for name, weight in layer.items():
                weight(of_layer[name], rate)
            for weight in (gene, average, *layer.values()):
                weight.remember(step)
    refined = weights | {name: _between(weights[name], weight.mean) for name, weight in layer.items()}
    refined["embed.gene"], refined["embed.cls"] = weights["embed.gene"].copy(), weights["embed.cls"].copy()
    refined["embed.gene"][:, components] = _between(genes, gene.mean)
    refined["embed.cls"][..., components] = _between(shift, average.mean) / cls_key
    return refined


def _between(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    return (start + KEPT * (end - start)).astype(np.float32)


def first_cls(xp: Operations, config: ModelConfig, weights: Any, read: Array) -> Array:
    """CLS after the first layer, (n, d), by what its heads read, (n, d)."""
    own, cls = weights["backbone"][0], weights["embed"]["cls"].reshape((1, -1))
    heads = xp.rms_norm(read.reshape((-1, config.n_heads, config.d_head))).reshape(read.shape)
    gate = xp.silu(linear(xp, own["attention"]["gate"], cls))
    return add(xp, config, own, cls, linear(xp, own["attention"]["output"], heads * gate))


def contrast_loss(xp: Operations, images: Array, wanted: Array) -> Array:
    """Cross-entropy between `wanted` (n, n) and the softmaxed cosines of `images` (n, d), the mean over rows.

    Rows see those of their source but not themselves; `wanted` is -1 where they do not. Rows without a 1 in all do not
    count.
    """
    seen = xp.float32(wanted >= 0)
    wanted = xp.maximum(wanted, 0.0)
    used = wanted.sum(1)  # 1 or 0
    unit = images * xp.rsqrt((images * images).sum(1, keepdims=True) + 1e-12)
    logits = xp.matmul(unit, unit.T) / TEMPERATURE - HIDDEN * (1 - seen)
    return ((xp.logsumexp(logits) - (wanted * logits).sum(1)) * used).sum() / xp.maximum(used.sum(), 1.0)


def contrast_gradient(
    config: ModelConfig,
    components: np.ndarray,
    fixed: Weights,
    layer: Weights,
    reads: np.ndarray,
    wanted: Sequence[np.ndarray],
) -> tuple[Weights, np.ndarray]:
    """Gradients of the loss by the weights of the layer and by what CLS reads, (n, n_dims)."""
    n_rows = 2 * N_SOURCES * N_CELLS  # steps differ in usable cells and share what was compiled
    read = np.zeros((n_rows, config.d_model), np.float32)
    read[: len(reads), components] = reads
    joined = np.full((n_rows, n_rows), -1, np.float32)
    ends = np.cumsum([0, *map(len, wanted)])
    for block, start, stop in zip(wanted, ends[:-1], ends[1:], strict=True):
        joined[start:stop, start:stop] = block
    of_layer, slope = apply(_gradient_of(config), layer, fixed, read, joined)
    return of_layer, slope[: len(reads), components]


@cache
def _gradient_of(config: ModelConfig) -> Callable[..., Any]:
    """One function a configuration, so that it is compiled once."""

    def gradient(xp: Any, layer: Weights, fixed: Weights, read: Array, wanted: Array) -> Any:
        def loss(of: tuple[Weights, Array]) -> Array:
            return contrast_loss(xp, first_cls(xp, config, nest(fixed | of[0]), of[1]), wanted)

        return xp.gradient(loss)((layer, read))

    return gradient


def _draw(source: SourceCells, n_rows: int, generator: np.random.Generator) -> tuple[sp.csr_matrix, np.ndarray]:
    """Values of two views of some cells, (2 n, n_rows), and how near each view should be to the others, (2 n, 2 n)."""
    cells = generator.permutation(source.counts.shape[0])[:N_CELLS]
    views = [_view(source.counts[cells], i, generator) for i in range(2)]
    usable = np.min([np.diff(view.indptr) for view in views], axis=0) >= MIN_GENES
    values = sp.vstack([view[usable] for view in views]).tocsr()
    values = sp.csr_matrix((values.data, values.indices + 1, values.indptr), (values.shape[0], n_rows))
    return values, _wanted(source, cells[usable])


def _view(counts: sp.csr_matrix, which: int, generator: np.random.Generator) -> sp.csr_matrix:
    """Normalised values of poorer cells, (n_cells, n_genes)."""
    n_cells, n_genes = counts.shape
    kept = np.exp(generator.uniform(np.log(KEEP_COUNTS[which]), 0, n_cells))
    row = np.repeat(np.arange(n_cells), np.diff(counts.indptr))
    data = generator.binomial(counts.data.astype(np.int64), kept[row]).astype(np.float32)
    if generator.random() > WHOLE_PANEL:
        share = np.exp(generator.uniform(np.log(LEAST_PANEL), 0))
        data *= (generator.random(n_genes) < share)[counts.indices]
    if which:
        caught = np.exp(CAPTURE * generator.random() * generator.standard_normal(n_genes))
        data *= caught[counts.indices].astype(np.float32)
    total, n_expressed = (np.bincount(row, weights, n_cells) for weights in (data, data > 0))
    share = np.minimum(1, MAX_GENES / np.maximum(n_expressed, 1))[row]
    values = np.log1p(data * (TARGET_SUM / np.maximum(total, 1e-9))[row]) / share
    values *= generator.random(len(values)) < share
    view = sp.csr_matrix((values.astype(np.float32), counts.indices.copy(), counts.indptr.copy()), counts.shape)
    view.eliminate_zeros()
    return view


def _wanted(source: SourceCells, cells: np.ndarray) -> np.ndarray:
    """Each row sums to 1; the diagonal, which is not seen, is -1."""
    cell = np.tile(np.arange(len(cells)), 2)
    other = ~np.eye(len(cell), dtype=bool)
    wanted = ((cell[:, None] == cell[None]) & other).astype(np.float32)
    kind = np.tile(source.types[cells], 2)
    same = (kind[:, None] == kind[None]) & (kind >= 0)[:, None] & other
    wanted += TYPE_WEIGHT * same / np.maximum(same.sum(1, keepdims=True), 1)
    near = np.tile(source.components[cells], (2, 1))
    near = np.exp((near @ near.T - 1) / COMPONENT_TEMPERATURE) * other
    wanted += COMPONENT_WEIGHT * near / np.maximum(near.sum(1, keepdims=True), 1e-9)
    return wanted / np.maximum(wanted.sum(1, keepdims=True), 1e-9) * other - ~other
