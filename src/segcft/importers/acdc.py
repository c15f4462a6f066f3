"""ACDC (Bernard et al. 2018) in its own format: a folder a patient, of which one heart becomes several slices.

``patientNNN/`` holds ``Info.cfg``, which says at which frames the heart is widest (ED) and smallest (ES), and for each
of the two ``patientNNN_frameMM.nii.gz`` and its mask ``patientNNN_frameMM_gt.nii.gz``. The film of the whole heartbeat,
``_4d.nii.gz``, is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segcft.data.crop import Crop
from segcft.data.resize import border_median
from segcft.errors import Code, DataError
from segcft.importers.convert import Summary, convert
from segcft.importers.converted import Converted, Value
from segcft.importers.shared import Shared
from segcft.io.reject import Excluded, Rejected, Remark, about
from segcft.io.volumefile import Stack, read_stack
from segcft.utils.loop import ahead
from segcft.utils.progress import Progress

if TYPE_CHECKING:
    from segcft.importers.formats.acdc import ACDC

LABELS = {"lv": 3, "myocardium": 2, "rv": 1}
"""Values of ACDC's masks; 0 is all else."""
BITS = {"lv": 1, "myocardium": 2, "rv": 4}
"""Flags of the result's masks; no pixel has two of them."""

PHASES = ("ED", "ES")
"""End-diastole, when the heart is widest, and end-systole."""
POSITIONS = ("base", "mid", "apex")
"""Thirds of the way from the first slice that is taken to the last."""
GROUPS = ("NOR", "DCM", "HCM", "MINF", "RV")
"""Diagnoses: none, dilated and hypertrophic cardiomyopathy, infarction, abnormal right ventricle."""

OFFICIAL = ("training", "testing")
"""Folders of the challenge's own split, which is noted and not used."""

MOST_INFO = 1 << 16
"""Bytes of an ``Info.cfg``; ACDC's have a hundred."""

CUT_OFF = 0.01
"""Share of a heart outside of the frame above which a user is told."""

_PATIENT = re.compile(r"patient\d+")
_UNCLEAR = "Info.cfg unclear"
_SHAPES = "shapes differ"


def convert_acdc(options: ACDC, out: Path, progress: Progress | None = None) -> Summary:
    """See :class:`~segcft.importers.formats.acdc.ACDC`. All masks are looked at first, to choose slices.

    Raises:
        DataError: also where there is no patient, or two folders are called alike.
    """
    patients = find_patients(options.folder)
    items = list(_items(patients, options, progress))
    return convert(
        items,
        len(items),
        _Reader(options, patients).read,
        out,
        settings=options.settings,
        splits=options.splits,
        workers=options.workers,
        progress=progress,
    )


def find_patients(folder: Path) -> dict[str, Path]:
    """Id, ``patient001``, -> folder of every patient in ``folder`` or below.

    Raises:
        DataError: there is none, or there are two of one patient.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("patient*")):
        if _PATIENT.fullmatch(path.name) and path.is_dir():
            if path.name in found:
                raise DataError(Code.DUPLICATE, path, f"is also {found[path.name]}; name the folder of one of them")
            found[path.name] = path
    if not found:
        raise DataError(Code.EMPTY, folder, "holds no folder of a patient like patient001")
    return dict(sorted(found.items()))


class Info(NamedTuple):
    """What an ``Info.cfg`` says: the ``frames`` of :data:`PHASES`, counted from 1, and facts about the patient."""

    frames: Mapping[str, int]
    group: str
    height: float | None
    weight: float | None


def read_info(folder: Path) -> Info:
    """The ``Info.cfg`` of a patient's folder.

    Raises:
        Rejected: it is missing, or does not say what it should.
    """
    path = folder / "Info.cfg"
    if not path.is_file():
        raise Excluded("Info.cfg missing", f"{path}: no such file, so ED and ES are not known")
    with about(path, _UNCLEAR):
        try:
            with path.open("rb") as file:
                text = file.read(MOST_INFO + 1).decode("utf-8", errors="replace")
        except OSError as error:
            raise Rejected(f"cannot read this file ({error.strerror})") from None
        if len(text) > MOST_INFO:
            raise Rejected(f"more than {MOST_INFO >> 10} KiB, expected a few lines like 'ED: 1'")
        return parse_info(text)


def parse_info(text: str) -> Info:
    """What the lines ``KEY: VALUE`` of an ``Info.cfg`` say.

    Raises:
        Rejected: ED, ES or Group is missing, or cannot be what it is.
    """
    cells = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    frames = {}
    for phase in PHASES:
        if not re.fullmatch(r"[0-9]{1,4}", cells.get(phase, "")):
            raise Rejected(f"{phase}: expected the number of a frame, not {cells.get(phase, '')!r}")
        frames[phase] = int(cells[phase])
    if frames["ED"] == frames["ES"]:
        raise Rejected(f"ES: frame {frames['ES']} is that of ED")
    if cells.get("Group") not in GROUPS:
        raise Rejected(f"Group: expected one of {', '.join(GROUPS)}, not {cells.get('Group', '')!r}")
    return Info(frames, cells["Group"], _positive("Height", cells), _positive("Weight", cells))


def _positive(key: str, cells: Mapping[str, str]) -> float | None:
    """A number above 0; None where there is no such line or it says nothing."""
    text = cells.get(key, "")
    if not text or text.lower() == "nan":
        return None
    if not re.fullmatch(r"[0-9]{1,4}(?:\.[0-9]*)?", text) or not float(text):
        raise Rejected(f"{key}: expected a number above 0, not {text!r}")
    return float(text)


def choose(hearts: Mapping[int, int], count: int | str) -> dict[int, str | None]:
    """Slices to take, from base to apex, and the position of each; None where one slice alone says nothing of that.

    Args:
        hearts: slice -> area of the heart in it, of all that may be taken. There is more heart at the base.
        count: how many; a word, "all", is every one.
    """
    places = sorted(hearts)
    half = (len(places) + 1) // 2
    if sum(hearts[k] for k in places[:half]) < sum(hearts[k] for k in places[-half:]):
        places.reverse()
    most = len(places) if isinstance(count, str) else min(count, len(places))
    if most == 1:
        return {places[len(places) // 2]: None}
    chosen = np.rint(np.linspace(0, len(places) - 1, most)).astype(int)
    shares = np.linspace(0, 1, most)
    return {
        places[k]: POSITIONS[min(int(3 * share), 2)] for k, share in zip(chosen.tolist(), shares.tolist(), strict=True)
    }


@dataclass(frozen=True)
class _Item:
    """A slice at a phase; of a patient that cannot be used, why."""

    patient: str
    slice: int = 0
    position: str | None = None
    phase: str = ""
    fault: Rejected | None = None

    @property
    def id(self) -> str:
        return self.patient if self.fault else f"{self.patient}_s{self.slice + 1:02}_{self.phase}"


def _items(patients: Mapping[str, Path], options: ACDC, progress: Progress | None) -> Iterator[_Item]:
    def slices(patient: str) -> dict[int, str | None] | Rejected:
        try:
            return choose(_hearts(patients[patient], read_info(patients[patient])), options.slices)
        except Rejected as fault:
            return fault

    with closing(ahead(slices, patients, options.workers or 4, depth=16)) as looking:
        found = (progress or Progress())(looking, len(patients), "Looking at masks")
        for patient, chosen in zip(patients, found, strict=True):
            if isinstance(chosen, Rejected):
                yield _Item(patient, fault=chosen)
                continue
            for k, position in chosen.items():
                yield from (_Item(patient, k, position, phase) for phase in PHASES)


def _hearts(folder: Path, info: Info) -> dict[int, int]:
    """Slice -> pixels of the heart at ED, of the slices that show all of it at both phases."""
    ed, es = (_read_mask(folder, info.frames[phase]).values for phase in PHASES)
    if ed.shape != es.shape:
        raise Excluded(_SHAPES, f"{folder}: the masks have {_size(ed)} voxels at ED and {_size(es)} at ES")
    whole = [k for k in range(ed.shape[2]) if all((m[..., k] == v).any() for m in (ed, es) for v in LABELS.values())]
    if not whole:
        raise Excluded("no whole slice", f"{folder}: no slice shows both ventricles and the myocardium at ED and ES")
    return {k: int(np.count_nonzero(ed[..., k])) for k in whole}


def _read_mask(folder: Path, frame: int) -> Stack:
    path = _file(folder, frame, "_gt", "mask missing")
    mask = read_stack(path)
    if not np.isin(mask.values, [0, *LABELS.values()]).all():
        raise Excluded("unknown label", f"{path}: expected the values 0 to 3 alone, as ACDC's masks have")
    return mask


def _file(folder: Path, frame: int, ending: str, kind: str) -> Path:
    """The NIfTI file of a frame, packed or not."""
    name = f"{folder.name}_frame{frame:02}{ending}.nii"
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise Excluded(kind, f"{folder}: no {name}.gz")


class _Heart(NamedTuple):
    """A patient's facts, and image and mask at each of :data:`PHASES`."""

    info: Info
    images: Mapping[str, Stack]
    masks: Mapping[str, Stack]


def read_heart(folder: Path) -> _Heart:
    """All that is read of a patient.

    Raises:
        Rejected: something is missing or unreadable, or images and masks are not of one grid.
    """
    info = read_info(folder)
    images = {phase: read_stack(_file(folder, info.frames[phase], "", "frame missing")) for phase in PHASES}
    masks = {phase: _read_mask(folder, info.frames[phase]) for phase in PHASES}
    first = images["ED"]
    for phase in PHASES:
        for what, stack in (("image", images[phase]), ("mask", masks[phase])):
            if stack.values.shape != first.values.shape:
                sizes = f"{_size(stack.values)} voxels, the image at ED {_size(first.values)}"
                raise Excluded(_SHAPES, f"{folder}: the {what} at {phase} has {sizes}")
            if not np.allclose(stack.spacing, first.spacing, rtol=1e-3):
                found = " x ".join(f"{edge:g}" for edge in stack.spacing)
                expected = " x ".join(f"{edge:g}" for edge in first.spacing)
                why = f"the {what} at {phase} has pixels of {found} mm, the image at ED of {expected} mm"
                raise Excluded("spacings differ", f"{folder}: {why}")
    return _Heart(info, images, masks)


def _size(values: NDArray[np.generic]) -> str:
    return " x ".join(map(str, values.shape))


class _Reader:
    """Makes a sample of a slice at a phase."""

    def __init__(self, options: ACDC, patients: Mapping[str, Path]) -> None:
        self.options, self.patients = options, patients
        self._hearts: Shared[str, _Heart] = Shared(lambda patient: read_heart(patients[patient]), 16)

    def read(self, item: _Item) -> Converted:
        if item.fault:
            raise item.fault
        folder, heart = self.patients[item.patient], self._hearts(item.patient)
        reference = _picture(heart.images["ED"], item.slice)
        frame = self._frame(_picture(heart.masks["ED"], item.slice), heart.images["ED"].spacing)
        low, high = (float(limit) for limit in np.percentile(reference, self.options.window))
        if not low < high:  # values that are no numbers come here too
            raise Excluded("constant image", f"{folder}: slice {item.slice + 1} at ED is {low:g} all over")
        grey = _picture(heart.images[item.phase], item.slice)
        fill = float(border_median(reference[None])[0])
        shown = (frame.smooth(np.clip(grey, low, high), min(max(fill, low), high)) - low) / (high - low)
        label = _picture(heart.masks[item.phase], item.slice)
        flags, remarks = self._flags(label, frame, folder)
        scale = frame.extent[0] / frame.size[0] * heart.images["ED"].spacing[1]
        info = heart.info
        known: dict[str, Value] = {
            "phase": item.phase,
            "position": item.position,
            "group": info.group,
            "slice": item.slice + 1,
            "height_cm": info.height,
            "weight_kg": info.weight,
            "pixel_mm": round(scale, 4),
            "official": folder.parent.name if folder.parent.name in OFFICIAL else None,
        }
        known |= {f"{name}_area": int(np.count_nonzero(flags == bit)) for name, bit in BITS.items()}
        image = np.rint(shown * 255).astype(np.uint8)
        return Converted(item.id, item.patient, image, flags, known, remarks=remarks)

    def _frame(self, label: NDArray[np.float64], spacing: tuple[float, float]) -> Crop:
        """The frame around a heart."""
        heart = label > 0
        centre = (_middle(heart, across=1), _middle(heart, across=0))
        (height, width), size = self.options.size, self.options.field_of_view
        extent = (size / spacing[1], size * width / height / spacing[0]) if size else None
        return Crop.around(centre, extent, self.options.size)

    def _flags(
        self, label: NDArray[np.float64], frame: Crop, folder: Path
    ) -> tuple[NDArray[np.uint8], tuple[Remark, ...]]:
        """A pixel is what covers most of it."""
        coverage = frame.average(np.stack([label == value for value in LABELS.values()]))
        cell = frame.extent[0] / frame.size[0] * frame.extent[1] / frame.size[1]
        outside = 1 - coverage.sum() * cell / np.count_nonzero(label)
        classes = np.concatenate([coverage, 1 - coverage.sum(axis=0, keepdims=True)])
        flags = np.array([*BITS.values(), 0], dtype=np.uint8)[classes.argmax(axis=0)]
        if outside <= CUT_OFF:
            return flags, ()
        text = f"{folder}: {outside:.0%} of the heart is outside of the image; see --field-of-view"
        return flags, (Remark("heart cut off", text),)


def _picture(stack: Stack, k: int) -> NDArray[np.float64]:
    """A slice as it is looked at, (H, W): x goes to the right and y down, as ACDC's files are stored."""
    return np.asarray(stack.values[..., k], dtype=np.float64).T


def _middle(heart: NDArray[np.bool_], across: int) -> float:
    """The middle of what a mask takes of an axis, ``across`` the other one, in pixels; the first goes from 0 to 1."""
    places = np.flatnonzero(heart.any(axis=across))
    return float(places[0] + places[-1] + 1) / 2
