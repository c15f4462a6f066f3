"""The documentation site: `make docs` writes it to build/docs.

Every code cell of a page is run when the site is built, so that no output is older than the code; see pages.py.
"""

from __future__ import annotations

import ast
import logging
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import Config as NapoleonConfig
from sphinx.ext.napoleon import GoogleDocstring

import segcft

project = "segcft"
author = "the authors of segcft"
copyright = "the authors of segcft. Apache-2.0. For research only, not for clinical use"
version = release = segcft.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = f"segcft {release}"
html_static_path = ["_static"]
html_css_files = ["segcft.css"]
html_show_sphinx = False
exclude_patterns = ["cards/*/evaluation"]

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
profile = root / "build" / "ipython" / "profile_default"
profile.mkdir(parents=True, exist_ok=True)
(profile / "ipython_kernel_config.py").write_text("get_config().IPKernelApp.log_level = 'ERROR'\n", encoding="utf-8")
os.environ["IPYTHONDIR"] = str(profile.parent)

# Reference: public names with a docstring. What a base class of another package documents is not ours.
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "model_config"}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
# Thousands, of which the navigation of every page would be made: half of the time of a build.
toc_object_entries = False
python_maximum_signature_line_length = 100

# All links must resolve but those to other packages, which this site does not know.
nitpicky = True
PACKAGES = "torch|numpy|np|pandas|pd|pydantic|pydantic_core|annotated_types|PIL|pydicom|lightning|zuko"
OTHERS = "|".join([PACKAGES, "markupsafe", "starlette", *sorted(sys.stdlib_module_names)])
# The same, without a module.
NAMES = (
    r"AbstractContextManager|Dataset|FileDataset|Tensor|NDArray|Path|Fabric|NoneType|Le|Ge|Lt|Gt|FieldInfo|nn\.Module"
)
ALIASES = "Array|Floats|Attributes|Batch"  # of NDArray, Mapping and dict
TYPE_VARIABLES = "S|M|T|Item|AnyItem|Key|Value|Inputs|Output|Result"
# What is left of pydantic's annotations.
CONSTRAINTS = r"_.*|segcft\.config\.\w+\.Annotated|.*\._.*|0\.\d+|dict\[str|segcft\..*<locals>.*"
nitpick_ignore_regex = [
    ("py:.*", rf"({OTHERS})\..*|({NAMES}|{ALIASES}|{CONSTRAINTS})|(segcft\..*\.)?({TYPE_VARIABLES})")
]
suppress_warnings = ["ref.python"]  # two modules may have a name in common

NAPOLEON: Any = NapoleonConfig()  # its defaults


def write_reference(app: Sphinx) -> None:
    """A page of reference for each package, with every module of it. The command line has its help instead."""
    folder = here / "api"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    package = root / "src" / "segcft"
    for init in sorted(set(package.glob("*/__init__.py")) - {package / "cli" / "__init__.py"}):
        name = init.parent.name
        about = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
        files = sorted(path.relative_to(init.parent).with_suffix("") for path in init.parent.rglob("*.py"))
        modules = [".".join(path.parts) for path in files if not path.stem.startswith("__")]
        sections = [
            f"## `segcft.{name}.{module}`\n\n```{{eval-rst}}\n.. automodule:: segcft.{name}.{module}\n```\n"
            for module in modules
        ]
        page = "\n".join([f"# `segcft.{name}`\n", f"```{{eval-rst}}\n{about}\n```\n", *sections])
        (folder / f"{name}.md").write_text(page, encoding="utf-8")
    alone = "\n".join(
        f"```{{eval-rst}}\n.. automodule:: segcft.{path.stem}\n```\n" for path in sorted(package.glob("[a-z]*.py"))
    )
    (folder / "segcft.md").write_text(f"# `segcft`\n\n{alone}", encoding="utf-8")


def google_style(app: Sphinx, what: Any, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings in Google's style become reStructuredText. Those of attributes are plain text, where the extension
    napoleon would take "The image: as it is." for a type and its description."""
    # The axes of space in a shape, (B, C, *size), begin no emphasis.
    lines[:] = [re.sub(r"(?<=, )\*(?=\w)", r"\\*", line) for line in lines]
    if what not in ("attribute", "data", "property"):
        lines[:] = GoogleDocstring(lines, NAPOLEON, app, what, name, obj, options).lines()


def link_cards(app: Sphinx, page: str, source: list[str]) -> None:
    """Links to the models' cards, which are beside docs/, lead to the pages that the site makes of them."""
    source[0] = re.sub(r"\[(\w+)\]\(\.\./models/(.*?)\.md\)", r"{doc}`\1 <cards/\2>`", source[0])


def short_name(app: Sphinx, env: BuildEnvironment, node: Any, content: Any) -> Any:
    """A name in a docstring may be that of another module of ours, without the module."""
    if node.get("refdomain") != "py" or "refspecific" in node:
        return None
    node["refspecific"] = True
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], node["reftarget"], node, content)


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", write_reference)
    app.connect("missing-reference", short_name)
    app.connect("autodoc-process-docstring", google_style)
    app.connect("source-read", link_cards)
