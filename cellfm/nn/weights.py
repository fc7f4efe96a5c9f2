"""Weights by flat name, as files and optimisers have them, to the nested dicts that the network takes."""

from collections.abc import Mapping
from typing import Any

from cellfm.engines import Weights


def nest(flat: Mapping[str, Any]) -> Weights:
    """``{"head.layers.0.bias": w, "head.bias": b}`` to ``{"head": {"layers": ({"bias": w},), "bias": b}}``.

    A part that has only layers is a tuple of them (``backbone``): MindSpore allows six levels in all, as many as
    adapters need.
    """
    tree: Weights = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return {name: _with_tuples(part) for name, part in tree.items()}


def _with_tuples(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    if all(name.isdigit() for name in tree):
        return tuple(_with_tuples(tree[str(i)]) for i in range(len(tree)))
    if tree.keys() == {"layers"}:
        return _with_tuples(tree["layers"])
    return {name: _with_tuples(part) for name, part in tree.items()}
