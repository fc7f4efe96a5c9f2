"""Gradient reversal changes nothing on the way forward and turns the gradient on the way back, however it is run."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from cellfm.nn import GradientReversal

GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((5, 3)).astype(np.float32)
W = GENERATOR.standard_normal((3, 2)).astype(np.float32)


class Squares(nn.Cell):
    """``sum((scale-reversed x W)^2)``, whose gradients are known: ``2 x W W^T`` of x and ``2 x^T x W`` of W."""

    def __init__(self) -> None:
        super().__init__()
        self.reversal = GradientReversal()
        self.weight = ms.Parameter(ms.Tensor(W))

    def construct(self, x: ms.Tensor, scale: ms.Tensor) -> ms.Tensor:
        y = ms.ops.matmul(self.reversal(x, scale), self.weight)
        return (y * y).sum()


@pytest.fixture(scope="module", params=["PyNative", "compiled"])
def gradients(request):
    net = Squares()
    both = ms.value_and_grad(net, 0, ms.ParameterTuple([net.weight]))

    def run(x: ms.Tensor, scale: ms.Tensor):
        return both(x, scale)

    return ms.jit(run) if request.param == "compiled" else run


@pytest.mark.parametrize(
    "scale", [np.float32(0.0), np.float32(1.0), np.float32(0.3), GENERATOR.random((5, 1)).astype(np.float32)]
)
def test_only_what_comes_before_gets_the_opposite_gradient(gradients, scale):
    value, (of_x, (of_weight,)) = gradients(ms.Tensor(X), ms.Tensor(scale))
    assert float(value) == pytest.approx(float(((X @ W) ** 2).sum()), rel=1e-5)
    np.testing.assert_allclose(of_weight.asnumpy(), 2 * X.T @ (X @ W), rtol=1e-4)
    np.testing.assert_allclose(of_x.asnumpy(), -scale * (2 * X @ W @ W.T), rtol=1e-4, atol=1e-6)
