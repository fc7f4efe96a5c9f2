"""The weights in the package are those whose results the documentation reports, and embed cells as they did."""

from pathlib import Path

import numpy as np

import cellfm as cf
from cellfm.cells.tokenize import TokenBatch

EMBEDDED = [
    [-0.0835, -1.2823, -1.5709, -0.0644, 1.3359, -1.0552],
    [0.4502, -0.1932, -0.5516, -1.1766, -0.9586, 0.5193],
    [-0.3664, 0.2078, 0.7613, -0.0597, -0.9672, 0.1532],
]
"""Some dimensions of the cells below, computed on 28 November 2026. After a change of weights, compute them anew."""


def cells() -> TokenBatch:
    lengths = [40, 700, 3000]
    ids = [np.arange(1, 34354, 34353 // n)[:n] for n in lengths]
    values = [np.log1p(1 + (7 * i) % 23).astype(np.float32) for i in ids]
    return TokenBatch(np.r_[0, np.cumsum(lengths)], np.concatenate(ids).astype(np.int32), np.concatenate(values), None)


def test_cells_are_embedded_as_before():
    found = cf.load_model("mini").encode(cells()).cell[:, ::43]
    np.testing.assert_allclose(found, EMBEDDED, atol=2e-3)


def test_the_card_and_the_evaluation_name_the_weights():
    root, short = Path(__file__).parents[2], cf.load_model("mini").weights_hash[:8]
    for page in ("cellfm/models/mini/MODEL_CARD.md", "docs/evaluation/index.md", "benchmarks/mini.md"):
        assert short in (root / page).read_text(), f"{page} is not about the weights {short}"
