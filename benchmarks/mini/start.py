"""Where training starts: weights with which CLS already is a centred, expression-weighted sum of gene vectors.

The first layer of the network can do what principal components do. With keys that grow with a token's value and
values that pass the gene's vector on, ``K^T V`` is ``sum_g x_g L_g``; CLS is a key too, so it can subtract the average
cell; the norm of attention takes the length. Everything else starts small and is learned.
"""

import numpy as np
import scipy.sparse as sp

from cellfm.config import ModelConfig
from cellfm.model._parameters import Weights, initial_weights

N_VALUE_DIMS = 16
"""Dimensions of a token that start with its value; the others start with its gene."""
AT_VALUE, AT_GENE, AT_CLS = 0, 1, 2  # places among them: the value, 1 for genes, 1 for CLS
MAX_VALUE = 9.3  # log1p of a whole cell in one gene, just above
SCALE = 0.1  # of tokens, next to what attention adds
CLS_KEY = 30.0  # how much more CLS counts as a key than a gene of value 1


def gene_loadings(
    sets: list[sp.csr_matrix], n_dims: int, *, max_cells: int, random_state: int = 0, n_iterations: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Right singular vectors of the pooled values, (n_genes + 1, n_dims), and the average cell's image, (n_dims,).

    Each gene is centred within each set; a set counts as the root of its number of cells. Randomised block power
    iteration (Halko 2011), with the centring left implicit.
    """
    generator = np.random.default_rng(random_state)
    blocks = []
    for values in sets:
        kept = np.sort(generator.permutation(values.shape[0])[:max_cells])
        block = (values[kept] * len(kept) ** -0.25).tocsr()
        blocks.append((block, np.asarray(block.mean(0)).ravel()))

    def forward(right: np.ndarray) -> np.ndarray:
        return np.vstack([block @ right - mean @ right for block, mean in blocks])

    def backward(left: np.ndarray) -> np.ndarray:
        parts = np.split(left, np.cumsum([block.shape[0] for block, _ in blocks])[:-1])
        pairs = zip(blocks, parts, strict=True)
        return sum(block.T @ part - np.outer(mean, part.sum(0)) for (block, mean), part in pairs)

    right = generator.standard_normal((sets[0].shape[1], n_dims + 16))
    for _ in range(n_iterations):
        right = np.linalg.qr(backward(np.linalg.qr(forward(right))[0]))[0]
    loadings = right @ np.linalg.svd(forward(right), full_matrices=False)[2].T[:, :n_dims]
    average = np.mean([np.asarray(values.mean(0)).ravel() @ loadings for values in sets], axis=0)
    return loadings, average


def value_table(slopes: np.ndarray, targets: list) -> np.ndarray:
    """Rows of the table (n_targets, w) with which the value embedding gives `targets` of x, by ridge regression."""
    x = np.linspace(0, MAX_VALUE, 400)
    inner = x[:, None] * slopes[None]
    choice = np.exp(inner - inner.max(1, keepdims=True))
    choice /= choice.sum(1, keepdims=True)
    wanted = np.stack([target(x) for target in targets], axis=1)
    gram = choice.T @ choice + 1e-6 * np.eye(len(slopes))
    return np.linalg.solve(gram, choice.T @ wanted).T


def start_weights(
    config: ModelConfig, loadings: np.ndarray, average: np.ndarray, *, noise: float = 0.1, random_state: int = 0
) -> Weights:
    """Weights whose CLS output is ``sum_g x_g L_g - average``, normalised, up to a rotation.

    Parameters
    ----------
    loadings
        (n_genes + 1, d_model - 16) gene vectors L.
    average
        (d_model - 16,) what is subtracted.
    noise
        Scale of the random weights of the backbone next to their usual initial values.
    """
    d = config.d_model
    n = d - N_VALUE_DIMS
    generator = np.random.default_rng(random_state)
    # Heads are normalised one by one: a rotation gives each the same share of every component.
    rotation = np.linalg.qr(generator.standard_normal((n, n)))[0]
    size = SCALE / np.sqrt(np.mean(loadings[np.any(loadings != 0, axis=1)] ** 2))
    weights = {
        name: value if "decoder" in name else value * noise
        for name, value in initial_weights(config, random_state).items()
    }

    weights["embed.gene"] = np.zeros_like(weights["embed.gene"])
    weights["embed.gene"][: len(loadings), :n] = size * loadings @ rotation
    cls = np.zeros(d)
    cls[:n] = -size * average @ rotation / CLS_KEY
    cls[n + AT_CLS] = 1
    weights["embed.cls"] = cls.reshape(1, 1, d)

    slopes = np.linspace(-1.5, 1.5, config.d_value)
    weights["embed.value.expand.weight"] = np.where(slopes > 0, slopes, slopes / 0.2)[:, None]
    weights["embed.value.skip"] = np.ones((1, 1))
    table = weights["embed.value.table.weight"]
    table[[n + AT_VALUE, n + AT_GENE]] = value_table(slopes, [lambda x: SCALE * x, lambda x: np.full_like(x, SCALE)])

    for i in range(config.n_layers):
        layer = f"backbone.layers.{i}"
        for norm in ("norm1", "norm2"):
            weights[f"{layer}.{norm}.gamma"] = np.ones(d)
            weights[f"{layer}.{norm}.beta"] = np.zeros(d)
    attention = "backbone.layers.0.attention"
    weights[f"{attention}.key.weight"][:, n + AT_VALUE] += 1 / SCALE
    weights[f"{attention}.key.weight"][:, n + AT_CLS] += CLS_KEY
    weights[f"{attention}.query.weight"][:, n + AT_CLS] += 1
    weights[f"{attention}.query.weight"][:, n + AT_GENE] += 1 / SCALE
    weights[f"{attention}.value.weight"][np.arange(n), np.arange(n)] += 1
    weights[f"{attention}.gate.weight"][:, n + AT_CLS] += 2
    weights[f"{attention}.gate.weight"][:, n + AT_GENE] += 0.5
    weights[f"{attention}.output.weight"][np.arange(n), np.arange(n)] += 1
    return {name: value.astype(np.float32) for name, value in weights.items()}
