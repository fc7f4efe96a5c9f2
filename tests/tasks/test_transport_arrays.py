"""Spaces, shifts, splits and metrics of transport, against naive ways."""

import numpy as np
import pytest

from cellfm.errors import InputError
from cellfm.tasks.transport._fit import Cells, fit_conditions
from cellfm.tasks.transport._maps import LatentCells, Map, balanced_shift, mean_shift
from cellfm.tasks.transport._metrics import WIDTHS, mmd, most_changed, score_cells
from cellfm.tasks.transport._model import carry
from cellfm.tasks.transport._recipe import Recipe
from cellfm.tasks.transport._spaces import MAX_GENES, fit_space
from cellfm.tasks.transport._split import MIN_CELLS, split_cells

RECIPE = Recipe(n_components=5)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_mmd_is_the_loop_over_pairs():
    x, y = normal(5, 3), normal(4, 3, seed=1)
    median = np.median([((y[i] - y[j]) ** 2).sum() for i in range(4) for j in range(i)])
    found = 0.0
    for width in WIDTHS:

        def k(a, b, width=width):
            return np.exp(-((a - b) ** 2).sum() / (2 * width**2 * median))

        found += np.mean([k(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
        found += np.mean([k(y[i], y[j]) for i in range(4) for j in range(4) if i != j])
        found -= 2 * np.mean([k(a, b) for a in x for b in y])
    assert mmd(x, y) == pytest.approx(found / len(WIDTHS), rel=1e-5)


def test_mmd_is_about_0_for_one_distribution_and_grows_with_the_distance():
    x, y = normal(1200, 5), normal(1100, 5, seed=1)
    assert abs(mmd(x, y)) < 2e-3
    found = [mmd(x + shift, y) for shift in (0.0, 0.5, 1.0, 3.0)]
    assert found == sorted(found)


def test_scores_of_the_truth_are_perfect_and_of_no_change_tell_no_change():
    source, observed = np.abs(normal(60, 80)), np.abs(normal(50, 80, seed=1))
    observed[:, :10] += 2
    best, none = score_cells(observed, observed, source), score_cells(source, observed, source)
    for ending in ("", "_top50"):
        assert (best[f"l2{ending}"], best[f"r2{ending}"]) == (0, 1)
        assert best[f"pearson{ending}"] == pytest.approx(1)
        assert best[f"pearson_change{ending}"] == pytest.approx(1)
        assert none[f"pearson_change{ending}"] == 0
        assert none[f"mmd{ending}"] > best[f"mmd{ending}"]
    assert set(range(10)) <= set(most_changed(source, observed)[:10])


def test_r2_is_that_of_the_means_over_genes():
    from sklearn.metrics import r2_score

    p, o, s = (np.abs(normal(30, 60, seed=seed)) for seed in range(3))
    assert score_cells(p, o, s)["r2"] == pytest.approx(r2_score(o.mean(0), p.mean(0)), rel=1e-4)


def test_the_parts_are_all_cells_once():
    cells = {"a": np.arange(0, 300, 2), "b": np.arange(1, 300, 2)}
    parts = split_cells(cells, None, test_fraction=0.2, random_state=0)
    for name, part in parts.items():
        together = np.concatenate([part.fit, part.validation, part.test])
        assert sorted(together) == sorted(cells[name])
        assert len(part.test) == 30
    again = split_cells(cells, None, test_fraction=0.2, random_state=0)
    assert (again["a"].test == parts["a"].test).all()


def test_a_group_that_is_held_out_is_the_test_and_nothing_else():
    held_out = np.arange(300) < 100
    parts = split_cells({"a": np.arange(0, 300, 2)}, held_out, test_fraction=0.2, random_state=0)["a"]
    assert (parts.test == np.arange(0, 100, 2)).all()
    assert not held_out[parts.train].any()


@pytest.mark.parametrize(("n", "held_out", "part"), [(60, None, "test"), (60, np.arange(60) < 45, "training")])
def test_small_parts_are_refused(n: int, held_out: np.ndarray | None, part: str):
    with pytest.raises(InputError, match=f"of 'a' are left for {part}, and {MIN_CELLS} are needed"):
        split_cells({"a": np.arange(n)}, held_out, test_fraction=0.2, random_state=0)


@pytest.mark.parametrize("kind", ["pca", "genes"])
def test_linear_spaces_decode_what_they_encode_and_never_read_validation(kind):
    values = normal(80, 2) @ normal(2, 30, seed=1) + 3
    held_out = np.arange(80) < 20
    space, _ = fit_space(kind, values, values, held_out, Recipe(n_components=2))
    z = space.encode(values)
    np.testing.assert_allclose(space.decode(z), values, atol=1e-3)
    np.testing.assert_allclose(z[~held_out].mean(0), 0, atol=1e-3)
    assert (z[~held_out] ** 2).mean() == pytest.approx(1, rel=1e-3)
    changed = values.copy()
    changed[held_out] *= 7
    again, _ = fit_space(kind, changed, changed, held_out, Recipe(n_components=2))
    assert all((again.arrays[name] == space.arrays[name]).all() for name in space.arrays)


def test_the_autoencoder_tells_expression_from_embeddings(monkeypatch):
    monkeypatch.setattr("cellfm.tasks.transport._autoencoder.MAX_EPOCHS", 40)
    x = normal(400, 12)
    values = np.maximum(x @ normal(12, 40, seed=1) / 3, 0)
    held_out = np.arange(400) % 5 == 0
    space, history = fit_space("cellfm", x, values, held_out, Recipe(n_components=12))
    error = ((space.decode(space.encode(x)) - values)[held_out] ** 2).mean()
    assert error == pytest.approx(history["validation"].min(), rel=1e-3)
    assert error < 0.3 * values[held_out].var(0).mean()
    assert space.encode(x).shape == (400, 12)
    assert history["validation"].iloc[0] > 2 * history["validation"].min()


def test_too_many_genes_are_refused():
    values = np.ones((5, MAX_GENES + 1), np.float32)
    with pytest.raises(InputError, match="space='genes' takes at most 2,000 genes, found 2,001"):
        fit_space("genes", values, values, np.arange(5) < 1, RECIPE)


def test_the_balanced_shift_counts_each_group_alike():
    x, y = normal(30, 3), normal(24, 3, seed=1)
    of_x, of_y = np.repeat(["a", "b", "c"], 10), np.repeat(["a", "b", "d"], [4, 12, 8])
    source, target = LatentCells(x[:20], x[20:], of_x), LatentCells(y[:20], y[20:], of_y)
    expected = [(y[of_y == g].mean(0) - x[of_x == g].mean(0)) for g in ("a", "b")]
    np.testing.assert_allclose(balanced_shift(source, target), np.mean(expected, 0), rtol=1e-5)
    plain = mean_shift(LatentCells(x[:20], x[20:], None), LatentCells(y[:20], y[20:], None))
    np.testing.assert_allclose(plain, y.mean(0) - x.mean(0), rtol=1e-5)
    with pytest.raises(InputError, match="No group has cells of both"):
        balanced_shift(LatentCells(x, x[:0], np.repeat("a", 30)), LatentCells(y, y[:0], np.repeat("b", 24)))


@pytest.mark.parametrize("decode", ["change", "whole"])
def test_carried_cells_are_not_negative_and_no_change_changes_nothing(decode):
    values = np.abs(normal(50, 20))
    recipe = Recipe(n_components=3, decode=decode)
    space, _ = fit_space("pca", values, values, np.arange(50) < 5, recipe)
    assert (carry(space, Map("identity", {}), values, values, recipe).values == values).all()
    none = carry(space, Map("latent_shift", {"shift": np.zeros(3, np.float32)}), values, values, recipe)
    if decode == "change":
        np.testing.assert_allclose(none.values, values, atol=1e-6)
    else:
        np.testing.assert_allclose(none.values, np.maximum(space.decode(space.encode(values)), 0), atol=1e-6)
    far = carry(space, Map("latent_shift", {"shift": np.full(3, 9, np.float32)}), values, values, recipe)
    assert far.values.min() == 0


def test_test_cells_choose_nothing():
    values = np.abs(normal(400, 20))
    values[200:, :5] += 1
    held_out = np.arange(400) % 4 == 0
    conditions = {"a": np.arange(200), "b": np.arange(200, 400)}
    parts = split_cells(conditions, held_out, test_fraction=0.2, random_state=0)
    other = values.copy()
    other[held_out] = normal(100, 20, seed=3) ** 2
    options = {"method": "mean_shift", "space": "pca", "recipe": RECIPE}
    one, two = (fit_conditions(Cells(v, None, None), parts["a"], parts["b"], **options) for v in (values, other))
    assert all((one.map.arrays[name] == two.map.arrays[name]).all() for name in one.map.arrays)
    assert all((one.space.arrays[name] == two.space.arrays[name]).all() for name in one.space.arrays)
    assert (one.evaluation["l2"] != two.evaluation["l2"]).all()


def test_a_shift_that_is_the_truth_is_found_and_beats_no_change():
    values = np.abs(normal(400, 20)) + 1
    values[200:, :5] += 1
    parts = split_cells({"a": np.arange(200), "b": np.arange(200, 400)}, None, test_fraction=0.2, random_state=0)
    fitted = fit_conditions(
        Cells(values, None, None), parts["a"], parts["b"], method="mean_shift", space="genes", recipe=RECIPE
    )
    table = fitted.evaluation.set_index("method")
    assert list(table.index) == ["mean shift", "identity", "mean change"]
    assert table.loc["mean shift", "pearson_change"] > 0.95
    assert table.loc["mean shift", "l2"] < 0.4 * table.loc["identity", "l2"]
    for metric in ("l2", "r2", "mmd"):  # two names for one thing in this space
        np.testing.assert_allclose(
            table.loc["mean change", metric], table.loc["mean shift", metric], rtol=1e-3, atol=1e-5
        )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_steps": 0}, "n_steps must be 1 or more"),
        ({"n_genes": 1}, "n_genes must be 2 or more"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"start": "mean"}, "start must be 'shift' or 'none'"),
        ({"decode": "half"}, "decode must be 'change' or 'whole'"),
    ],
)
def test_impossible_numbers_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        Recipe(**options)
