"""Checks of where output may be written, before it is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segcft.errors import Code, DataError
from segcft.utils.atomic import is_empty

RECORD = "counterfactual.json"
"""The file by which the folder of an answer is known."""
ANSWER = (".png", ".dcm", ".dicom", ".json")
"""Suffixes of the files that an answer can be."""
COMPRESSED = ".nii.gz"
VOLUME_ANSWER = (COMPRESSED, ".nii", ".png", ".json")
"""The same of an answer about a volume."""
FILES = {
    *ANSWER,
    *(".jpg", ".jpeg", ".jp2", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".svg", ".nii", ".gz", ".npy", ".npz", ".mp4"),
    *(".csv", ".jsonl", ".txt", ".md", ".html", ".pdf", ".xlsx", ".yaml", ".yml", ".zip"),
}
"""Suffixes that a user gives to a file. A folder may have any other one: ``answers.v2``."""


def check_answer(path: Path, volume: bool = False) -> None:
    """Check where one answer is to be written, which is a file of :data:`ANSWER`, of a ``volume`` of
    :data:`VOLUME_ANSWER`, or a folder.

    Raises:
        DataError: see :func:`check`.
    """
    kinds = VOLUME_ANSWER if volume else ANSWER
    *others, last = kinds
    check(path, kinds, RECORD, f"an answer is written to {', '.join(others)} or {last}, or to a folder")


def check_any_answer(path: Path) -> None:
    """:func:`check_answer`, while it is not known whether the answer is about an image or a volume."""
    kinds = tuple(dict.fromkeys((*ANSWER, *VOLUME_ANSWER)))
    check(path, kinds, RECORD, f"an answer is written to {', '.join(kinds)}, or to a folder")


def check_answers(path: Path) -> None:
    """Check where the answers of many questions are to be written, which is a folder.

    Raises:
        DataError: see :func:`check`.
    """
    check(path, (), "journal.jsonl", "the answers of many images are written to a folder")


def check_apart(path: Path, images: Path, field: str = "") -> None:
    """Check that what is to be written takes no image's place, nor is in the folder of ``images`` that it is made of:
    it would replace what the user has, or be taken for an image the next time.

    Raises:
        DataError: it is; ``field`` is what errors call it (default: its path).
    """
    if path.resolve().is_relative_to(images.resolve()):
        what = "in the folder of images" if images.is_dir() else "the file that is asked about"
        raise DataError(Code.CONFLICT, field or path, f"it is {what}; choose another")


def check(path: Path, kinds: Sequence[str], mark: str, expected: str) -> None:
    """Check that ``path`` is, or can be, a file of one of ``kinds``, or a folder that nothing else is in.

    A file that is there is replaced. A folder that is there is empty, see :func:`is_empty`, or has the file ``mark``
    from before.

    Args:
        path: where to write.
        kinds: suffixes in lower case, with their dot.
        mark: name of a file in a folder that may be written to again.
        expected: what is written where, for errors.

    Raises:
        DataError: it names a file of another kind, is a folder that holds other things, or is there as the other.
    """
    suffix = COMPRESSED if path.name.lower().endswith(COMPRESSED) else path.suffix.lower()
    named = suffix in kinds
    if path.is_dir():
        if named:
            raise DataError(Code.EXISTS, path, f"a folder has this name of a file; {expected}")
        if not is_empty(path) and not (path / mark).is_file():
            raise DataError(
                Code.EXISTS, path, f"the folder holds other things (no {mark}); choose a new or an empty one"
            )
    elif not named and path.suffix.lower() in FILES:
        raise DataError(Code.UNSUPPORTED, path, f"{expected}, not to {path.suffix}")
    elif not named and path.exists():
        raise DataError(Code.EXISTS, path, f"a file has this name; {expected}")
