"""Optional packages, which `pip install 'segcft[BUNDLE]'` brings."""

from __future__ import annotations

import importlib
from typing import Any

from segcft.errors import Code, DataError


def extra(module: str, what: object, bundle: str = "coronary") -> Any:
    """An optional module of a ``bundle`` that ``what``, a file or folder, needs.

    Raises:
        DataError: it cannot be imported. This ends the whole import: no such file could be read.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = "pyvista" if module.startswith("vtkmodules") else module  # whose VTK it is
        why = f"it needs {package} ({error}): pip install 'segcft[{bundle}]'"
        raise DataError(Code.NOT_INSTALLED, what, why) from None
