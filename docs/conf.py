"""The documentation site: `make docs` writes it to build/docs.

Every code cell of a page is run when the site is built, so that no output is older than the code; see pictures.py.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import segcft

project = "segcft"
author = "the authors of segcft"
copyright = "the authors of segcft. Apache-2.0. For research only, not for clinical use"
version = release = segcft.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = f"segcft {release}"
html_show_sphinx = False
exclude_patterns = ["_build"]

# Pages: MyST Markdown, whose code cells run in a kernel each.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300  # seconds a cell
nb_execution_show_tb = True
nb_merge_streams = True
nb_render_markdown_format = "gfm"
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
logging.getLogger("traitlets").setLevel(logging.WARNING)

# Kernels find the package, the pages' helper and the command line, and keep off each other's processors.
here, root = Path(__file__).parent, Path(__file__).parents[1]
os.environ["PYTHONPATH"] = os.pathsep.join([str(here), str(root / "src"), os.environ.get("PYTHONPATH", "")])
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["IPYTHONDIR"] = str(root / "build" / "ipython")

# Reference: public names with a docstring. What a base class of another package documents is not ours.
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "model_config"}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 100

nitpicky = True
# Of other packages, and not linked; all our own names must resolve.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|numpy|np|pd|pandas|pathlib|collections|pydantic|PIL|argparse|lightning|annotated_types|nn)\..*"),
]
