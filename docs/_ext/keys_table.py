"""The directive ``keys-table``: every AnnData key of ``cellfm/keys.py`` with the docstring that stands below it."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def keys_source() -> Path:
    spec = importlib.util.find_spec("cellfm.keys")
    return Path(spec.origin)


def one_line(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def documented(body: list[ast.stmt]) -> Iterator[tuple[str, ast.expr, str]]:
    """Name, value and docstring of the assignments in a class or module."""
    for statement, below in zip(body, [*body[1:], None], strict=True):
        target = statement.target if isinstance(statement, ast.AnnAssign) else None
        if isinstance(statement, ast.Assign):
            target = statement.targets[0]
        text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
        if isinstance(target, ast.Name) and statement.value is not None and text:
            yield target.id, statement.value, text


def value_of(expression: ast.expr, constants: dict[str, str]) -> str:
    if isinstance(expression, ast.Name):
        return constants[expression.id]
    values = ast.literal_eval(expression)
    return ", ".join(f"`{value}`" for value in ([values] if isinstance(values, str) else values))


def table(title: str, header: str, rows: list[str]) -> str:
    rule = "|---" * (header.count("|") - 1) + "|"
    return "\n".join([f"**{one_line(title)}**", "", header, rule, *rows])


def markdown(source: str) -> str:
    """One table for each class of keys, and one for the constants beside them."""
    body = ast.parse(source).body
    constants: dict[str, str] = {}
    lone = []
    for name, expression, text in documented(body):
        constants[name] = value_of(expression, constants)
        lone.append(f"| {constants[name]} | {one_line(text)} |")
    parts = []
    for result in (node for node in body if isinstance(node, ast.ClassDef)):
        rows = [
            f"| {value_of(expression, constants)} | `{name}` | {one_line(text)} |"
            for name, expression, text in documented(result.body)
        ]
        parts.append(table(ast.get_docstring(result) or result.name, "| key | field | contents |", rows))
    parts.append(table("Names shared by all", "| key | what it is |", lone))
    return "\n\n".join(parts)


class KeysTable(SphinxDirective):
    """Write the tables at this place."""

    def run(self) -> list[nodes.Node]:
        source = keys_source()
        self.env.note_dependency(str(source))
        return self.parse_text_to_nodes(markdown(source.read_text()))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("keys-table", KeysTable)
    return {"parallel_read_safe": True}
