"""scGen's network, trained by pertpy, is read out exactly; skipped where pertpy is not installed."""

import random

import numpy as np
import pytest
from anndata import AnnData

from cellfm.tasks.transport import _scgen
from cellfm.tasks.transport._maps import Map
from cellfm.tasks.transport._model import carry
from cellfm.tasks.transport._recipe import Recipe
from cellfm.tasks.transport._spaces import fit_space

pertpy = pytest.importorskip("pertpy", reason="needs pertpy and scvi-tools: pip install 'cellfm[scgen]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of scvi-tools and Lightning
N, N_GENES = 200, 30


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    generator = np.random.default_rng(0)
    values = generator.poisson(2.0, (N, N_GENES)).astype(np.float32)
    values[N // 2 :, :5] += 6
    return np.log1p(values)


@pytest.fixture
def kept(monkeypatch):
    """The models that pertpy trained."""
    models = []
    real = pertpy.tl.Scgen.train

    def train(self, **options):
        models.append(self)
        return real(self, **options)

    monkeypatch.setattr(pertpy.tl.Scgen, "train", train)
    monkeypatch.setattr(_scgen, "MAX_EPOCHS", 3)
    return models


@pytest.mark.parametrize("recipe", [Recipe(n_components=4, decode="whole")])
def test_predictions_are_those_of_pertpy(values, kept, recipe):
    held_out = np.arange(N) % 5 == 0
    before = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002, the user's own
    space, history = fit_space("scgen", values, values, held_out, recipe)
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert random.getstate() == before[1]
    assert list(history.columns) == ["epoch", "loss", "validation"]
    assert len(history) == 3
    assert np.isfinite(history.to_numpy()).all()
    (model,) = kept
    theirs = model.get_latent_representation(AnnData(values))
    np.testing.assert_allclose(_scgen.encode(space.arrays, values), theirs, atol=1e-4)
    shift = theirs[N // 2 :].mean(0) - theirs[: N // 2].mean(0)
    expected = np.asarray(model.module.as_bound().generative(theirs[:20] + shift)["px"])
    ours = Map("scgen", {"shift": shift / space.arrays["scale"]})
    moved = carry(space, ours, values[:20], values[:20], recipe).values
    np.testing.assert_allclose(moved, np.maximum(expected, 0), atol=1e-4)


def test_the_seed_decides(values, kept):
    spaces = [fit_space("scgen", values, values, np.arange(N) < 40, Recipe(random_state=seed))[0] for seed in (1, 1, 2)]
    one, same, other = (space.arrays["encoder.0.weight"] for space in spaces)
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
