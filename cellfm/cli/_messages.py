"""Translate messages of the tools for the command line: ``gene_key=`` becomes ``--gene-key``."""

import re
from collections.abc import Collection

_RENAMED = {
    "confidence_threshold": "confidence",
    "distance_threshold": "distance",
    "columns": "column",
}
"""Parameters of tools whose options have other names in some commands."""
_CALL = re.compile(r"\b(?:cf|adata|sc|numpy|np)\.[\w.\[\]'\"]*(?:\([^()]*\))?")  # Python code is not changed
_PARAMETER = re.compile(r"(?:--|\b)([a-z][\w-]*)=(?:'([^']*)'|\"([^\"]*)\"|(\.\.\.|[\w.]*\w))?")


def as_options(message: str, options: Collection[str]) -> str:
    """Replace parameters by the options of a command, and by those of the reference in messages about it.

    Parameters
    ----------
    options
        Names of the options of the command, with underscores.
    """
    of_reference = message.startswith("The reference:")

    def option(match: re.Match[str]) -> str:
        name = match[1].replace("-", "_")
        name = f"reference_{name}" if of_reference and f"reference_{name}" in options else name
        name = name if name in options else _RENAMED.get(name, name)
        if name not in options:
            return match[0]
        value = next((value for value in match.groups()[1:] if value is not None), "")
        value = f"'{value}'" if " " in value else value
        return f"--{name.replace('_', '-')} {'' if value == 'True' else value}".rstrip()

    parts, end = [], 0
    for call in _CALL.finditer(message):
        parts += [_PARAMETER.sub(option, message[end : call.start()]), call[0]]
        end = call.end()
    return "".join([*parts, _PARAMETER.sub(option, message[end:])])
