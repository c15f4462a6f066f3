"""Files whose names are nearly that of one that is missing.

Spreadsheets take ids for numbers and write 1 or 1.0 for 0001; systems differ in case and in how they compose letters
with accents; tools append ``_mask``. No such file is taken for the one that is meant: two ids may differ in just that.
"""

from __future__ import annotations

import os
import re
import unicodedata
from functools import lru_cache
from pathlib import Path

_SUFFIX = re.compile(r"\.(?:nii\.gz|[A-Za-z]{2,5})$")
_ADDED = re.compile(r"[_\-. ]?(?:mask|masks|seg|segmentation|label|labels|image|img)$")


def similar_file(path: Path) -> str:
    """The end of a message that ``path`` is missing: the file that is there and called almost so, or nothing.

    Args:
        path: without the suffix of an image, or with one.
    """
    try:
        name = _names(path.parent, path.parent.stat().st_mtime_ns).get(_key(path.name))
    except (OSError, ValueError):  # ValueError: no path can be called so
        return ""
    return f"; there is {name}: {_difference(path.name, name)}" if name else ""


@lru_cache(maxsize=4)
def _names(folder: Path, _time: int) -> dict[str, str]:
    """The first file of a folder by :func:`_key`; listed once, and again when the folder has changed at ``_time``."""
    with os.scandir(folder) as entries:
        return {_key(name): name for name in sorted((entry.name for entry in entries), reverse=True)}


def _key(name: str) -> str:
    """What is left of a name without all that is lost on its way."""
    text = unicodedata.normalize("NFKC", _without_suffix(name)).casefold()
    text = _ADDED.sub("", text) or text
    text = re.sub(r"^(\d+)\.0+$", r"\1", text)
    return re.sub(r"(?<!\d)0+(?=\d)", "", text)


def _without_suffix(name: str) -> str:
    return _SUFFIX.sub("", name)


def _difference(wanted: str, name: str) -> str:
    """In what two names of one :func:`_key` differ, and what helps."""
    wanted, stem = _without_suffix(wanted), _without_suffix(name)
    if wanted == stem:
        return "of a kind that is not read here"
    ours, theirs = (unicodedata.normalize("NFC", text) for text in (wanted, stem))
    if ours == theirs:
        return "its letters are composed otherwise (Unicode NFC and NFD); rename the files to the table's form"
    if ours.casefold() == theirs.casefold():
        return "capital and small letters differ"
    if re.sub(r"\D", "", ours) != re.sub(r"\D", "", theirs):
        return "a spreadsheet may have taken the ids for numbers and lost zeros; make the column one of text"
    return "if that is meant, rename one of them (a mask may also be named by structures.NAME.file: '{id}_mask.png')"
