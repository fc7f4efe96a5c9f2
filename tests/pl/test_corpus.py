"""`cf.pl.corpus`: bars and histograms show the cells of the corpus."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

import cellfm as cf
from cellfm.errors import CheckpointError, InputError, MissingKeyError
from cellfm.train import write_shards


@pytest.fixture
def corpus(tiny_adata, tiny_vocab, tmp_path):
    tiny_adata.obs["tissue"] = ["lung"] * 25 + ["blood"] * 10 + [None] * 5
    tiny_adata.obs["cell_type"] = [f"type {i // 4}" for i in range(40)]
    yield write_shards([tiny_adata[:30].copy(), tiny_adata[30:].copy()], tmp_path / "corpus", model=tiny_vocab)
    plt.close("all")


def bars(axis) -> dict[str, int]:
    labels = [label.get_text() for label in axis.get_yticklabels()]
    return dict(zip(labels, [int(bar.get_width()) for bar in axis.patches], strict=True))


def test_bars_are_numbers_of_cells(corpus):
    axes = cf.pl.corpus(corpus, show=False)
    assert [axis.get_title() for axis in axes[:3]] == ["source", "tissue", "cell type"]
    assert bars(axes[0]) == {"input 1": 30, "input 2": 10}
    assert bars(axes[1]) == {"lung": 25, "blood": 10, "not given": 5}
    for axis in axes[3:]:
        assert sum(bar.get_height() for bar in axis.patches) == 40
    assert f"{np.median(corpus.lengths):.0f}" in axes[3].get_title()


def test_rare_values_share_a_bar(corpus):
    (axis, *_) = cf.pl.corpus(corpus.path, columns=["cell_type"], max_bars=4, show=False)
    assert bars(axis) == {"type 0": 4, "type 1": 4, "type 2": 4, "7 others": 28}


def test_saving_and_what_is_missing(corpus, tmp_path):
    cf.pl.corpus(corpus, save=tmp_path / "corpus.png")
    assert (tmp_path / "corpus.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(MissingKeyError, match="'organ'; available: .*tissue"):
        cf.pl.corpus(corpus, columns=["organ"])
    with pytest.raises(InputError, match="max_bars"):
        cf.pl.corpus(corpus, max_bars=1)
    with pytest.raises(CheckpointError, match="is not a corpus"):
        cf.pl.corpus(tmp_path)
