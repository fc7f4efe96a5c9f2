"""Where training may start: weights with which CLS is a centred, expression-weighted sum of gene vectors.

A departure from the paper, for corpora that are too small to learn this from random weights. The first layer of the
network can do what principal components do. With keys that grow with a token's value and values that pass the gene's
vector on, ``K^T V`` is ``sum_g x_g L_g``; CLS is a key too, so it can subtract the average cell; the norm of attention
takes the length. The other layers start closed: with gates of zero they pass tokens through their norms alone, which
takes no time where only CLS is asked for, and training opens them. Everything else starts small and is learned.

Heads are normalised one by one. The first ones hold the leading components, the last ones the rest: kinds of cells that
the corpus does not know, whose leading components say little, are told by the rest all the same.
"""

import numpy as np
import scipy.sparse as sp

from cellfm.cells.tokenize import tokenize
from cellfm.config import ModelConfig, TrainConfig
from cellfm.errors import InputError
from cellfm.nn.parameters import GATES, Weights, initial_weights
from cellfm.train._feed import Cells
from cellfm.train._refine import SourceCells, refine

CELLS_OF_A_SOURCE = 300
"""Training cells of a source that the components are computed from."""
REFINED_CELLS_OF_A_SOURCE = 2000
"""Training cells of a source that their refinement draws from."""
COMPONENTS_OF_A_SOURCE = 30
MIN_PROFILE_CELLS = 3
"""Cells of a type in a source from which its mean expression is taken."""
MIN_PROFILE_GENES = 0.1
"""Share of the genes of all sources that a source must show to say where genes are expressed."""
OFFSET = 0.75
"""How much of the average cell is subtracted from the leading components (their length, the depth, tells T cells);
from the others all of it is."""
LEADING = 3 / 8
"""Share of the width that leading components take, at least: whole heads."""
REST = 0.65
"""Weight of the heads that hold the other components."""
MOST_CELLS = 0.999
"""Genes expressed in more cells than this share count as in so many."""
N_VALUE_DIMS = 16
"""Dimensions of a token that start with its value; the others start with its gene."""
AT_VALUE, AT_GENE, AT_CLS = 0, 1, 2  # places among them: the value, 1 for genes, 1 for CLS
MOST_COMPLETED = 64
"""Components by which missing means are filled in."""
MAX_VALUE = 9.3  # log1p of a whole cell in one gene, just above
SCALE = 0.1  # of tokens, next to what attention adds
CLS_KEY = 300.0  # how much more CLS counts as a key than a gene of value 1; its own vector can be the smaller


def coexpression_start(corpus: Cells, config: ModelConfig, train: TrainConfig) -> Weights:
    """Weights whose CLS output is the principal components of the training cells, each source centred by itself.

    Genes are scaled by :func:`gene_scales`. With `train.profile_dims` the last dimensions say where genes are expressed
    (`profile_loadings`). With `train.refine_steps` gene vectors and the first layer are refined by contrast (see
    `cellfm.train._refine`).
    """
    if not config.is_published_form or config.lora_rank or config.d_model < 2 * N_VALUE_DIMS:
        raise InputError(
            f"start = 'coexpression' needs the published form of the layers, no adapters, and d_model of at least "
            f"{2 * N_VALUE_DIMS}."
        )
    most = config.d_model - N_VALUE_DIMS - _n_leading(config)
    if train.profile_dims > most:
        raise InputError(
            f"profile_dims must be at most {most}, which the leading heads leave free, not {train.profile_dims}."
        )
    random_state = train.random_state
    sources = _cells_by_source(corpus, random_state)
    sets = [_values(corpus, np.sort(cells[:CELLS_OF_A_SOURCE]), config) for cells in sources]
    n_dims = config.d_model - N_VALUE_DIMS - train.profile_dims
    options = {"random_state": random_state, "n_iterations": 4}
    loadings, average = gene_loadings(sets, n_dims, scales=gene_scales(sets), **options)
    average[: _n_leading(config)] *= OFFSET
    profiles = None
    if train.profile_dims:
        shown = [np.sort(cells[:REFINED_CELLS_OF_A_SOURCE]) for cells in sources]
        types = [_types(corpus, cells, train) for cells in shown]
        profiles = profile_loadings([_values(corpus, cells, config) for cells in shown], types, train.profile_dims)
        profiles *= np.sqrt((loadings**2).mean() / max((profiles**2).mean(), 1e-12))
    weights = start_weights(config, loadings, average, profiles=profiles, random_state=random_state)
    if not train.refine_steps:
        return weights
    refined = [_source(corpus, np.sort(cells[:REFINED_CELLS_OF_A_SOURCE]), config, train) for cells in sources]
    weights = open_glu(config, weights, random_state)
    return refine(
        config, weights, component_dims(config, train.profile_dims), CLS_KEY, refined, train.refine_steps, random_state
    )


def _source(corpus: Cells, cells: np.ndarray, config: ModelConfig, train: TrainConfig) -> SourceCells:
    values = _values(corpus, cells, config)
    own, average = gene_loadings([values], COMPONENTS_OF_A_SOURCE, random_state=train.random_state, n_iterations=2)
    components = values @ own - average
    components /= np.maximum(np.linalg.norm(components, axis=1, keepdims=True), 1e-9)
    return SourceCells(corpus.counts(cells), _types(corpus, cells, train), components.astype(np.float32))


def _types(corpus: Cells, cells: np.ndarray, train: TrainConfig) -> np.ndarray:
    known = train.type_column in corpus.columns
    return corpus.codes(train.type_column)[cells] if known else np.full(len(cells), -1)


def _cells_by_source(corpus: Cells, random_state: int) -> list[np.ndarray]:
    generator = np.random.default_rng(random_state)
    train = np.flatnonzero(~corpus.validation)
    sources = corpus.codes("source")[train] if "source" in corpus.columns else np.zeros(len(train), int)
    groups = [train[sources == source] for source in np.unique(sources)]
    return [generator.permutation(cells) for cells in groups]


def _values(corpus: Cells, cells: np.ndarray, config: ModelConfig) -> sp.csr_matrix:
    """Normalised values over the rows of the gene table, (n_cells, n_genes + 1)."""
    ids = np.arange(1, len(corpus.vocab) + 1, dtype=np.int32)
    tokens = tokenize(corpus.counts(cells), ids, max_genes=len(ids))
    shape = (len(cells), config.n_genes + 1)
    return sp.csr_matrix((tokens.values, tokens.gene_ids.astype(np.int64), tokens.indptr), shape)


def gene_scales(sets: list[sp.csr_matrix]) -> np.ndarray:
    """How much each gene counts, (n_genes + 1,): ``(-log share of cells)^(1/4) / (1 + standard deviation)^(1/2)``.

    Share and variance are those within sets, averaged over the sets that show the gene. Genes that most cells express
    count less, and so do those that vary most; genes that no cell shows do not count.
    """
    n_sets, share, variance = np.zeros((3, sets[0].shape[1]))
    for values in sets:
        parts = (values > 0, values, values.multiply(values))
        shown, mean, square = (np.asarray(part.mean(0), float).ravel() for part in parts)
        n_sets += shown > 0
        share += shown
        variance += np.maximum(square - mean**2, 0)
    n_sets = np.maximum(n_sets, 1)
    share = np.minimum(share / n_sets, MOST_CELLS)
    rarity = -np.log(share, out=np.zeros_like(share), where=share > 0)
    return np.sqrt(np.sqrt(rarity) / (1 + np.sqrt(variance / n_sets)))


def gene_loadings(
    sets: list[sp.csr_matrix],
    n_dims: int,
    *,
    scales: np.ndarray | None = None,
    random_state: int = 0,
    n_iterations: int = 8,
) -> tuple[np.ndarray, np.ndarray]:
    """Right singular vectors of the pooled values, (n_genes + 1, n_dims), and the average cell's image, (n_dims,).

    Each gene is centred within each set; a set counts as the root of its number of cells. Randomised block power
    iteration (Halko 2011), with the centring left implicit. Dimensions beyond the number of cells are zero. With
    `scales` (n_genes + 1,) the singular vectors are those of scaled genes, and the loadings scale genes too.
    """
    generator = np.random.default_rng(random_state)
    dtype = sets[0].dtype
    scales = np.ones(sets[0].shape[1], dtype) if scales is None else scales.astype(dtype)
    blocks = []
    for values in sets:
        block = (values @ sp.diags(scales * dtype.type(values.shape[0] ** -0.25))).tocsr()
        blocks.append((block, np.asarray(block.mean(0)).ravel()))

    def forward(right: np.ndarray) -> np.ndarray:
        return np.vstack([block @ right - mean @ right for block, mean in blocks])

    def backward(left: np.ndarray) -> np.ndarray:
        parts = np.split(left, np.cumsum([block.shape[0] for block, _ in blocks])[:-1])
        pairs = zip(blocks, parts, strict=True)
        return sum(block.T @ part - np.outer(mean, part.sum(0)) for (block, mean), part in pairs)

    right = generator.standard_normal((sets[0].shape[1], n_dims + 16)).astype(dtype)
    for _ in range(n_iterations):
        right = np.linalg.qr(backward(np.linalg.qr(forward(right))[0]))[0]
    loadings = right @ np.linalg.svd(forward(right), full_matrices=False)[2].T[:, :n_dims]
    loadings = np.pad(scales[:, None] * loadings, ((0, 0), (0, n_dims - loadings.shape[1])))
    return loadings, _mean_image(sets, loadings)


def _mean_image(sets: list[sp.csr_matrix], loadings: np.ndarray) -> np.ndarray:
    """Image of the average cell, all sets alike, (n_dims,)."""
    return np.mean([np.asarray(values.mean(0)).ravel() @ loadings for values in sets], axis=0)


def profile_loadings(sets: list[sp.csr_matrix], types: list[np.ndarray], n_dims: int) -> np.ndarray:
    """Where and how much genes are expressed: components of genes, (n_genes + 1, n_dims), over mean expression.

    The means are those of each type of each set, on a log scale; all cells without a type count as one. What a set does
    not show of a gene is filled in from the others, by the components themselves.
    """
    n_shown = np.array([values.getnnz(0) > 0 for values in sets])  # (n_sets, n_genes + 1)
    columns = []
    for values, shown, codes in zip(sets, n_shown, types, strict=True):
        if shown.sum() < MIN_PROFILE_GENES * n_shown.any(0).sum():
            continue
        linear = sp.csr_matrix((np.expm1(values.data), values.indices, values.indptr), values.shape)
        for code in np.unique(codes):
            if (codes == code).sum() >= MIN_PROFILE_CELLS:
                mean = np.asarray(linear[codes == code].mean(0)).ravel()
                columns.append(np.where(shown, np.log1p(100 * mean), np.nan))
    expression = np.array(columns, np.float32).T.reshape(sets[0].shape[1], -1)
    loadings = np.zeros((len(expression), n_dims), np.float32)
    genes = np.flatnonzero(np.isfinite(expression).sum(1) > 0)
    if len(genes) and expression.shape[1] >= n_dims:
        loadings[genes] = _completed_components(expression[genes], n_dims)
    return loadings


def _completed_components(table: np.ndarray, n_dims: int, *, n_iterations: int = 3) -> np.ndarray:
    """Components of the rows of a table with missing entries (n_rows, n_dims), by the root of their spread."""
    known = np.isfinite(table)
    spread = np.nanstd(table, axis=0)
    table = (table - np.nanmean(table, axis=0)) / np.maximum(spread, 1e-3)
    filled = np.where(known, table, np.nanmean(table, axis=1, keepdims=True))
    for _ in range(n_iterations):
        axes = np.linalg.eigh(filled.T @ filled)[1][:, ::-1][:, : max(n_dims, MOST_COMPLETED)]
        filled = np.where(known, table, filled @ axes @ axes.T)
    axes = np.linalg.eigh(filled.T @ filled)[1][:, ::-1][:, :n_dims]
    scores = filled @ axes
    return scores / np.sqrt(np.maximum(scores.std(0), 1e-12))


def value_table(slopes: np.ndarray, targets: list) -> np.ndarray:
    """Rows of the table (n_targets, w) with which the value embedding gives `targets` of x, by ridge regression."""
    x = np.linspace(0, MAX_VALUE, 400)
    inner = x[:, None] * slopes[None]
    choice = np.exp(inner - inner.max(1, keepdims=True))
    choice /= choice.sum(1, keepdims=True)
    wanted = np.stack([target(x) for target in targets], axis=1)
    gram = choice.T @ choice + 1e-6 * np.eye(len(slopes))
    return np.linalg.solve(gram, choice.T @ wanted).T


def _n_leading_heads(config: ModelConfig) -> int:
    return min(config.n_heads, int(np.ceil((LEADING * config.d_model + N_VALUE_DIMS) / config.d_head)))


def _n_leading(config: ModelConfig) -> int:
    """Components in the leading heads; the dimensions of the value are there too."""
    return _n_leading_heads(config) * config.d_head - N_VALUE_DIMS


def component_dims(config: ModelConfig, n_profile_dims: int = 0) -> np.ndarray:
    """Dimensions of a token that CLS reads; those of the value lie between the two groups, those of profiles last."""
    n = _n_leading(config)
    return np.r_[:n, n + N_VALUE_DIMS : config.d_model - n_profile_dims]


def open_glu(config: ModelConfig, weights: Weights, random_state: int = 0) -> Weights:
    """The weights with an SGLU of the first layer that adds nothing yet, but is at the size at which it learns."""
    drawn = initial_weights(config, random_state + 1)
    glu = "backbone.layers.0.glu"
    opened = {f"{glu}.{name}.weight": drawn[f"{glu}.{name}.weight"] for name in ("gate", "value")}
    return weights | opened | {f"{glu}.output.weight": np.zeros_like(weights[f"{glu}.output.weight"])}


def start_weights(
    config: ModelConfig,
    loadings: np.ndarray,
    average: np.ndarray,
    *,
    profiles: np.ndarray | None = None,
    noise: float = 0.03,
    random_state: int = 0,
) -> Weights:
    """Weights whose CLS output is ``sum_g x_g L_g - average``, normalised head by head, up to rotations.

    Parameters
    ----------
    loadings
        (n_genes + 1, d_model - 16) gene vectors L, the leading components first.
    average
        (d_model - 16,) what is subtracted.
    profiles
        (n_genes + 1, n) further dimensions of the gene vectors, which CLS does not read; L and the average have so many
        fewer.
    noise
        Scale of the random weights of the backbone next to their usual initial values.
    """
    d, n = config.d_model, _n_leading(config)  # the dimensions of the value begin at n, between the groups of heads
    generator = np.random.default_rng(random_state)
    n_profile_dims = 0 if profiles is None else profiles.shape[1]
    groups = [slice(0, n), slice(n + N_VALUE_DIMS, d - n_profile_dims)]
    vectors, cell = np.zeros((len(loadings), d)), np.zeros(d)
    for group, own, image in zip(groups, np.split(loadings, [n], 1), np.split(average, [n]), strict=True):
        # A rotation gives each head of a group the same share of every component.
        rotation = np.linalg.qr(generator.standard_normal((own.shape[1],) * 2))[0]
        vectors[:, group], cell[group] = own @ rotation, image @ rotation
    if profiles is not None:
        vectors[:, d - n_profile_dims :] = profiles
    size = SCALE / np.sqrt(np.mean(loadings[np.any(loadings != 0, axis=1)] ** 2))
    components = component_dims(config, n_profile_dims)
    weights = {
        name: value if "decoder" in name else value * noise
        for name, value in initial_weights(config, random_state).items()
    }

    weights["embed.gene"] = np.zeros_like(weights["embed.gene"])
    weights["embed.gene"][: len(loadings)] = size * vectors
    weights["embed.gene"][0] = 0  # padding
    cls = -size * cell / CLS_KEY
    cls[n + AT_CLS] = 1
    weights["embed.cls"] = cls.reshape(1, 1, d)

    slopes = np.linspace(-1.5, 1.5, config.d_value)
    weights["embed.value.expand.weight"] = np.where(slopes > 0, slopes, slopes / 0.2)[:, None]
    weights["embed.value.skip"] = np.ones((1, 1))
    weights["embed.value.mix.weight"] = np.zeros_like(weights["embed.value.mix.weight"])  # the table is solved for this
    table = weights["embed.value.table.weight"] = np.zeros((d, config.d_value))
    table[[n + AT_VALUE, n + AT_GENE]] = value_table(slopes, [lambda x: SCALE * x, lambda x: np.full_like(x, SCALE)])

    for i in range(config.n_layers):
        layer = f"backbone.layers.{i}"
        for norm in ("norm1", "norm2"):
            weights[f"{layer}.{norm}.gamma"] = np.ones(d)
            weights[f"{layer}.{norm}.beta"] = np.zeros(d)
        if i:
            weights |= {f"{layer}.{gate}.weight": np.zeros((d, d)) for gate in GATES}
    attention = "backbone.layers.0.attention"
    weights |= {f"{attention}.{name}.weight": np.zeros((d, d)) for name in ("key", "value")}
    weights[f"{attention}.key.weight"][:, n + AT_VALUE] += 1 / SCALE
    weights[f"{attention}.key.weight"][:, n + AT_CLS] += CLS_KEY
    weights[f"{attention}.query.weight"][:, n + AT_CLS] += 1
    weights[f"{attention}.query.weight"][:, n + AT_GENE] += 1 / SCALE
    weights[f"{attention}.value.weight"][components, components] += 1
    weights[f"{attention}.gate.weight"][:, n + AT_CLS] += 2
    weights[f"{attention}.gate.weight"][:, n + AT_GENE] += 0.5
    weights[f"{attention}.output.weight"][components, components] += np.where(components < n, 1, REST)
    return {name: value.astype(np.float32) for name, value in weights.items()}
