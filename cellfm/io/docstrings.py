"""Docstring paragraphs of arguments that many tools share; a tool inserts one by its name in braces."""

import re
from collections.abc import Callable
from typing import TypeVar

Tool = TypeVar("Tool", bound=Callable[..., object])

PARAGRAPHS = {
    "attention_layer": """
attention_layer
    Layer of the network to read, counted from 0; negative numbers count from the last. By default the last active
    layer (`CellFM.active_layers`) that is not negligible (`CellFM.attention_strengths` of at least 0.01). An
    inactive layer, whose attention changes nothing, raises an error.""",
    "ax": """
ax
    Axes to draw on.""",
    "batch_size": """
batch_size
    Cells computed at once; by default the fastest number. Smaller values need less memory and give the same result.""",
    "copy": """
copy
    Return a copy instead of writing to `data`.""",
    "gene_key": """
gene_key
    Column of `var` with the gene names, or ``"var_names"``, if the automatic choice is wrong.""",
    "hgnc": """
hgnc
    Table of previous symbols and aliases: None uses that of HGNC if it was downloaded before, otherwise that of the
    package; ``"download"`` fetches it into `cf.settings.cache_dir`; a path reads the HGNC complete set; False uses
    none.""",
    "layer": """
layer
    Layer with the counts; ``"raw"`` means `adata.raw`; by default X.""",
    "layer_of_data": """
layer
    Layer of `data` with the counts; by default X.""",
    "min_known_genes": """
min_known_genes
    Minimum number of genes that the model must know.""",
    "modality": """
modality
    Table of a MuData.""",
    "model": """
model
    A model, its name (``"mini"``, ``"80M"``, ``"800M"``) or its path; see `cf.load_model`.""",
    "sample_seed": """
random_state
    Seed of the sample of genes that is drawn from cells with more genes than the model takes.""",
    "save": """
save
    File to write the figure to.""",
    "show": """
show
    Show the figure; by default only if it is neither saved nor shown by a notebook.""",
    "vocabulary_model": """
model
    A model, its name (``"mini"``, or ``"80M"`` and ``"800M"`` once they are in the cache), the path of a model folder
    or of a vocabulary table. Only the vocabulary is read.""",
}


def shared_docs(tool: Tool) -> Tool:
    """Decorator that replaces lines such as ``{layer}`` in the docstring of a tool by the shared paragraphs.

    Examples
    --------
    >>> from cellfm.io.docstrings import shared_docs
    >>> @shared_docs
    ... def tool(modality="rna"):
    ...     '''Do something.
    ...
    ...     Parameters
    ...     ----------
    ...     {modality}
    ...     '''
    >>> "Table of a MuData." in tool.__doc__
    True
    """
    if tool.__doc__ is not None:  # python -OO takes docstrings out
        tool.__doc__ = re.sub(r"^( *)\{(\w+)\}$", _paragraph, tool.__doc__, flags=re.MULTILINE)
    return tool


def _paragraph(match: re.Match[str]) -> str:
    indent, name = match.groups()
    return "\n".join(indent + line for line in PARAGRAPHS[name].strip().split("\n"))
