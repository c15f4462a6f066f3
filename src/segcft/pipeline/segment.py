"""Masks for images or volumes that have none, by readers of trained runs that must agree: a folder that a study reads.

One network does not say when it is wrong. Several do, where they were trained on different people or by different
means: where they see different structures, the image is left out, and the reason is in the list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcft.data.attributes import read_table
from segcft.data.resize import Pixel, pixel_of, smooth
from segcft.data.splits import PARTS
from segcft.errors import Code, DataError
from segcft.importers.convert import Summary, convert
from segcft.importers.converted import COLUMNS, Converted, Value
from segcft.importers.masks import Plausibility, check_polarity
from segcft.io.dicomseg import DicomSource, Segmentations
from segcft.io.imagefile import SUFFIXES, ImageFile, find_file, is_dicom, strip_suffix
from segcft.io.lie import Lie
from segcft.io.nifti import NIFTI
from segcft.io.reject import Excluded, Rejected, Remark, about
from segcft.io.scan import find_scan, is_series, read_seen, series_below
from segcft.io.volumeout import as_nifti, nifti_bytes
from segcft.pipeline.readers import Readers, Views, agreement
from segcft.utils.digest import key_of
from segcft.utils.output import check_apart
from segcft.utils.progress import Progress

TABLE, IMAGES = "metadata.csv", "images"
DISAGREEMENT, IMPLAUSIBLE = "readers disagree", Plausibility.KIND
AGREED = "_agreement"
"""After a structure: the column of the smallest Dice between two readers."""

SEGMENTATION = "dicom-seg/{id}.dcm"
"""The DICOM Segmentation of an image, in the folder that is written."""

MILLIMETRES = ("pixel_height_mm", "pixel_width_mm")
"""Columns of the size of a pixel, where it is known; files of volumes say it themselves."""
SQUARE_ENOUGH = 0.02
"""How far the aspect of a pixel may be from 1 where its size is not known: a picture of grey values has square ones."""

BATCH = 16
"""Images that are read at once; of volumes, which are large, it is one."""
OPENED = 2
"""Threads that open volumes, each of which holds one."""


@dataclass(frozen=True)
class Settings:
    """What is believed.

    Attributes:
        agreement: the least Dice between any two readers, of every structure, in 0..1.
        window: percentiles of each image that become black and white; None: as the studies of the runs read theirs.
        batch_size: images that are read at once; None: :data:`BATCH`, and volumes one by one.
        dicom_seg: write a DICOM Segmentation besides, of every image that is a DICOM file and every series.
    """

    agreement: float = 0.85
    window: tuple[float, float] | None = None
    batch_size: int | None = None
    dicom_seg: bool = False


@dataclass(frozen=True)
class Prepared(Converted):
    """An image or a volume that is to be read.

    Attributes:
        path: its file, or the folder of its series.
        shape: its size, (H, W) or (D, H, W).
        views: it as readers get it.
        lie: how a volume lies in the patient.
        source: what a DICOM Segmentation refers to; None where none is wanted, or the image is not DICOM.
    """

    path: Path = Path()
    shape: tuple[int, ...] = ()
    views: Views | None = None
    lie: Lie | None = None
    source: DicomSource | None = None


class _Item(NamedTuple):
    """A row of the table, or a file without one."""

    id: str
    cells: Mapping[str, str]
    stamp: str
    """Changes when the row or the file does."""


def segment(
    readers: Readers,
    folder: Path,
    out: Path,
    *,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Write a folder with the images of another one and their masks; the same call goes on after an interruption.

    A mask is what the readers see on average, of lungs and heart their largest parts. It is left out where two readers
    overlap by less than ``settings.agreement`` or where no chest can look like it; ``rejected.csv`` says which and why.
    Of readers of volumes the images are volumes, which stay as they are; a mask has its volume's voxels, axes and
    affine.

    Args:
        readers: who reads.
        folder: of images, or with ``images`` and a table ``metadata.csv``, whose columns come along.
        out: folder to write: ``images``, ``masks`` (flags: bit 1 is the first structure, 2 the second, 4 the third, as
            lungs and heart have them), ``metadata.csv``, with the agreement on each structure, and, where they are
            wanted, ``dicom-seg``. It may not be among the images.
        settings: what is believed.
        progress: wraps the loop over images.

    Raises:
        DataError: there is no image, the table cannot be read, ``out`` holds something else, or DICOM segmentations
            are wanted and what writes them is not installed.
    """
    settings, volumes = settings or Settings(), readers.grid.is_volume
    work = _Segmenting(readers, folder, settings)
    check_apart(out, work.images)
    items = work.items()
    if not items:
        kinds = (*NIFTI, "folders with a DICOM series") if volumes else SUFFIXES
        itself = ", and it is one itself: name the folder above it" if volumes and is_series(folder) else ""
        raise DataError(Code.EMPTY, folder, f"no image is in it (looked for {', '.join(kinds)}{itself})")
    return convert(
        items,
        len(items),
        work.read,
        out,
        settings={"format": "segment", **work.depends},
        finish=work.finish,
        batch_size=settings.batch_size or (1 if volumes else BATCH),
        workers=OPENED if volumes else None,
        progress=progress,
        files=[SEGMENTATION] if settings.dicom_seg else [],
    )


class _Segmenting:
    """The steps of :func:`segment`."""

    def __init__(self, readers: Readers, folder: Path, settings: Settings) -> None:
        if not folder.is_dir():
            raise DataError(Code.MISSING, folder, "no such folder")
        self.readers, self.folder, self.settings = readers, folder, settings
        self.images = folder / IMAGES if (folder / IMAGES).is_dir() else folder
        self.depends = {"agreement": settings.agreement, "window": settings.window, **readers.settings}
        self.segmentations = Segmentations(readers.structures, self.depends) if settings.dicom_seg else None

    def items(self) -> list[_Item]:
        table = self.folder / TABLE
        if table.is_file():
            rows, _ = read_table(table, {"id": "names of images"})
            return [self._item(row.cells["id"], row.cells) for row in rows]
        volumes = self.readers.grid.is_volume
        kinds = NIFTI if volumes else SUFFIXES
        found = {path for path in self.images.rglob("*") if path.name.lower().endswith(kinds)}
        if volumes:  # beside which systems keep notes of theirs
            found = {path for path in found if not path.name.startswith(".")} | series_below(self.images)
        return [self._item(path.relative_to(self.images).as_posix(), {}) for path in sorted(found)]

    def _find(self, id: str) -> Path:
        """The file of an image, or the file or folder of a volume.

        Raises:
            Rejected: there is none, or more than one.
        """
        return find_scan(self.images, id) if self.readers.grid.is_volume else find_file(self.images, id)

    def _has_segmentation(self, path: Path) -> bool:
        """Whether a DICOM Segmentation is wanted, and an image is DICOM, or the folder of a series."""
        return self.segmentations is not None and (path.is_dir() or is_dicom(path))

    def _item(self, id: str, cells: Mapping[str, str]) -> _Item:
        try:
            path = self._find(id)
            stats = [one.stat() for one in (sorted(path.iterdir()) if path.is_dir() else [path])]
            # Images that are to have a segmentation and have none yet are done again, and no others.
            wanted = [SEGMENTATION] if self._has_segmentation(path) else []
            seen = [*(number for stat in stats for number in (stat.st_size, stat.st_mtime_ns)), *wanted]
        except (Rejected, OSError):  # which is said when it is read
            seen = []
        return _Item(strip_suffix(id), cells, key_of(cells, seen))

    def read(self, item: _Item) -> Converted | Rejected:
        """The image of an item, as every reader wants it.

        Raises:
            Rejected: it cannot be read.
        """
        path = self._find(item.id)
        each = self._opened(path)
        with about(path):
            views = self.readers.views(each)
        first, (seen, pixel) = each[0][0], each[-1]
        if pixel.millimetres is None and abs(pixel.aspect - 1) > SQUARE_ENOUGH:
            why = f"{path}: {pixel.aspect:.3g} times as high as wide, and nobody knows how large"
            raise Excluded("pixels are not square", why)
        cells = dict(item.cells)
        patient, split = cells.pop("patient", "") or item.id, cells.pop("split", "").lower()
        attributes: dict[str, Value] = {name: text or None for name, text in cells.items() if name not in COLUMNS}
        if pixel.millimetres is not None and first.lie is None:
            attributes |= dict(zip(MILLIMETRES, pixel.millimetres, strict=True))
        return Prepared(
            item.id,
            patient,
            as_nifti(path, len(first.grey)) if first.lie else _pixels(first.grey),
            attributes=attributes,
            split=split if split in PARTS else None,
            remarks=seen.remarks,
            path=path,
            shape=first.size,
            views=views,
            lie=first.lie,
            source=DicomSource.of(path, first.lie or seen.turn) if self._has_segmentation(path) else None,
        )

    def _opened(self, path: Path) -> list[tuple[ImageFile, Pixel]]:
        """An image as the study of each reader reads it; where they read alike it is read once."""
        found: dict[object, tuple[ImageFile, Pixel]] = {}
        each = []
        for reader in self.readers.readers:
            spec, grid = reader.study.data.common, reader.study.image
            window = self.settings.window or spec.window
            how = (None if window else spec.grey_range, window, spec.nifti_axes)
            key = (*how, spec.stated)
            if key not in found:
                seen = read_seen(path, len(grid.size), grid.channels, *how)
                found[key] = seen, pixel_of(seen, spec.stated)
            each.append(found[key])
        return each

    def finish(self, samples: Sequence[Converted]) -> list[Converted | Rejected]:
        prepared = [sample for sample in samples if isinstance(sample, Prepared)]
        seen = self.readers([sample.views for sample in prepared if sample.views])
        return [self._masked(*one) for one in zip(prepared, seen, strict=True)]

    def _masked(self, sample: Prepared, seen: NDArray[np.float64]) -> Converted | Rejected:
        agreed = agreement(seen >= 0.5)
        for name, dice in zip(self.readers.structures, agreed, strict=True):
            if dice < self.settings.agreement:
                why = f"two readers' masks of {name} overlap by a Dice of {dice:.2f}, below {self.settings.agreement:g}"
                return Excluded(DISAGREEMENT, why)
        coverage = smooth(seen.mean(axis=0), sample.shape)
        mask = np.zeros(sample.shape, dtype=np.uint8)
        for bit, inside in enumerate(coverage >= 0.5):
            mask |= np.uint8(1 << bit) * inside.astype(np.uint8)
        try:
            self._check(sample.image, mask)
            content = mask if sample.lie is None else _mask_file(mask, sample.path, sample.lie)
        except Rejected as reason:
            return reason
        found = {f"{name}{AGREED}": round(float(d), 4) for name, d in zip(self.readers.structures, agreed, strict=True)}
        masked = replace(sample, mask=content, attributes={**sample.attributes, **found}, views=None, source=None)
        if self.segmentations is None or sample.source is None:
            return masked
        try:
            return replace(masked, files={SEGMENTATION: self.segmentations.content(sample.source, mask)})
        except Excluded as reason:
            return replace(masked, remarks=(*sample.remarks, Remark(reason.kind, str(reason))))

    def _check(self, image: NDArray[np.uint8] | bytes, mask: NDArray[np.uint8]) -> None:
        """Check that a mask can be right: that all is there, and on a radiograph, that a chest can look like it.

        Raises:
            Excluded: it cannot, and why.
        """
        for bit, name in enumerate(self.readers.structures):
            if not (mask & (1 << bit)).any() and not self._may_be_absent(name):
                raise Excluded(IMPLAUSIBLE, f"no reader sees {name}")
        if self.readers.chest and isinstance(image, np.ndarray):
            Plausibility().check(mask)
            check_polarity(image, mask)

    def _may_be_absent(self, name: str) -> bool:
        return any(reader.study.may_be_absent(name) for reader in self.readers.readers)


def _pixels(grey: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Values (C, H, W) in [0, 1] as a file has them: grey levels (H, W), or red, green and blue (H, W, 3)."""
    levels = np.rint(grey * 255).astype(np.uint8)
    return levels[0] if len(levels) == 1 else np.moveaxis(levels, 0, -1)


def _mask_file(mask: NDArray[np.uint8], path: Path, lie: Lie) -> bytes:
    """The flags (D, H, W) of the volume at ``path`` as a NIfTI file, on its voxels, as they are stored."""
    return nifti_bytes(mask[None], lie, None, like=None if path.is_dir() else path)
