"""An outline: a study file that leaves out sections or keys which a plan can give (see ``segcft.planning``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from segcft.config.loader import parse_study, read_mapping, validate
from segcft.config.section import Section
from segcft.config.sources import FolderData, SeveralFolders, SimulatedData
from segcft.config.structure import Mask, Structure
from segcft.config.study import Study
from segcft.config.variable import Variable

PLANNED = (
    "image",
    "splits",
    "segmentor",
    "judge",
    "regressor",
    "predictor",
    "predictor_judge",
    "scm",
    "hvae",
    "finetune",
    "evaluation",
)
"""The sections of a study that may be left out, whole or in part."""

Given = dict[str, Any] | None
"""Keys of a section that are given; None: the file names the section and says nothing in it."""


class _Keys(Section):
    """What an outline must have, and what it may."""

    name: str
    description: str = ""
    variables: dict[str, Variable] = Field(min_length=1)
    confounded: tuple[tuple[str, str], ...] = ()
    masks: dict[str, Mask] | None = None
    structures: dict[str, Structure] | None = None
    data: Annotated[FolderData | SeveralFolders | SimulatedData, Field(discriminator="source")]
    image: Given = None
    splits: Given = None
    segmentor: Given = None
    judge: Given = None
    regressor: Given = None
    predictor: Given = None
    predictor_judge: Given = None
    scm: Given = None
    hvae: Given = None
    finetune: Given = None
    evaluation: Given = None


@dataclass(frozen=True)
class Outline:
    """A study of which a part is left to a plan.

    Args:
        given: what the file says, as it is read from YAML.
        source: the file, which errors name.

    Raises:
        StudyError: the name, variables, structures or data are missing or wrong, or a section is unknown.
    """

    given: dict[str, Any]
    source: str

    def __post_init__(self) -> None:
        validate(_Keys, self.given, self.source)

    @property
    def name(self) -> str:
        return str(self.given["name"])

    def section(self, name: str) -> dict[str, Any]:
        """The keys of a section that are given."""
        return dict(self.given.get(name) or {})

    def variable(self, name: str) -> dict[str, Any]:
        """The keys of a variable that are given."""
        return dict(self.given["variables"][name])

    @property
    def masked(self) -> tuple[str, ...]:
        """All that has a mask: structures, and ``masks``."""
        return (*(name for name, one in self.structures.items() if not one.get("of")), *(self.given.get("masks") or ()))

    @property
    def structures(self) -> dict[str, dict[str, Any]]:
        """The structures, as they are given; {} where there are none."""
        return dict(self.given.get("structures") or {})

    @property
    def measured(self) -> tuple[str, ...]:
        """The structures' variables, in the order of the structures."""
        return tuple(structure["variable"] for structure in self.structures.values())


def read_study(path: str | Path) -> Study | Outline:
    """A study file: a study if it has every key that has no default, else an outline.

    Raises:
        StudyError: as of :func:`segcft.config.loader.load_study`.
    """
    raw = read_mapping(Path(path))
    return Outline(raw, str(path)) if leaves_out(raw) else parse_study(raw, str(path))


def leaves_out(raw: dict[str, Any]) -> bool:
    """Whether a study file leaves out keys that have no default and that a plan can give."""
    if any(key in raw and raw[key] is None for key in ("predictor", "predictor_judge")):
        return True  # named, and nothing said of it
    try:
        Study.model_validate(raw)
    except ValidationError as error:
        missing = [item["loc"] for item in error.errors() if item["type"] == "missing"]
        if any(keys[0] in PLANNED for keys in missing):
            return True
        if "predictor" in raw and "predictor_judge" not in raw:
            return not missing
        if not raw.get("structures"):
            return "predictor" not in raw and not missing
        finetune = raw.get("finetune")
        guides = finetune.get("guides", ("regressor",)) if isinstance(finetune, dict) else ()
        return "regressor" not in raw and isinstance(guides, list | tuple) and "regressor" in guides and not missing
    return False
