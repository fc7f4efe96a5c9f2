"""A compiled function takes its weights from where they were placed, however deep, and its arrays from NumPy."""

import numpy as np

from cellfm.nn.weights import nest


def test_weights_may_be_nested_as_deep_as_those_of_a_head_on_a_network(engine):
    names = ("head.layers.0.attention.query.weight", "head.bias", "backbone.layers.0.glu.gate.base.weight")
    flat = {name: np.full((2, 2), i + 1, np.float32) for i, name in enumerate(names)}

    def function(xp, p, x, y):
        own = p["head"]["layers"][0]["attention"]["query"]["weight"]
        return x + own * 10, (y * p["backbone"][0]["glu"]["gate"]["base"]["weight"] + p["head"]["bias"]).sum()

    compiled = engine.compile(function, engine.place(nest(flat)))
    for x in (1, 2):
        one, other = compiled(np.full((2, 2), x, np.float32), np.ones((2, 2), np.float32))
        np.testing.assert_array_equal(np.asarray(one), x + 10)
        assert float(np.asarray(other)) == 4 * 5
