"""A published model as the Hugging Face Hub shows it: its card begins with what the hub sorts and finds by."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import yaml

from segcft.errors import Code, RunError
from segcft.pipeline.publish import require_room
from segcft.pipeline.run import Run
from segcft.utils.atomic import replaced_folder, write_text
from segcft.utils.hub import HUB, NAME

CARD = "README.md"
LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
"""As the hub names licences: ``cc-by-sa-4.0``, ``apache-2.0``, ``other``."""
_HERE = re.compile(r"FOLDER is where this file is(?:\. |, (?=IMAGES))")
_EXAMPLE = re.compile(r"FOLDER/examples/[^\s\"]+?(?=\.(?:png|nii\.gz)\b)")


def write_for_hub(run: Run, folder: Path, name: str, licence: str) -> None:
    """Write a published model to ``folder`` as the hub has it; ``hf upload NAME FOLDER`` then uploads it.

    Args:
        run: a published model; it may be in ``folder`` already.
        folder: new, empty or a published model.
        name: on the hub, ``user/model``.
        licence: of the weights, as the hub names it.

    Raises:
        RunError: ``run`` is not published, has no card, or a name or the licence is none.
    """
    check_names(name, licence)
    if not run.published:
        raise RunError(Code.INVALID, run.folder, "not a published model; `segcft publish` makes one of a run")
    run.require_card()
    require_room(run.study, folder)
    text = (run.folder / CARD).read_text(encoding="utf-8")
    with replaced_folder(folder) as partial:
        shutil.copytree(run.folder, partial, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
        write_text(partial / CARD, card(run, text, name, licence))


def check_names(name: str, licence: str) -> None:
    """Check the name of a model on the hub and that of its licence.

    Raises:
        RunError: one cannot be.
    """
    if not NAME.fullmatch(name):
        raise RunError(Code.INVALID, "--hub", f"a model is called USER/MODEL on the hub, not {name!r}")
    if not LICENCE.fullmatch(licence):
        why = "the licence of the weights, as the hub names it: cc-by-sa-4.0, apache-2.0, ... or other"
        raise RunError(Code.MISSING if not licence else Code.INVALID, "--licence", why)


def card(run: Run, text: str, name: str, licence: str) -> str:
    """The card of a model with what the hub reads at its head, and with its name there for its folder."""
    if text.startswith("---\n"):  # of an earlier time
        text = text.split("---\n", 2)[2].lstrip("\n")
    dimensions = "3d" if run.study.image.is_volume else "2d"
    does = ["segmentation"] if run.only_reads else ["counterfactual", "causal-inference"]
    said = {
        "license": licence,
        "library_name": "segcft",
        "pipeline_tag": "image-segmentation" if run.only_reads else "image-to-image",
        "tags": ["medical-imaging", *does, dimensions, "not-for-clinical-use"],
    }
    text = _HERE.sub("", _EXAMPLE.sub("image", text))
    head = yaml.safe_dump(said, sort_keys=False)
    return f"---\n{head}---\n\n{text.replace('FOLDER', f'{HUB}{name}')}"
