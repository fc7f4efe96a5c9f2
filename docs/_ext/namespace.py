"""The directive ``public-names``: documents everything in a namespace's ``__all__``, so that nothing is forgotten."""

import importlib
import inspect
from types import ModuleType

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import cellfm


def source_lines(namespace: str, names: list[str]) -> list[str]:
    """A table of the names, then each in full; names that the top level also offers are explained there."""
    module = importlib.import_module(namespace)
    pages = [name for name in names if isinstance(getattr(module, name), ModuleType)]
    elsewhere = [name for name in names if namespace != "cellfm" and offered_at_top(name, getattr(module, name))]
    here = [name for name in names if name not in pages + elsewhere and not name.startswith("__")]
    lines = [f".. currentmodule:: {namespace}", "", ".. autosummary::", "   :nosignatures:", ""]
    lines += [*(f"   {name}" for name in here), ""]
    lines += [f"* :doc:`cf.{name} <{name}>`: {inspect.getdoc(getattr(module, name)).splitlines()[0]}" for name in pages]
    lines += [f"* :py:obj:`cf.{name} <cellfm.{name}>`" for name in elsewhere]
    for name in here:
        if namespace == "cellfm.tl" and inspect.isclass(getattr(module, name)):
            continue  # what the tools fit is on the page of types
        lines += ["", *described(namespace, name, getattr(module, name))]
    return [*lines, ""]


def offered_at_top(name: str, value: object) -> bool:
    """Whether ``cf.<name>`` is this very object: ``cf.cells`` and ``cf.pl.cells`` are two things of one name."""
    return name in cellfm.__all__ and getattr(cellfm, name) is value


def described(namespace: str, name: str, value: object) -> list[str]:
    if inspect.isclass(value):
        return [f".. autoclass:: {namespace}.{name}", "   :members:", "   :undoc-members:"]
    if callable(value):
        return [f".. autofunction:: {namespace}.{name}"]
    return [f".. autodata:: {namespace}.{name}", "   :no-value:"]


class PublicNames(SphinxDirective):
    """Write the documentation of a namespace at this place."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        namespace = self.arguments[0]
        names = importlib.import_module(namespace).__all__
        return self.parse_text_to_nodes("\n".join(source_lines(namespace, list(names))))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("public-names", PublicNames)
    return {"parallel_read_safe": True}
