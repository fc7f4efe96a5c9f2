"""Random models and cells of a given size: what the speed of the package is measured on."""

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellfm.config import ModelConfig
from cellfm.genes.vocabulary import Vocabulary
from cellfm.model import CellFM

N_GENES = 20_000


def random_model(d_model: int, n_heads: int, n_layers: int = 2, d_value: int = 256) -> CellFM:
    """A model with random weights over 20,000 genes."""
    vocab = Vocabulary(pd.DataFrame({"symbol": [f"GENE{i}" for i in range(N_GENES)]}))
    return CellFM(ModelConfig(n_layers, d_model, n_heads, N_GENES, d_value=d_value), vocab)


def random_counts(n_cells: int, genes_per_cell: float = 1000, spread: float = 0.5, seed: int = 0) -> sp.csr_matrix:
    """Counts whose genes per cell are log-normal around `genes_per_cell`, between 200 and 2048."""
    generator = np.random.default_rng(seed)
    lengths = np.clip(genes_per_cell * generator.lognormal(0, spread, n_cells), 200, 2048).astype(int)
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    indices = np.concatenate([np.sort(generator.choice(N_GENES, n, replace=False)) for n in lengths])
    counts = generator.geometric(0.4, indptr[-1]).astype(np.float32)
    return sp.csr_matrix((counts, indices.astype(np.int32), indptr), (n_cells, N_GENES))
