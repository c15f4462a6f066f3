"""An answer as files: pictures, volumes, numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segcft.api.full import change_of, own_values
from segcft.api.question import ImageLike, bare
from segcft.errors import Code, DataError
from segcft.io.lie import Lie
from segcft.io.provenance import dicom_bytes, png_bytes
from segcft.io.reject import Rejected
from segcft.io.scan import grey_limits, read_array
from segcft.io.source import MemoryFile
from segcft.io.volumeout import is_volume_file, nifti_bytes, series_bytes
from segcft.utils.atomic import write_bytes, write_text
from segcft.utils.output import RECORD, check_answer, check_apart

if TYPE_CHECKING:
    from segcft.api.answer import Answer

FULL = "counterfactual-full"
"""The file of the counterfactual in the image's own pixels."""
SERIES = "dicom"
"""The folder of the counterfactual of a volume as a DICOM series."""
EARLIER = ("band", "spread", "uncertainty", "draw-[0-9]*", FULL)
"""What an earlier answer may have had that this one lacks: more draws, full resolution."""


def save_answer(answer: Answer, path: Path, full_resolution: bool | ImageLike) -> None:
    """:meth:`segcft.api.answer.Answer.save`."""
    check_answer(path, answer.is_volume)
    own = None if answer.source is None else bare(answer.source)
    if isinstance(own, str | Path):
        check_apart(path, Path(own))
    full = full_resolution is not False
    if full and path.suffix.lower() == ".json":
        raise DataError(Code.CONFLICT, path, "numbers have no resolution; leave out full_resolution")
    if full and answer.is_volume and path.suffix.lower() == ".png":
        raise DataError(Code.CONFLICT, path, "a picture has planes of the model's grid; write .nii.gz, or a folder")
    image = None if isinstance(full_resolution, bool) else full_resolution
    # All of it before anything changes.
    text = json.dumps(answer.record, indent=1, allow_nan=False, ensure_ascii=False)
    if path.suffix.lower() == ".json":
        write_text(path, text)
    elif is_volume_file(path):
        content = full_volume(answer, image, path) if full else volume_bytes(answer, answer.image, path)
        write_bytes(path, content)
    elif path.suffix.lower() in (".png", ".dcm", ".dicom"):
        pixels, spacing = answer.full(image) if full else (answer.image, answer.spacing)
        is_png = path.suffix.lower() == ".png"
        write_bytes(path, answer.png(pixels) if is_png else dicom_bytes(pixels, answer.provenance, spacing))
    else:
        files = _files(answer)
        if full and answer.is_volume:
            files[f"{FULL}.nii.gz"] = full_volume(answer, image, path)
        elif full:
            files[f"{FULL}.png"] = answer.png(answer.full(image)[0])
        _write_folder(path, text, files)


def _write_folder(path: Path, text: str, files: Mapping[str, bytes]) -> None:
    write_text(path / RECORD, text)  # first: by it the folder is known again
    for old in [*(one for name in EARLIER for one in path.glob(f"{name}.*")), *path.glob(f"{SERIES}/*.dcm")]:
        if old.relative_to(path).as_posix() not in files:
            old.unlink()
    for name, content in files.items():
        write_bytes(path / name, content)


def _files(answer: Answer) -> dict[str, bytes]:
    shown = np.clip(answer.difference // 2 + 128, 0, 255).astype(np.uint8)  # grey: unchanged
    files = {
        "image.png": png_bytes(answer.picture(answer.original)),
        "counterfactual.png": answer.png(answer.image),
        "difference.png": answer.png(shown),
    }
    if answer.band is not None:
        files["band.png"] = answer.png(picture_of(answer.band, WIDE))
    if answer.spread is not None:
        files["spread.png"] = answer.png(picture_of(answer.spread, WHITE))
    files |= {f"draw-{k}.png": answer.png(draw) for k, draw in enumerate(answer.draws, start=1)}
    return files | (_volumes(answer) if answer.is_volume else {})


def _volumes(answer: Answer) -> dict[str, bytes]:
    """The same as volumes, and the counterfactual as a DICOM series."""
    stacks: dict[str, NDArray[Any]] = {"counterfactual": answer.image, "difference": answer.difference}
    stacks |= {name: one for name, one in (("band", answer.band), ("spread", answer.spread)) if one is not None}
    files = {f"{name}.nii.gz": volume_bytes(answer, one) for name, one in stacks.items()}
    if has_series(answer):
        files |= {f"{SERIES}/{number:04}.dcm": content for number, content in enumerate(slices_of(answer), start=1)}
    return files


def has_series(answer: Answer) -> bool:
    """Whether the counterfactual of a volume can be a DICOM series, which has one channel."""
    return len(answer.image) == 1


def slices_of(answer: Answer) -> Iterator[bytes]:
    """The counterfactual of a volume as the files of a DICOM series."""
    return series_bytes(answer.image, lie_of(answer), answer.provenance)


def lie_of(answer: Answer) -> Lie:
    """How the volume of an answer lies, where nobody says it as if its axes were those of the patient."""
    return answer.lie or Lie.straight(tuple(answer.spacing or (1.0, 1.0, 1.0)))


def volume_bytes(answer: Answer, values: NDArray[Any], path: Path | None = None) -> bytes:
    """Values (C, D, H, W) on the grid of an answer as a NIfTI file; ``path`` says whether it is compressed."""
    compressed = path is None or path.suffix.lower() == ".gz"
    return nifti_bytes(values, lie_of(answer), answer.provenance, compressed=compressed)


def full_volume(answer: Answer, image: ImageLike | None, path: Path | None = None) -> bytes:
    """The counterfactual on the grid of the user's own volume, in its units and with its header, as a NIfTI file;
    ``path`` says whether it is compressed.

    Raises:
        DataError: the volume cannot be read, is another one, or is no file.
    """
    study, given, grey, pixel = answer.own(image)
    given = bare(given)
    if not isinstance(given, str | Path | MemoryFile):
        raise DataError(Code.UNSUPPORTED, "full_resolution", "the volume was no file, so that nobody knows its units")
    source, spec = Path(given) if isinstance(given, str) else given, study.data.common
    try:
        stored, lie, _ = read_array(source, study.image.channels)
    except Rejected as error:
        raise DataError(Code.UNREADABLE, source, str(error).removeprefix(f"{source}: ")) from None
    values = np.moveaxis(stored, -1, 0)
    ranges = grey_limits(values, spec.grey_range, spec.window)
    change = change_of(grey.shape[1:], pixel, study.image, answer.original, answer.image)
    changed = own_values(values, change, ranges)
    like = None if isinstance(source, Path) and source.is_dir() else source
    compressed = path is None or path.suffix.lower() != ".nii"
    return nifti_bytes(changed, lie, answer.provenance, compressed=compressed, like=like)


WHITE = 16.0
"""Standard deviation in grey levels that is white in a picture of the spread."""
WIDE = 128.0
"""Half-width in grey levels that is white in a picture of the band."""


def picture_of(levels: NDArray[np.float32], white: float) -> NDArray[np.uint8]:
    """Numbers in grey levels as a picture, in which 0 is black and ``white`` white."""
    return np.clip(levels * (255 / white), 0, 255).astype(np.uint8)
