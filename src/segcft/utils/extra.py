"""Optional packages, which `pip install 'segcft[coronary]'` brings."""

from __future__ import annotations

import importlib
from typing import Any

from segcft.errors import Code, DataError


def extra(module: str, what: object) -> Any:
    """An optional module that ``what``, a file or folder, needs.

    Raises:
        DataError: it cannot be imported. This ends the whole import: no such file could be read.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = "pyvista" if module.startswith("vtkmodules") else module  # whose VTK it is
        raise DataError(
            Code.NOT_INSTALLED, what, f"it needs {package} ({error}): pip install 'segcft[coronary]'"
        ) from None
