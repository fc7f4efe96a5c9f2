"""How the documentation is built: ``sphinx-build -W -b html docs docs/_build/html``, without network."""

import os
import sys
from pathlib import Path

os.environ["CELLFM_CACHE_DIR"] = "~/.cache/cellfm"  # no folder of the machine that builds ends up in the pages
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from importlib.metadata import version as installed_version

project = "cellfm"
author = "the cellfm developers"
copyright = author
release = version = installed_version("cellfm")

extensions = [
    "myst_nb",  # which is myst_parser and more
    "sphinx_design",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "keys_table",
    "namespace",
]
exclude_patterns = ["_build", "_ext", "**.ipynb_checkpoints"]

default_role = "literal"  # names in docstrings are mostly parameters, and the same name means many things
autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = False
napoleon_use_ivar = True
suppress_warnings = [
    "ref.python"
]  # "(n_cells,) bool" is taken for a type, and n_cells for one of the fields of this name
napoleon_custom_sections = ["Returns"]  # prose and lists of keys, which would be taken for types

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "off"  # the notebooks hold their results; docs/execute.py runs them

html_theme = "furo"
html_title = f"cellfm {release}"
html_static_path = ["_static"]
