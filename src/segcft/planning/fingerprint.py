"""The fingerprint of a data set: what a plan has to know of it, in some numbers."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.ndimage import distance_transform_edt
from scipy.stats import skew

from segcft.config.image import Image
from segcft.config.outline import Outline
from segcft.config.sources import SimulatedData
from segcft.config.structure import Zone
from segcft.config.study import Study
from segcft.coronary.defaults import SIZE, SPACING
from segcft.data.attributes import Row
from segcft.data.resize import ASPECT_TOLERANCE, average
from segcft.errors import Code, DataError
from segcft.grid import Grid
from segcft.importers.folder import folders_of
from segcft.importers.sample import Folder
from segcft.importers.simulated import make_simulator, mask_order
from segcft.io.reject import Rejected
from segcft.measures.zone import inside
from segcft.simulate.people import person_number
from segcft.utils.loop import ahead
from segcft.utils.progress import Progress

SAMPLED = 200
"""Images that are looked at, spread evenly over the table: shares are then known to 3 or 4 %."""
DRAWN = 64
"""Subjects that a simulator draws instead; they are all alike in size and greys."""
LARGEST_DRAWN = 256
"""Pixels a side beyond which a simulated radiograph shows nothing new."""
LOOKED_AT = 512
"""Longest side in pixels at which a mask is looked at; what is thinner than a pixel of that is thin anyway."""
SAME_EXTENT = 0.02
"""How far images' extents in mm may spread (standard deviation over mean) and still be one field of view."""


@dataclass(frozen=True)
class StructureFacts:
    """A structure over the sampled images: all but ``absent`` of those that show it."""

    share: float
    """Mean share of the frame that it covers."""
    thickness: float
    """Median over images of its width where it is thickest, as a share of the frame's side (the root of its area)."""
    variation: float
    """Standard deviation of its area over the mean."""
    absent: float
    """Share of the images that do not show it."""
    skew: float
    """Skewness of its area."""


@dataclass(frozen=True)
class Fingerprint:
    """What a plan has to know of a data set."""

    subjects: int
    images: int
    parts: dict[str, int]
    """Subjects in each part, where a column of the table says it; else {}."""
    size: tuple[int, ...]
    """Median height and width of the images in pixels, of volumes depth, too; of a simulator, which draws any, the
    largest worth drawing."""
    aspect: float
    """Median width over height of what is shown, whatever the shape of a pixel; of volumes 1."""
    odd: float
    """Share of the images whose aspect differs from that by more than 2 %."""
    extent: tuple[float, ...] | None
    """Median height and width in mm, of volumes depth, too, where every header says them and they agree."""
    exposure: float
    """Standard deviation over images of their mean grey, in [-1, 1]."""
    contrast: float
    """Standard deviation over images of that of an image's greys, relative to its mean."""
    structures: dict[str, StructureFacts]
    skews: dict[str, float]
    """Skewness of each continuous attribute that is positive throughout."""
    zones: dict[str, StructureFacts] = field(default_factory=dict)
    """Of structures that are a zone of others; their thickness is not looked at."""

    @property
    def side(self) -> float:
        """Of a square with as many pixels as a median image, or of a cube with as many voxels."""
        return math.pow(math.prod(self.size), 1 / len(self.size))

    def training(self, share: float) -> int:
        """Subjects that train, where ``share`` of all do unless the table says so."""
        return self.parts.get("train", 0) or max(1, round(self.subjects * share))


class _Seen(NamedTuple):
    """What was seen of one sample."""

    size: tuple[int, ...]
    aspect: float
    extent: tuple[float, ...] | None
    mean: float
    deviation: float
    shares: tuple[float, ...]
    thickness: tuple[float, ...]
    zones: tuple[float, ...]
    """Shares of the frame."""


def expected(outline: Outline) -> Fingerprint:
    """The fingerprint of an ordinary set, to check an outline by before its data are read."""
    shape = StructureFacts(share=0.1, thickness=0.2, variation=0.2, absent=0.0, skew=0.0)
    size: tuple[int, ...] = (LARGEST_DRAWN, LARGEST_DRAWN)
    extent: tuple[float, ...] | None = None
    if (given := volume_size(outline)) is not None:
        size = given
    if outline.given["data"]["source"] == "coronary-simulator":  # it draws in mm
        size, extent = SIZE, (SIZE[0] * SPACING, SIZE[1] * SPACING)
    return Fingerprint(
        subjects=1000,
        images=1000,
        parts={},
        size=size,
        aspect=size[1] / size[0] if len(size) == 2 else 1.0,
        odd=0.0,
        extent=extent,
        exposure=0.1,
        contrast=0.2,
        structures=dict.fromkeys(outline.masked, shape),
        skews={},
    )


def volume_size(outline: Outline) -> tuple[int, ...] | None:
    """The grid that is given of a study of volumes; None of one of images."""
    size = outline.section("image").get("size")
    try:
        return Image(size=tuple(size)).size if isinstance(size, list | tuple) and len(size) == 3 else None
    except ValidationError:
        return None  # the study says what is wrong


def take_fingerprint(study: Study, outline: Outline, data: Path | None, progress: Progress) -> Fingerprint:
    """Look at the data of a study.

    Args:
        study: ``outline`` with a plan of an ordinary set.
        outline: what the user gave.
        data: folder of images, masks and table, where the study reads one.
        progress: what the user sees.

    Raises:
        DataError: the data cannot be read, or no sample can be used.
    """
    if isinstance(study.data, SimulatedData):
        return _of_simulator(study, outline, progress)
    if data is None:
        raise DataError(Code.MISSING, "--data", f"say in which folder the images of study {study.name!r} are")
    return _of_folder(study, data, progress)


def _of_simulator(study: Study, outline: Outline, progress: Progress) -> Fingerprint:
    assert isinstance(study.data, SimulatedData)
    simulator, people = make_simulator(study), min(DRAWN, study.data.people)
    order, seen, values = mask_order(study, simulator), [], []
    for index in progress(range(people), people, "Drawing some subjects"):
        person = person_number(study.data.seed, index)
        attributes = simulator.attributes(person)
        image, masks = simulator.render(person, attributes)
        pixels = image.reshape(simulator.channels, *image.shape[-len(study.image.size) :])
        seen.append(_look(study, pixels / 255, masks[order] / 255, 1.0, None))
        values.append(attributes)
    rows = [[float(one[name]) for name in _continuous(study)] for one in values]
    found = _summary(study, seen, rows, study.data.people, study.data.people, {})
    usual = expected(outline)
    return replace(found, size=usual.size, aspect=usual.aspect, extent=usual.extent)


def _of_folder(study: Study, data: Path, progress: Progress) -> Fingerprint:
    assert not isinstance(study.data, SimulatedData)
    patients: dict[str, str] = {}
    rows: list[tuple[Folder, Row]] = []  # of subjects who are not to test
    values: list[list[float]] = []
    images, refused = 0, ""
    for folder, line in ((one, line) for one in folders_of(study, data, None) for line in one.read_lines()):
        try:
            if isinstance(line, Row):
                patient, part, attributes, _ = folder.read_cells(line)
                patients[patient] = part
                images += 1
                if part != "test":
                    rows.append((folder, line))
                    values.append([_number(attributes[name]) for name in _continuous(study)])
        except Rejected as error:
            refused = refused or str(error)
    seen = []
    chosen = rows[:: math.ceil(len(rows) / SAMPLED)] if rows else []
    workers = min(8, os.cpu_count() or 1)
    with closing(ahead(lambda one: _read(*one), chosen, workers, depth=2 * workers)) as found:
        for one in progress(found, len(chosen), "Looking at some images"):
            if isinstance(one, Rejected):
                refused = refused or str(one)
            else:
                seen.append(one)
    if not seen:
        raise DataError(Code.EMPTY, data, f"no sample can be used, so nothing can be planned; the first: {refused}")
    parts: dict[str, int] = {}
    if study.data.split is not None:
        for part in patients.values():
            parts[part] = parts.get(part, 0) + 1
    return _summary(study, seen, values, len(patients), images, parts)


def _continuous(study: Study) -> list[str]:
    """The continuous variables that are no measures."""
    numbers = (name for name, one in study.variables.items() if one.kind == "continuous" and not one.derived)
    return [name for name in numbers if name not in study.measured]


def _number(value: float | str | None) -> float:
    return value if isinstance(value, float) else math.nan


def _read(folder: Folder, row: Row) -> _Seen | Rejected:
    try:
        _, image, masks = folder.read_files(row.cells[folder.spec.id])
    except Rejected as error:
        return error
    coverage = masks.coverage if masks else None
    return _look(folder.study, image.grey, coverage, image.aspect, image.extent)


def _look(
    study: Study,
    grey: NDArray[np.float64],
    coverage: NDArray[np.float64] | None,
    aspect: float,
    extent: tuple[float, ...] | None,
) -> _Seen:
    """What is seen of an image (C, *size) and its masks (S, *size), both in [0, 1]; ``aspect`` is that of a pixel. What
    is seen of masks is NaN without them."""
    size, unit = grey.shape[1:], grey * 2 - 1
    whole = size[1] / (size[0] * aspect) if len(size) == 2 else 1.0
    mean, deviation = float(unit.mean()), float(unit.std())
    if coverage is None:
        unknown = (math.nan,) * len(study.masked)
        return _Seen(size, whole, extent, mean, deviation, unknown, unknown, (math.nan,) * len(_zones(study)))
    small, shrunk = coverage, min(1.0, LOOKED_AT / max(size))
    if len(size) == 2:
        small = average(coverage, tuple(max(1, round(length * shrunk)) for length in size))
    side = math.pow(math.prod(small.shape[1:]), 1 / len(size))
    thickness = tuple(_thickness(mask > 0.5) / side for mask in small)
    shares = tuple(float(mask.mean()) for mask in coverage)
    zones = tuple(_share(small[list(study.channels(name))], zone) for name, zone in _zones(study).items())
    return _Seen(size, whole, extent, mean, deviation, shares, thickness, zones)


def _zones(study: Study) -> dict[str, Zone]:
    return {name: one.zone for name, one in study.structures.items() if one.zone is not None}


def _share(masks: NDArray[np.float64], zone: Zone) -> float:
    """The share of the frame that lies in a zone of the union of masks (S, *size)."""
    union = torch.from_numpy(masks.max(axis=0))
    return float(inside(union, Grid(tuple(union.shape)), zone).mean())


def _thickness(mask: NDArray[np.bool_]) -> float:
    """Pixels across a structure where it is thickest; 0 where there is none."""
    within = np.pad(mask, 1)  # the frame's edge is an end, too
    return max(0.0, 2 * float(distance_transform_edt(within).max()) - 1)  # of a line of one pixel the distance is 1


def _summary(
    study: Study,
    seen: Sequence[_Seen],
    values: Sequence[Sequence[float]],
    subjects: int,
    images: int,
    parts: dict[str, int],
) -> Fingerprint:
    aspects = np.array([one.aspect for one in seen])
    aspect = float(np.median(aspects))
    deviations = np.array([one.deviation for one in seen])
    axes = range(len(seen[0].size))
    return Fingerprint(
        subjects=subjects,
        images=images,
        parts=parts,
        size=tuple(int(np.median([one.size[axis] for one in seen])) for axis in axes),
        aspect=aspect,
        odd=float(np.mean(np.abs(aspects / aspect - 1) > ASPECT_TOLERANCE)),
        extent=_common_extent([one.extent for one in seen]),
        exposure=float(np.std([one.mean for one in seen])),
        contrast=float(deviations.std() / max(deviations.mean(), 1e-6)),
        structures={
            name: _structure(np.array([one.shares[k] for one in seen]), np.array([one.thickness[k] for one in seen]))
            for k, name in enumerate(study.masked)
        },
        zones={
            name: _structure(np.array([one.zones[k] for one in seen]), np.zeros(len(seen)))
            for k, name in enumerate(_zones(study))
        },
        skews=_skews(_continuous(study), np.array(values, dtype=np.float64).reshape(len(values), -1)),
    )


def _structure(shares: NDArray[np.float64], thickness: NDArray[np.float64]) -> StructureFacts:
    known = ~np.isnan(shares)
    shares, thickness = shares[known], thickness[known]
    shown = shares > 0
    if not shown.any():
        return StructureFacts(share=0.0, thickness=0.0, variation=0.0, absent=1.0, skew=0.0)
    areas = shares[shown]
    return StructureFacts(
        share=float(areas.mean()),
        thickness=float(np.median(thickness[shown])),
        variation=float(areas.std() / areas.mean()),
        absent=float(1 - shown.mean()),
        skew=_skewness(areas),
    )


def _common_extent(extents: Sequence[tuple[float, ...] | None]) -> tuple[float, ...] | None:
    """Height and width (and depth) in mm of all images, where all say them and nearly the same."""
    known = np.array([extent for extent in extents if extent is not None])
    if len(known) < len(extents) or np.any(known.std(axis=0) > SAME_EXTENT * known.mean(axis=0)):
        return None
    return tuple(float(length) for length in np.median(known, axis=0))


def _skews(names: Sequence[str], values: NDArray[np.float64]) -> dict[str, float]:
    columns = ((name, column[~np.isnan(column)]) for name, column in zip(names, values.T, strict=True))
    return {name: _skewness(known) for name, known in columns if len(known) and known.min() > 0}


def _skewness(values: NDArray[np.float64]) -> float:
    """0 where all values are the same."""
    return float(skew(values)) if np.ptp(values) > 1e-9 * abs(values.mean()) else 0.0


def facts(fingerprint: Fingerprint) -> list[str]:
    """A fingerprint in words, a line each."""
    size, kind = " x ".join(map(str, fingerprint.size)), "pixels" if len(fingerprint.size) == 2 else "voxels"
    split = ", ".join(f"{count} {part}" for part, count in fingerprint.parts.items())
    lengths = " x ".join(f"{length:.4g}" for length in fingerprint.extent or ())
    mm = f", {lengths} mm" if lengths else ""
    shape = f"; {fingerprint.odd:.0%} of another shape" if len(fingerprint.size) == 2 else ""
    lines = [
        f"{fingerprint.images} images of {fingerprint.subjects} subjects" + (f" ({split})" if split else ""),
        f"{size} {kind}{mm} (median){shape}",
        f"greys differ between images by {fingerprint.exposure:.2f} in mean (of a range of 2), by "
        f"{fingerprint.contrast:.0%} in contrast",
    ]
    for name, one in fingerprint.structures.items():
        pixels = one.thickness * fingerprint.side
        lines.append(
            f"{name}: {one.share:.1%} of the frame +-{one.variation:.0%}, {pixels:.0f} {kind} across at its thickest, "
            f"absent in {one.absent:.0%}"
        )
    return lines
