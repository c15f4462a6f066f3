"""What the masks of a folder show: which values stand for structures, and where those are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcft.drafting.layout import Layout, Way
from segcft.errors import Code, DataError
from segcft.io.maskfile import BLENDED, blended, read_labels, whole_numbers
from segcft.io.reject import Rejected
from segcft.io.scan import read_array

MOST_LABELS = 32
"""Values of a mask above which they are no labels, but shades of how much of a pixel is inside."""
MIDDLE = 0.1
"""How far from the middle of the image, as a share of its side, a structure is to one side of it."""
SIDES = {2: (("top", "bottom"), ("left", "right")), 3: (("low", "high"), ("front", "back"), ("right", "left"))}
"""Words for both sides of the middle along each axis: of an image as it is seen, of a volume as the patient has it."""
DESCRIPTION = "dataset.json"
"""Says what labels mean, in folders of the Medical Segmentation Decathlon and of nnU-Net."""


@dataclass(frozen=True)
class Seen:
    """A structure as the masks show it.

    Attributes:
        name: what it is called, if a file says it.
        way: how masks show it: {"bit": 4}, {"label": 2}, {"file": "{id}_heart.png"}, or two of them.
        shown: share of the masks that were looked at that show it.
        share: mean share of the image that it covers where it is shown.
        place: its middle as shares of the axes (y, x), of a volume (z, y, x); mean of the same.
        areas: pixels or voxels by id.
    """

    name: str
    way: Mapping[str, int | str]
    shown: float
    share: float
    place: tuple[float, ...]
    areas: Mapping[str, float]

    @property
    def words(self) -> str:
        """Where it is and how large, to tell it by."""
        sides = zip(self.place, SIDES[len(self.place)], strict=True)
        where = " ".join(words[at > 0.5] for at, words in sides if abs(at - 0.5) > MIDDLE)
        seen = "" if self.shown == 1 else f", in {self.shown:.0%} of the masks"
        return f"{self.share:.1%} of the image{f', {where}' if where else ''}{seen}"


class Found(NamedTuple):
    """What the masks of a folder show."""

    structures: tuple[Seen, ...]
    thin: bool
    """Some are as thin as a pixel, so that borders do not tell of interpolation."""
    unread: tuple[str, ...]
    """Why masks were not read."""


class _Look(NamedTuple):
    """A structure in one mask."""

    area: float
    share: float
    place: tuple[float, ...]


def look_at(data: Path, layout: Layout, ids: Sequence[str], volumes: bool) -> Found:
    """Look at the masks of some samples.

    Args:
        data: the folder.
        layout: what it holds.
        ids: of the samples.
        volumes: whether they are volumes.

    Raises:
        DataError: no mask can be read, or none shows anything.
    """
    looks: dict[tuple[str, int], dict[str, _Look]] = {}
    thin, unread, read = False, list[str](), dict[str, int]()
    for name, way in layout.masks.items():
        for id in ids:
            path = way.path(data, id)
            if not path.is_file():
                continue
            try:
                values = _values(path, volumes)
            except Rejected as reason:
                unread.append(str(reason))
                continue
            read[name] = read.get(name, 0) + 1
            found = np.unique(values[values != 0])
            shades = len(found) > MOST_LABELS
            thin = thin or (not shades and not volumes and blended(values) > BLENDED)
            for value in [0] if shades or len(layout.masks) > 1 else found.tolist():
                looks.setdefault((name, value), {})[id] = _look(values != 0 if value == 0 else values == value)
    shown = {key: {id: look for id, look in own.items() if look.area > 0} for key, own in looks.items()}
    shown = {key: own for key, own in shown.items() if own}
    if not shown:
        why = unread[0] if unread else "the masks that were looked at show nothing"
        raise DataError(Code.EMPTY, data / next(iter(layout.masks.values())).folder, why)
    ways = _ways(layout.masks, sorted(shown))
    names = _said(data)
    structures = []
    for key, (how, numbers) in ways.items():
        own = _joined([shown[key[0], number] for number in numbers])
        label = how.get("label", how.get("bit"))
        name = names.get(label, "") if isinstance(label, int) else key[0]
        places = np.array([look.place for look in own.values()])
        share = float(np.mean([look.share for look in own.values()]))
        areas = {id: look.area for id, look in own.items()}
        place = tuple(places.mean(axis=0).tolist())
        structures.append(Seen(slug(name), how, len(own) / read[key[0]], share, place, areas))
    return Found(tuple(structures), thin, tuple(unread))


def slug(name: str) -> str:
    """A name as a study has it: ``Left Lung (px)`` is ``left_lung_px``."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _values(path: Path, volumes: bool) -> NDArray[np.integer[Any]]:
    """The numbers of a mask.

    Raises:
        Rejected: it cannot be read, or holds no whole numbers.
    """
    if not volumes:
        return read_labels(path, thin=True)
    return whole_numbers(read_array(path)[0][..., 0])


def _look(inside: NDArray[np.bool_]) -> _Look:
    area = int(inside.sum())
    if not area:
        return _Look(0.0, 0.0, (0.5,) * inside.ndim)
    middle = [float((axis.mean() + 0.5) / length) for axis, length in zip(inside.nonzero(), inside.shape, strict=True)]
    return _Look(area, area / inside.size, tuple(middle))


def _joined(looks: Sequence[Mapping[str, _Look]]) -> dict[str, _Look]:
    """What is shown by several values, as a bit that is set in many sums is."""
    joined: dict[str, _Look] = {}
    for id in sorted({id for own in looks for id in own}):
        parts = [own[id] for own in looks if id in own]
        area = sum(part.area for part in parts)
        place = np.sum([np.array(part.place) * part.area for part in parts], axis=0) / area
        joined[id] = _Look(area, sum(part.share for part in parts), tuple(place.tolist()))
    return joined


def _ways(
    masks: Mapping[str, Way], keys: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], tuple[dict[str, int | str], list[int]]]:
    """How masks show each structure, and the values that it has in them."""
    if len(masks) > 1 or all(value == 0 for _, value in keys):
        files = {name: f"{way.template}{way.suffixes[0]}" for name, way in masks.items()}
        return {(name, value): ({"file": files[name]}, [value]) for name, value in keys}
    name, way = next(iter(masks.items()))
    file: dict[str, int | str] = {} if way.pattern is None else {"file": way.pattern}
    values = [value for _, value in keys if value]
    bits = bits_of(values)
    if bits is None:
        return {(name, value): ({"label": value, **file}, [value]) for value in values}
    return {(name, bit): ({"bit": bit, **file}, [value for value in values if value & bit]) for bit in bits}


def bits_of(values: Iterable[int]) -> list[int] | None:
    """The flags of which the values of masks are sums; None where they are labels.

    Labels are numbered: 1, 2, 3. Flags double, so of three and more structures some number is left out; and a number
    that is no flag is the sum of flags that are there by themselves.
    """
    values = sorted(set(values))
    flags = [value for value in values if value > 0 and value & (value - 1) == 0]
    left_out = bool(values) and (values[0], values[-1]) != (1, len(values))
    doubled = flags == [1 << k for k in range(len(flags))]
    sums = all(value > 0 and value == sum(flag for flag in flags if value & flag) for value in values)
    return flags if left_out and doubled and sums and len(flags) > 1 else None


def _said(data: Path) -> dict[int, str]:
    """Names of labels in the folder's description, if it has one."""
    try:
        said = json.loads((data / DESCRIPTION).read_text(encoding="utf-8"))["labels"].items()
        return {
            int(number): str(name)
            for one, other in said
            for number, name in [(one, other) if str(one).isdigit() else (other, one)]
            if int(number) > 0
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}  # it may be of anything
