"""Whether an export may be written to a folder."""

from __future__ import annotations

from pathlib import Path

from segcft.errors import Code, RunError


def require_room(folder: Path, known: str) -> None:
    """Check that a folder is new or empty, or holds an earlier export, by which file ``known`` in it says so.

    Raises:
        RunError: it holds something else.
    """
    if folder.exists() and not (folder / known).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(Code.EXISTS, folder, f"no earlier export ({known}), and it would be overwritten")
