"""Masks for images that have none, by readers of trained runs that must agree, as a folder that a study reads.

One network does not say when it is wrong. Several do, where they were trained on different people or by different
means: where they see different structures, the image is left out, and the reason is in the list.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from segcft.config.study import Study
from segcft.data.attributes import read_table
from segcft.data.crop import Crop
from segcft.data.resize import SQUARE, Pixel, fit_image, frame_of, pixel_of, smooth
from segcft.data.splits import PARTS
from segcft.errors import Code, DataError, RunError
from segcft.grey import to_unit
from segcft.importers.convert import Summary, convert
from segcft.importers.converted import COLUMNS, Converted, Value
from segcft.importers.masks import BITS, Plausibility, check_polarity, largest_parts
from segcft.io.dicomseg import DicomSource, Segmentations
from segcft.io.imagefile import SUFFIXES, ImageFile, find_file, is_dicom, read_image, strip_suffix
from segcft.io.reject import Excluded, Rejected, Remark, about
from segcft.pipeline.publish_readers import in_order
from segcft.pipeline.run import READERS, Run
from segcft.readers.reader import MaskReader
from segcft.utils.digest import digest_of, key_of
from segcft.utils.progress import Progress

TABLE, IMAGES = "metadata.csv", "images"
DISAGREEMENT, IMPLAUSIBLE = "readers disagree", Plausibility.KIND
AGREED = "_agreement"
"""After a structure: the column of the smallest Dice between two readers."""

SEGMENTATION = "dicom-seg/{id}.dcm"
"""The DICOM Segmentation of an image, in the folder that is written."""

MILLIMETRES = ("pixel_height_mm", "pixel_width_mm")
"""Columns of the size of a pixel, where it is known."""
SQUARE_ENOUGH = 0.02
"""How far the aspect of a pixel may be from 1 where its size is not known: a picture of grey values has square ones."""

MOST_STRUCTURES = 8
"""A mask file has a bit for each."""


class Read(NamedTuple):
    """One reader of a run."""

    study: Study
    network: MaskReader
    order: list[int]
    """Where the structures are among its own."""


@dataclass(frozen=True)
class Settings:
    """What is believed.

    Attributes:
        agreement: the least Dice between any two readers, of every structure, in 0..1.
        window: percentiles of each image that become black and white; None: as the studies of the runs read theirs.
        batch_size: images that are read at once.
        dicom_seg: write a DICOM Segmentation besides, of every image that is a DICOM file.
    """

    agreement: float = 0.85
    window: tuple[float, float] | None = None
    batch_size: int = 16
    dicom_seg: bool = False


class Readers:
    """Readers of the same structures, all of which must agree.

    Args:
        readers: at least one.
        structures: the names of what they see; structure k is bit k of a mask.
        device: where they compute.
        settings: what their masks depend on, in JSON's types.

    Raises:
        RunError: there are more structures than a mask has bits.
    """

    def __init__(
        self, readers: Sequence[Read], structures: Sequence[str], device: torch.device, settings: Mapping[str, Any]
    ) -> None:
        if len(structures) > MOST_STRUCTURES:
            raise RunError(Code.UNSUPPORTED, "structures", f"a mask has bits for {MOST_STRUCTURES}")
        self.readers, self.structures, self.device, self.settings = readers, structures, device, settings

    @classmethod
    def of(cls, runs: Sequence[Path], device: torch.device) -> Readers:
        """All readers of some runs, or of published models. A run has two readers, the segmentor and the judge, and so
        have published readers; a published model has the judge, and the segmentor if that guided it. The structures are
        in the order of the first (:func:`~segcft.pipeline.publish_readers.in_order`).

        Raises:
            RunError: a folder is no run, has no reader, sees other structures, or has colour images.
        """
        readers, structures, digests = list[Read](), list[str](), list[str]()
        for folder in runs:
            run = Run(folder)
            run.study.require_images(folder, "segmenting")
            names = list(run.study.masked)
            structures = structures or in_order(run.study)
            if set(names) != set(structures) or not names:
                why = f"it sees {', '.join(names) or 'nothing'}, and not {', '.join(structures) or 'a structure'}"
                raise RunError(Code.CONFLICT, folder, why)
            if run.study.image.channels != 1:
                raise RunError(Code.UNSUPPORTED, folder, "its study has colour images")
            parts = [part for part in READERS if run.path(part).is_file()]
            if not parts:
                raise RunError(Code.MISSING, folder, "it has no segmentor and no judge yet")
            order = [names.index(name) for name in structures]
            readers += [Read(run.study, run.load(part, device), order) for part in parts]
            digests += [digest_of(run.path(part)) for part in parts]
        return cls(readers, structures, device, {"readers": digests, "structures": structures})

    @property
    def chest(self) -> bool:
        """Whether they see lungs and heart, whose flags are then :data:`~segcft.importers.masks.BITS`."""
        return list(self.structures) == list(BITS)

    @property
    def side(self) -> int:
        """The most pixels a side that a reader sees."""
        return max(max(reader.study.image.size) for reader in self.readers)

    @torch.inference_mode()
    def __call__(self, samples: Sequence[Prepared]) -> Iterator[NDArray[np.float64]]:
        """What each reader sees of each sample: probabilities (R, S, h, w) in the sample's own frame, at
        :attr:`Prepared.seen`."""
        every = [self._seen(reader, [sample.fitted[k] for sample in samples]) for k, reader in enumerate(self.readers)]
        for number, sample in enumerate(samples):
            own = []
            for reader, seen in zip(self.readers, every, strict=True):
                start, extent = frame_of(sample.image.shape, reader.study.image, sample.pixel)
                own.append(Crop(start, extent, sample.seen).smooth(seen[number]))
            yield np.stack(own)

    def _seen(self, reader: Read, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """Probabilities (B, S, H, W) of images on the reader's grid, of each structure its largest part."""
        batch = torch.from_numpy(np.stack(images)).to(self.device)
        found = reader.network.masks(to_unit(batch))[:, reader.order].double().cpu().numpy()
        # Of lungs and heart there is one each; of others nobody knows how many parts they have.
        return np.stack([largest_parts(one) for one in found]) if self.chest else found


@dataclass(frozen=True)
class Prepared(Converted):
    """An image that is to be read.

    Attributes:
        fitted: the image on the grid of each reader, uint8 (1, H, W).
        pixel: the size of its pixels.
        seen: (h, w) of the frame in which readers are compared.
        source: what a DICOM Segmentation refers to; None where none is wanted, or the image is no DICOM file.
    """

    image: NDArray[np.uint8]
    fitted: tuple[NDArray[np.uint8], ...] = ()
    pixel: Pixel = SQUARE
    seen: tuple[int, int] = (1, 1)
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

    A mask is what the readers see on average, of every structure its largest part. It is left out where two readers
    overlap by less than ``settings.agreement`` or where no chest can look like it; ``rejected.csv`` says which and why.

    Args:
        readers: who reads.
        folder: of images, or with ``images`` and a table ``metadata.csv``, whose columns come along.
        out: folder to write: ``images``, ``masks`` (flags: bit 1 is the first structure, 2 the second, 4 the third, as
            lungs and heart have them), ``metadata.csv``, with the agreement on each structure, and, where they are
            wanted, ``dicom-seg``.
        settings: what is believed.
        progress: wraps the loop over images.

    Raises:
        DataError: there is no image, the table cannot be read, ``out`` holds something else, or DICOM segmentations
            are wanted and what writes them is not installed.
    """
    settings = settings or Settings()
    work = _Segmenting(readers, folder, settings)
    items = work.items()
    if not items:
        raise DataError(Code.EMPTY, folder, f"no image is in it (looked for {', '.join(SUFFIXES)})")
    return convert(
        items,
        len(items),
        work.read,
        out,
        settings={"format": "segment", **work.depends},
        finish=work.finish,
        batch_size=settings.batch_size,
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
        found = (path for path in sorted(self.images.rglob("*")) if path.name.lower().endswith(SUFFIXES))
        return [self._item(path.relative_to(self.images).as_posix(), {}) for path in found]

    def _item(self, id: str, cells: Mapping[str, str]) -> _Item:
        try:
            path = find_file(self.images, id)
            stat = path.stat()
            # Images that are to have a segmentation and have none yet are done again, and no others.
            wanted = [SEGMENTATION] if self.segmentations and is_dicom(path) else []
            seen = [stat.st_size, stat.st_mtime_ns, *wanted]
        except (Rejected, OSError):  # which is said when it is read
            seen = []
        return _Item(strip_suffix(id), cells, key_of(cells, seen))

    def read(self, item: _Item) -> Converted | Rejected:
        """The image of an item, as every reader wants it.

        Raises:
            Rejected: it cannot be read.
        """
        path = find_file(self.images, item.id)
        fitted, own = [], None
        for reader in self.readers.readers:
            seen, pixel = self._opened(path, reader.study)
            own = seen.grey if own is None else own
            with about(path):
                fitted.append(fit_image(seen.grey, reader.study.image, pixel))
        assert own is not None
        image = np.rint(own[0] * 255).astype(np.uint8)
        if pixel.millimetres is None and abs(pixel.aspect - 1) > SQUARE_ENOUGH:
            why = f"{path}: {pixel.aspect:.3g} times as high as wide, and nobody knows how large"
            raise Excluded("pixels are not square", why)
        cells = dict(item.cells)
        patient, split = cells.pop("patient", "") or item.id, cells.pop("split", "").lower()
        attributes: dict[str, Value] = {name: text or None for name, text in cells.items() if name not in COLUMNS}
        if pixel.millimetres is not None:
            attributes |= dict(zip(MILLIMETRES, pixel.millimetres, strict=True))
        height, width = image.shape
        shrunk = min(1.0, self.readers.side / max(height, width))
        return Prepared(
            item.id,
            patient,
            image,
            attributes=attributes,
            split=split if split in PARTS else None,
            remarks=seen.remarks,
            fitted=tuple(fitted),
            pixel=pixel,
            seen=(max(1, round(height * shrunk)), max(1, round(width * shrunk))),
            source=DicomSource.of(path, seen.turn) if self.segmentations and is_dicom(path) else None,
        )

    def _opened(self, path: Path, study: Study) -> tuple[ImageFile, Pixel]:
        spec = study.data.common
        window = self.settings.window or spec.window
        seen = read_image(path, 1, None if window else spec.grey_range, window, spec.nifti_axes)
        return seen, pixel_of(seen, spec.stated)

    def finish(self, samples: Sequence[Converted]) -> list[Converted | Rejected]:
        prepared = [sample for sample in samples if isinstance(sample, Prepared)]
        return [self._masked(*one) for one in zip(prepared, self.readers(prepared), strict=True)]

    def _masked(self, sample: Prepared, seen: NDArray[np.float64]) -> Converted | Rejected:
        agreed = agreement(seen >= 0.5)
        for name, dice in zip(self.readers.structures, agreed, strict=True):
            if dice < self.settings.agreement:
                why = f"two readers' masks of {name} overlap by a Dice of {dice:.2f}, below {self.settings.agreement:g}"
                return Excluded(DISAGREEMENT, why)
        coverage = smooth(seen.mean(axis=0), sample.image.shape)
        mask = np.zeros(sample.image.shape, dtype=np.uint8)
        for bit, inside in enumerate(coverage >= 0.5):
            mask |= np.uint8(1 << bit) * inside.astype(np.uint8)
        try:
            self._check(sample.image, mask)
        except Rejected as reason:
            return reason
        found = {f"{name}{AGREED}": round(float(d), 4) for name, d in zip(self.readers.structures, agreed, strict=True)}
        masked = replace(sample, mask=mask, attributes={**sample.attributes, **found}, fitted=(), source=None)
        if self.segmentations is None or sample.source is None:
            return masked
        try:
            return replace(masked, files={SEGMENTATION: self.segmentations.content(sample.source, mask)})
        except Excluded as reason:
            return replace(masked, remarks=(*sample.remarks, Remark(reason.kind, str(reason))))

    def _check(self, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
        """Check that a mask can be right.

        Raises:
            Excluded: it cannot, and why.
        """
        for bit, name in enumerate(self.readers.structures):
            if not (mask & (1 << bit)).any() and not self._may_be_absent(name):
                raise Excluded(IMPLAUSIBLE, f"no reader sees {name}")
        if self.readers.chest:
            Plausibility().check(mask)
            check_polarity(image, mask)

    def _may_be_absent(self, name: str) -> bool:
        return any(reader.study.may_be_absent(name) for reader in self.readers.readers)


def agreement(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The smallest Dice between two of R readers' masks (R, S, H, W), of each structure (S,).

    Two empty masks agree. One reader agrees with itself.
    """
    found = np.ones(masks.shape[1])
    for one, other in itertools.combinations(masks, 2):
        total = one.sum(axis=(1, 2)) + other.sum(axis=(1, 2))
        shared = (one & other).sum(axis=(1, 2))
        found = np.minimum(found, np.where(total > 0, 2 * shared / np.maximum(total, 1), 1.0))
    return found
