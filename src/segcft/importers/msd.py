"""A task of the Medical Segmentation Decathlon as a folder of volumes.

Volumes and label maps stay as they are, byte for byte, but for those that are cut around their labels. Every file is
read, and every mask must lie on its volume. Beside the files of all conversions there is ``labels.csv`` with the
numbers and names of labels.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcft.errors import Code, DataError
from segcft.importers.convert import Summary, convert
from segcft.importers.converted import Converted
from segcft.io.imagefile import strip_suffix
from segcft.io.lie import Lie, check_lie
from segcft.io.maskfile import whole_numbers
from segcft.io.nifti import is_nifti
from segcft.io.reject import Excluded, Rejected, about
from segcft.io.scan import read_array
from segcft.io.volumeout import VOLUME, as_nifti, nifti_bytes
from segcft.utils.atomic import write_rows
from segcft.utils.digest import key_of
from segcft.utils.progress import Progress

if TYPE_CHECKING:
    from segcft.importers.formats.msd import MSD

DESCRIPTION = "dataset.json"
IMAGES, LABELS = "imagesTr", "labelsTr"
LABELS_TABLE = "labels.csv"
NO_LABEL = "no label in it"


class Pair(NamedTuple):
    """A volume and its label map, either of which may be missing."""

    id: str
    image: Path
    label: Path

    @property
    def stamp(self) -> str:
        """Changes when either file does."""
        found = [path.stat() for path in (self.image, self.label) if path.is_file()]
        return key_of([(one.st_size, one.st_mtime_ns) for one in found])


class Task(NamedTuple):
    """What the description of a task says."""

    channels: int
    labels: dict[int, str]
    """Without the background, 0."""


def convert_msd(options: MSD, out: Path, progress: Progress | None = None) -> Summary:
    """See :meth:`segcft.importers.importer.Importer.convert`."""
    task = read_task(options.folder)
    pairs = pairs_of(options.folder)
    if not pairs:
        raise DataError(Code.EMPTY, options.folder, f"no volume is in {IMAGES} or {LABELS}")
    summary = convert(
        pairs,
        len(pairs),
        lambda pair: _read(pair, task, options.margin),
        out,
        settings=options.settings | {"labels": {str(number): name for number, name in task.labels.items()}},
        splits=options.splits,
        workers=options.workers,
        progress=progress,
    )
    write_rows(out / LABELS_TABLE, [{"label": number, "name": name} for number, name in task.labels.items()])
    return summary


def read_task(folder: Path) -> Task:
    """The description of a task.

    Raises:
        DataError: there is none, or it is not what the Decathlon's are.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise DataError(Code.MISSING, path, "no such file: the folder of a task has a description")
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        labels = {int(number): str(name) for number, name in said["labels"].items()}
        channels = len(said["modality"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(Code.DAMAGED, path, f"expected 'labels' and 'modality' of a task ({error!r})") from None
    labels.pop(0, None)
    if not labels or not channels:
        raise DataError(Code.EMPTY, path, "it names no label beside the background, or no modality")
    return Task(channels, labels)


def pairs_of(folder: Path) -> list[Pair]:
    """Every volume that has an image or a label map, in the order of their names; systems' own files, which begin with
    a dot, are none."""
    found: dict[str, dict[str, Path]] = {}
    for part in (IMAGES, LABELS):
        for path in sorted((folder / part).glob("*")):
            if is_nifti(path) and not path.name.startswith("."):
                found.setdefault(strip_suffix(path.name), {})[part] = path
    missing = {part: folder / part for part in (IMAGES, LABELS)}
    each = {id: {part: missing[part] / f"{id}{VOLUME}" for part in missing} | own for id, own in sorted(found.items())}
    return [Pair(id, own[IMAGES], own[LABELS]) for id, own in each.items()]


def _read(pair: Pair, task: Task, margin: float | None) -> Converted:
    """The files of a pair.

    Raises:
        Rejected: one is missing or cannot be used, the label map lies elsewhere, or has other labels.
    """
    for path in (pair.image, pair.label):
        if not path.is_file():
            raise Excluded("file missing", f"{path}: no such file")
    values, lie, remarks = read_array(pair.image, task.channels)
    labels, own, more = read_array(pair.label)
    with about(pair.label):
        found = labels[..., 0]
        if found.shape != values.shape[:3]:
            sizes = (" x ".join(map(str, shape)) for shape in (found.shape, values.shape[:3]))
            raise Rejected("the label map has {} voxels, its volume {}".format(*sizes))
        check_lie(own, lie, found.shape)
        found = whole_numbers(found)
        unknown = set(np.unique(found).tolist()) - {0, *task.labels}
        if unknown:
            raise Rejected(f"it has {', '.join(f'{number:g}' for number in sorted(unknown))}, which are no labels")
    images = (as_nifti(pair.image), as_nifti(pair.label))
    if margin is not None:
        if not found.any():
            raise Excluded(NO_LABEL, f"{pair.label}: there is nothing around which to cut the volume")
        images = (_cut(values, lie, found, margin), _cut(found[..., None].astype(np.uint8), lie, found, margin))
    return Converted(pair.id, pair.id, *images, remarks=(*remarks, *more))


def _cut(values: NDArray[Any], lie: Lie, labels: NDArray[Any], margin: float) -> bytes:
    """The part of a volume (D, H, W, C) around labels (D, H, W), as a file."""
    box = []
    for axis, length in enumerate(labels.shape):
        along = np.flatnonzero(labels.any(axis=tuple(other for other in range(3) if other != axis)))
        beyond = int(np.ceil(margin / lie.spacing[axis]))
        box.append(slice(max(0, int(along[0]) - beyond), min(length, int(along[-1]) + 1 + beyond)))
    start = np.eye(4)
    start[:3, 3] = [one.start for one in box]
    return nifti_bytes(np.moveaxis(values[tuple(box)], -1, 0), replace(lie, affine=lie.affine @ start), None)
