"""The draft of a study: what was found in a folder, and what its user answered, as a file that a plan completes."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segcft.config.loader import read_mapping
from segcft.config.outline import Outline
from segcft.data.attributes import Row
from segcft.drafting import images, structures, table
from segcft.drafting.layout import Layout, find_layout
from segcft.drafting.structures import Found, Seen
from segcft.drafting.table import Attribute
from segcft.importers.folder import folders_of
from segcft.io.reject import Rejected
from segcft.planning.plan import usual_study
from segcft.utils.progress import Progress

SAMPLED = 48
"""Samples that are looked at, spread evenly over all: what a tenth of all has is then seen for certain, nearly."""


@dataclass(frozen=True)
class Survey:
    """What was found in a folder.

    Attributes:
        data: the folder.
        layout: which files are what.
        images: what the images are.
        masks: what the masks show; None where there are none.
        facts: what the table says; None where there is none.
        tables: other tables, and why they are not the one.
    """

    data: Path
    layout: Layout
    images: images.Facts
    masks: Found | None
    facts: table.Facts | None
    tables: tuple[str, ...] = ()

    @property
    def structures(self) -> tuple[Seen, ...]:
        return self.masks.structures if self.masks else ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the structures: as files say, as the table calls their areas, or numbered."""
        named = self.facts.named if self.facts else {}
        names = [one.name or named.get(k) or f"structure_{k + 1}" for k, one in enumerate(self.structures)]
        return tuple(name if names.count(name) == 1 else f"{name}_{k + 1}" for k, name in enumerate(names))

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        return self.facts.attributes if self.facts else ()


def survey(data: Path, progress: Progress | None = None) -> Survey:
    """Look at a folder.

    Args:
        data: the folder.
        progress: wraps the loop over what is looked at.

    Raises:
        DataError: there is no such folder, no image in it, or no image or mask can be read.
    """
    parts = iter((progress or Progress())(("files", "images", "masks", "table"), 4, "Looking at the folder"))
    next(parts)
    layout = find_layout(data)
    step = max(1, len(layout.ids) // SAMPLED)
    ids = layout.ids[step // 2 :: step]
    next(parts)
    seen = images.look_at(data, layout, ids)
    next(parts)
    masks = structures.look_at(data, layout, ids, seen.volumes) if layout.masks else None
    next(parts)
    facts, others = table.read_tables(layout.tables, set(layout.ids), masks.structures if masks else ())
    next(parts, None)
    return Survey(data, layout, seen, masks, facts, others)


def draft(found: Survey, path: Path, name: str, names: Sequence[str], causes: Sequence[str]) -> str:
    """The text of a study file that leaves the rest to a plan.

    Args:
        found: in the folder.
        path: of the file, which its comments name.
        name: of the study.
        names: of its structures, in their order.
        causes: the attributes that are variables, and causes of every measure.
    """
    # A column that is called as a measure is one, even where it does not go with the masks closely enough to tell.
    causes = [one for one in causes if one not in _measures(found, names)]
    return "\n".join([*_head(found, path, bool(names and causes)), *_body(found, name, names, causes)]) + "\n"


def check(text: str, path: Path, data: Path) -> tuple[int, list[str]]:
    """Read some samples as the draft says.

    Args:
        text: of the study.
        path: of its file, for messages.
        data: the folder.

    Returns:
        How many were read, and why others were not.

    Raises:
        StudyError: the draft contradicts itself.
        DataError: the folder as a whole cannot be read so.
    """
    with tempfile.TemporaryDirectory() as folder_of_draft:  # read as it will be
        draft_path = Path(folder_of_draft) / "draft.yaml"
        draft_path.write_text(text, encoding="utf-8")
        study = usual_study(Outline(read_mapping(draft_path), str(path)))
    (folder,) = folders_of(study, data, None)
    lines = [line for line in folder.read_lines() if isinstance(line, Row)]
    step = max(1, len(lines) // SAMPLED)
    read = [folder.read_sample(line) for line in lines[step // 2 :: step]]
    reasons = [str(one) for one in read if isinstance(one, Rejected)]
    return len(read) - len(reasons), reasons


def _measures(found: Survey, names: Sequence[str]) -> list[str]:
    """The variables that are measured of the structures."""
    return [f"{one}_{'volume' if found.images.volumes else 'area'}" for one in names]


def _head(found: Survey, path: Path, graph: bool) -> Iterator[str]:
    yield "# Drafted by `segcft init` from what is in the folder; all that is not here is planned:"
    yield f"#   segcft run {shlex.quote(str(path))} --data {shlex.quote(str(found.data))}"
    if graph:
        yield "# Whether the data speak against the graph that `parents` draw, and which edges they suggest:"
        yield f"#   segcft graph {shlex.quote(str(path))} --data {shlex.quote(str(found.data))}"


def _body(found: Survey, name: str, names: Sequence[str], causes: Sequence[str]) -> Iterator[str]:
    measures = _measures(found, names)
    yield f"name: {flow(name)}"
    yield from _section("image", found.images.grid)
    yield from ("", "variables:")
    for attribute in found.attributes:
        if attribute.name in causes:
            yield f"  {flow(attribute.name)}: {flow(attribute.keys)}  # {plain(attribute.words)}"
    parents = {"parents": list(causes)} if causes else {}
    for measure in measures:
        yield f"  {flow(measure)}: {flow({'kind': 'continuous', **parents})}"
    left = dict(found.facts.left) if found.facts else {}
    whys = {one.column: "measured from the masks" if one.name in measures else "not chosen" for one in found.attributes}
    left |= {one.column: whys[one.column] for one in found.attributes if one.name not in causes}
    for column, why in left.items():
        yield f"  # not column {plain(repr(column))}: {why}"
    if names:
        yield from ("", "structures:")
        for one, measure, seen in zip(names, measures, found.structures, strict=True):
            yield f"  {flow(one)}: {flow({'variable': measure, **seen.way})}  # {seen.words}"
    else:
        yield from (
            "",
            "predictor:  # guides what images show of the attributes; with masks, structures would be guided",
        )
        yield "predictor_judge:"
    yield from _section("data", _data(found, names, causes))


def _section(name: str, keys: Mapping[str, Any]) -> Iterator[str]:
    if keys:
        yield ""
        yield f"{name}:"
        for key, value in keys.items():
            yield f"  {key}: {flow(value)}"


def _data(found: Survey, names: Sequence[str], causes: Sequence[str]) -> dict[str, Any]:
    """The section on data, without what is the default."""
    keys: dict[str, Any] = {"source": "folder"}
    way, facts = found.layout.images, found.facts
    if way.folder != "images":
        keys["images"] = way.folder
    if way.pattern is not None:
        keys["file"] = way.pattern
    folders = {one.folder for one in found.layout.masks.values()}
    if folders and folders != {"masks"}:
        keys["masks"] = folders.pop()
    if facts is None:
        keys["table"] = None
    else:
        if (place := facts.path.relative_to(found.data).as_posix()) != "metadata.csv":
            keys["table"] = place
        keys |= {"id": facts.id} if facts.id != "id" else {}
        keys |= {"patient": facts.patient} if facts.patient else {}
        keys |= {"split": facts.split} if facts.split else {}
        keys |= {"spacing": list(facts.spacing)} if facts.spacing and not found.images.volumes else {}
        columns = {one.name: one.column for one in facts.attributes if one.name in causes and one.name != one.column}
        keys |= {"columns": columns} if columns else {}
    if found.images.window:
        keys["window"] = [0.5, 99.5]
    absent = [name for name, seen in zip(names, found.structures, strict=True) if seen.shown < 1]
    keys |= {"may_be_absent": absent} if absent else {}
    keys |= {"thin_structures": True} if found.masks and found.masks.thin else {}
    return keys


def flow(value: Any) -> str:
    """A value as YAML writes it on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf"))
    return str(text).removesuffix("\n").removesuffix("\n...")


def plain(text: str) -> str:
    """A text without what would end a comment."""
    return "".join(character if character.isprintable() else " " for character in text)
