"""How a study reads the files that a simulator has written."""

from __future__ import annotations

from collections.abc import Sequence


def lines_of(structures: Sequence[str], quantity: str, suffix: str, data: str = "{source: folder}") -> str:
    """The lines of a study file, YAML, of a folder with a mask ``ID_STRUCTURE`` of each structure, if there are any.

    Args:
        structures: their names.
        quantity: what is measured of each, "area" or "volume".
        suffix: of the masks.
        data: the study's ``data``.
    """
    lines = [f'  {name}: {{variable: {name}_{quantity}, file: "{{id}}_{name}{suffix}"}}' for name in structures]
    return "\n".join([f"data: {data}", *(["structures:", *lines] if lines else [])])
