"""Deep networks compile: MindSpore's compiler gives up on code that unrolls into a few branches a tensor."""

import numpy as np
import pytest

from cellfm.config import TrainConfig

N_TENSORS = 150  # a network of 14 layers


def test_the_update_of_many_tensors_compiles():
    ms = pytest.importorskip("mindspore")
    from cellfm.engines.mindspore.training import Adam

    parameters = {f"w{i}": ms.Parameter(np.ones(2, np.float32), name=f"w{i}") for i in range(N_TENSORS)}
    update = ms.jit(Adam(parameters, TrainConfig()).construct)
    ones = tuple(ms.Tensor(np.ones(2, np.float32)) for _ in parameters)
    numbers = (ms.Tensor(np.float32(number)) for number in (0.1, 0.9, 0.95, 1e-8))
    update(ms.mutable(ones), ms.mutable(tuple(one.sum() for one in ones)), *numbers)
    for parameter in parameters.values():
        np.testing.assert_allclose(parameter.asnumpy(), 0.9, rtol=1e-3)
