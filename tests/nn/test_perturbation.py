"""The network of perturbations: shapes, symmetry, gradients, and normalisation that is not that of the batch in use."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from cellfm.nn import PerturbationNetwork, draw_head, head_weights, set_head, set_spread, silence
from cellfm.nn._perturbation import BatchNorm, Neighbours

N_GENES, N_PERTURBABLE, K = 11, 7, 3


def graph(n: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(n)
    weights = generator.random((n, K)).astype(np.float32)
    return generator.integers(n, size=(n, K)), weights / weights.sum(1, keepdims=True)


def network(given: bool = True, **options) -> PerturbationNetwork:
    generator = np.random.default_rng(0)
    vectors = {"genes": (N_GENES, 5), "perturbations": (N_PERTURBABLE, 4)}
    own = {name: generator.standard_normal(shape) if given else None for name, shape in vectors.items()}
    built = PerturbationNetwork(graph(N_GENES), graph(N_PERTURBABLE), width=8, **own, **options)
    draw_head(built, random_state=1)
    return built


PERTURBED = np.array([[0, 3], [3, 0], [2, 0], [5, 6]], np.int32)
PRESENT = np.array([[1, 1], [1, 1], [1, 0], [1, 1]], np.float32)


def run(built: nn.Cell, rows: slice = slice(None), perturbed: np.ndarray = PERTURBED) -> list[np.ndarray]:
    return [part.asnumpy() for part in built(ms.Tensor(perturbed[rows]), ms.Tensor(PRESENT[rows]))]


def trained_a_little(given: bool = True, **options) -> PerturbationNetwork:
    built = network(given, **options).set_train(True)
    for _ in range(3):
        run(built)
    return built.set_train(False)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("uncertainty", [True, False])
def test_every_gene_of_every_condition_gets_a_change_and_a_variance(given, uncertainty):
    change, log_variance = run(trained_a_little(given, uncertainty=uncertainty))
    assert change.shape == log_variance.shape == (4, N_GENES)
    assert np.abs(change).max() > 0
    assert bool(log_variance.any()) == uncertainty


@pytest.mark.parametrize("given", [True, False])
def test_the_order_of_two_genes_and_what_stands_beside_a_single_one_do_not_matter(given):
    built = trained_a_little(given)
    change = run(built)[0]
    np.testing.assert_allclose(change[0], change[1], atol=1e-5)
    other = PERTURBED.copy()
    other[2, 1] = 6
    np.testing.assert_allclose(run(built, perturbed=other)[0][2], change[2], atol=1e-6)


def test_in_use_the_prediction_does_not_depend_on_the_others_of_the_batch():
    built = trained_a_little()
    np.testing.assert_allclose(run(built, slice(2, 3))[0], run(built)[0][2:3], atol=1e-6)


def test_batch_norm_standardises_in_training_and_remembers():
    x = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32) * 4 + 2
    norm = BatchNorm(3).set_train(True)
    for _ in range(100):
        out = norm(ms.Tensor(x)).asnumpy()
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(0), 1, atol=1e-4)
    np.testing.assert_allclose(norm.mean.asnumpy(), x.mean(0), rtol=1e-3)
    norm.set_train(False)
    np.testing.assert_allclose(norm(ms.Tensor(x)).asnumpy(), out, atol=1e-3)


def test_a_hop_is_the_weighted_mean_over_neighbours():
    near, weights = graph(6)
    hop = Neighbours(near, weights, 6)
    set_head(hop, {"linear.linear.weight": np.eye(6, dtype=np.float32), "linear.bias": np.zeros(6, np.float32)})
    x = np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32)
    found = hop(ms.Tensor(x), ms.Tensor(np.array([4, 1], np.int32))).asnumpy()
    naive = [sum(w * x[j] for w, j in zip(weights[i], near[i], strict=True)) for i in (4, 1)]
    np.testing.assert_allclose(found, naive, rtol=1e-5)


def test_every_weight_has_a_gradient_and_it_is_that_of_finite_differences():
    built = network(uncertainty=True).set_train(True)
    weights = ms.ParameterTuple([p for p in built.get_parameters() if p.requires_grad])

    def loss(perturbed: ms.Tensor, present: ms.Tensor) -> ms.Tensor:
        change, log_variance = built(perturbed, present)
        return ((change - 0.5) ** 2).mean() + (log_variance * log_variance).mean()

    with_gradients = ms.value_and_grad(loss, None, weights)
    given = ms.Tensor(PERTURBED), ms.Tensor(PRESENT)
    _, gradients = with_gradients(*given)
    # What is the same for all rows in front of a batch normalisation has none.
    names = [name for name, p in built.parameters_and_names() if p.requires_grad]
    silent = {name for name, g in zip(names, gradients, strict=True) if np.abs(g.asnumpy()).max() < 1e-6}
    assert all(name.endswith(("bias", "beta")) for name in silent), silent
    place = names.index("read")
    before = head_weights(built)["read"]
    found = []
    for sign in (1, -1):
        moved = before.copy()
        moved[4, 2] += sign * 1e-2
        weights[place].set_data(ms.Tensor(moved))
        found.append(float(loss(*given).asnumpy()))
    assert gradients[place].asnumpy()[4, 2] == pytest.approx((found[0] - found[1]) / 2e-2, rel=0.02, abs=1e-4)


def test_a_silenced_network_predicts_no_change():
    built = network()
    assert run(built.set_train(False))[0].any()
    silence(built)
    assert not run(built)[0].any()


def test_the_spread_starts_where_it_is_set():
    built = network(uncertainty=True).set_train(False)
    n_genes = run(built)[1].shape[1]
    variance = np.linspace(0.1, 2, n_genes)
    set_spread(built, variance)
    for row in run(built)[1]:
        np.testing.assert_allclose(np.exp(row), variance, rtol=1e-4)
