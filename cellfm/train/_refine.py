"""Gene vectors improved by contrast before there is a network: a cell is the sum of its genes, nothing more.

The image of a cell is ``sum_g x_g L_g - average``. Two poorer views of a cell (a little fewer counts, fewer genes) must
be near each other among the cells of their source; so, half as much, must cells of one type, and cells that are near by
the principal components of their own source. A thousandth of the cost of the same losses on a network.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from cellfm.cells.tokenize import TokenBatch, tokenize
from cellfm.engines import apply

N_CELLS = 192
"""Cells of a step, each with two views."""
MAX_GENES = 2000
KEEP_COUNTS = (0.8, 1.0)
"""Share of the counts that a view keeps, drawn evenly; less would teach that depth, which tells T cells, is nothing."""
WHOLE_PANEL = 0.5
"""Share of the views that keep all genes."""
LEAST_PANEL = 0.1
"""Least share of genes that other views keep, drawn evenly on a log scale."""
TYPE_WEIGHT, COMPONENT_WEIGHT = 0.5, 0.5
COMPONENT_TEMPERATURE = 0.1
TEMPERATURE = 0.2
LEARNING_RATE = 0.005
"""Largest change of a gene's vector in a step, as a share of their usual size."""
WARM_UP = 30
HIDDEN = 1e4
"""Taken from the logits of what a row does not see."""
MIN_GENES = 5
MIN_CELLS = 10
"""Steps with fewer usable cells (small panels, thinned) are passed over."""


@dataclass(frozen=True)
class SourceCells:
    """Cells of one source: contrast is among these alone."""

    counts: sp.csr_matrix
    """(n_cells, n_genes)."""
    types: np.ndarray
    """(n_cells,) codes, negative where unknown."""
    components: np.ndarray
    """(n_cells, n) unit vectors: principal components of the source."""


def refine_loadings(
    sources: list[SourceCells], loadings: np.ndarray, average: np.ndarray, n_steps: int, random_state: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Loadings (n_genes + 1, n_dims) and average (n_dims,) after some steps of Adam, each on cells of one source.

    Genes that a step does not see stay as they are; the second moment of Adam is one number a gene, so that the
    direction of its gradient is kept. Sources are drawn by the root of their size.
    """
    generator = np.random.default_rng(random_state)
    loadings, average = loadings.astype(np.float32), average.astype(np.float32)
    size = np.sqrt((loadings**2).sum() / max(1, np.any(loadings != 0, axis=1).sum()))
    average_size = np.abs(average).mean()
    first, second = np.zeros_like(loadings), np.zeros(len(loadings), np.float32)
    first_average, second_average = np.zeros_like(average), 0.0
    shares = np.sqrt([source.counts.shape[0] for source in sources])
    for step in range(1, n_steps + 1):
        source = sources[generator.choice(len(sources), p=shares / shares.sum())]
        values, wanted = _draw(source, len(loadings), generator)
        if values.shape[0] < 2 * MIN_CELLS:
            continue
        gradient = contrast_gradient(values @ loadings - average, wanted)
        rate = LEARNING_RATE * min(step / WARM_UP, 0.5 * (1 + np.cos(np.pi * step / n_steps)))
        seen = np.unique(values.indices)
        change = (values.T @ gradient)[seen]
        first[seen] = 0.9 * first[seen] + 0.1 * change
        second[seen] = 0.95 * second[seen] + 0.05 * (change**2).mean(1)
        loadings[seen] -= rate * size * first[seen] / (np.sqrt(second[seen])[:, None] + 1e-9)
        change = -gradient.sum(0)
        first_average = 0.9 * first_average + 0.1 * change
        second_average = 0.95 * second_average + 0.05 * (change**2).mean()
        average -= rate * average_size * first_average / np.sqrt(second_average + 1e-20)
    return loadings, average


def contrast_gradient(images: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Gradient of `contrast_loss` by `images`, (n, n_dims)."""
    n_more = max(0, 2 * N_CELLS - len(images))  # steps differ in usable cells and share what was compiled
    padded = np.pad(images, ((0, n_more), (0, 0))), np.pad(wanted, ((0, n_more), (0, n_more)))
    return apply(_gradient, *(array.astype(np.float32) for array in padded))[: len(images)]


def contrast_loss(xp: Any, images: Any, wanted: Any) -> Any:
    """Cross-entropy between `wanted` (n, n) and the softmaxed cosines of `images` (n, n_dims), the mean over rows.

    A row does not see itself, and none sees rows that are empty in `wanted`.
    """
    used = wanted.sum(1)  # 1 or 0
    unit = images / ((images**2).sum(1, keepdims=True) + 1e-12) ** 0.5
    hidden = xp.maximum(np.eye(len(images), dtype=np.float32), 1 - used)
    logits = unit @ unit.T / TEMPERATURE - HIDDEN * hidden
    return ((xp.logsumexp(logits) - (wanted * logits).sum(1)) * used).sum() / used.sum()


def _gradient(xp: Any, images: Any, wanted: Any) -> Any:
    return xp.gradient(lambda images: contrast_loss(xp, images, wanted))(images)


def _draw(source: SourceCells, n_rows: int, generator: np.random.Generator) -> tuple[sp.csr_matrix, np.ndarray]:
    """Values of two views of some cells, (2 n, n_rows), and how near each view should be to the others, (2 n, 2 n)."""
    cells = generator.permutation(source.counts.shape[0])[:N_CELLS]
    views = [_view(source.counts[cells], generator) for _ in range(2)]
    usable = np.minimum(views[0].lengths, views[1].lengths) >= MIN_GENES
    values = sp.vstack([_values(view, n_rows)[usable] for view in views]).tocsr()
    return values, _wanted(source, cells[usable])


def _view(counts: sp.csr_matrix, generator: np.random.Generator) -> TokenBatch:
    kept = np.repeat(generator.uniform(*KEEP_COUNTS, counts.shape[0]), np.diff(counts.indptr))
    data = generator.binomial(counts.data.astype(np.int64), kept).astype(np.float32)
    share = 1.0 if generator.random() < WHOLE_PANEL else np.exp(generator.uniform(np.log(LEAST_PANEL), 0))
    panel = generator.random(counts.shape[1]) < share
    ids = np.where(panel, np.arange(1, counts.shape[1] + 1), 0).astype(np.int32)
    thinned = sp.csr_matrix((data * panel[counts.indices], counts.indices, counts.indptr), counts.shape)
    return tokenize(thinned, ids, max_genes=MAX_GENES, random_state=int(generator.integers(2**31)))


def _values(tokens: TokenBatch, n_rows: int) -> sp.csr_matrix:
    return sp.csr_matrix((tokens.values, tokens.gene_ids.astype(np.int64), tokens.indptr), (tokens.n_cells, n_rows))


def _wanted(source: SourceCells, cells: np.ndarray) -> np.ndarray:
    """Each row sums to 1, the diagonal is 0."""
    cell = np.tile(np.arange(len(cells)), 2)
    other = ~np.eye(len(cell), dtype=bool)
    wanted = ((cell[:, None] == cell[None]) & other).astype(np.float32)
    kind = np.tile(source.types[cells], 2)
    same = (kind[:, None] == kind[None]) & (kind >= 0)[:, None] & other
    wanted += TYPE_WEIGHT * same / np.maximum(same.sum(1, keepdims=True), 1)
    near = np.tile(source.components[cells], (2, 1))
    near = np.exp((near @ near.T - 1) / COMPONENT_TEMPERATURE) * other
    wanted += COMPONENT_WEIGHT * near / np.maximum(near.sum(1, keepdims=True), 1e-9)
    return wanted / np.maximum(wanted.sum(1, keepdims=True), 1e-9)
