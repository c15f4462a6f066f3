"""A question about what a viewer shows, and its answer on the very same grid.

A volume goes as NIfTI with its own matrix and comes back as NIfTI with that matrix: the server changes values on the
file's grid and in its units (``/api/full/nii.gz``), so nothing is resampled here. An image goes as it is shown, in 256
grey levels; the change of its levels comes back, and is brought to its values. Where nothing changes, values stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcft_client.client import Client, Values
from segcft_client.nifti import nifti_bytes, read_nifti
from segcft_client.png import png_bytes
from segcft_client.scan import Scan

APART = 1e-3
"""How many mm an answer's voxels may be from those of the question: a header has single precision."""


@dataclass(frozen=True, eq=False)
class Changed:
    """An answer about a :class:`~segcft_client.scan.Scan`, on its grid. It is synthetic."""

    values: NDArray[Any]
    """The counterfactual, in the scan's units and of its shape."""
    difference: NDArray[Any]
    """It less the scan: positive where it is brighter."""
    record: dict[str, Any]
    """What was asked, inferred and obtained."""


def read(client: Client, model: str, scan: Scan, known: Values | None = None) -> dict[str, Any]:
    """The record of a scan as it is: every variable as it is known, read or inferred.

    Raises:
        ServerError: the server refuses, or does not answer.
        ValueError: the model is not of such scans.
    """
    _, record = client.full(model, _content(client, model, scan), {}, known, millimetres=scan.millimetres)
    return record


def change(
    client: Client, model: str, scan: Scan, do: Values, known: Values | None = None, method: str | None = None
) -> Changed:
    """What the scan would have looked like under ``do``.

    Raises:
        ServerError: the server refuses, or does not answer.
        ValueError: the model is not of such scans, nothing is asked, or the answer is on another grid.
    """
    if not do:
        raise ValueError("nothing is asked for")
    content = _content(client, model, scan)
    if scan.is_volume:
        return _of_volume(scan, client.full_file(model, content, do, "nii.gz", known, method))
    after, record = client.full(model, content, do, known, method, scan.millimetres)
    before = scan.seen()
    if after is None or after.shape[:2] != before.shape:
        raise ValueError("the answer is not of the size of the image")
    return _of_image(scan, scan.turned(after[..., 0].astype(np.int16) - before), record)


def _content(client: Client, model: str, scan: Scan) -> bytes:
    """The file of a scan, for the server."""
    described = client.model(model)
    axes = 3 if described["volume"] else 2
    if axes != scan.values.ndim:
        raise ValueError(f"{model} is of {'volumes' if axes == 3 else 'images'}, and this has {scan.values.ndim} axes")
    if described["channels"] != 1:
        raise ValueError(f"{model} has {described['channels']} channels, and this client sends one")
    return nifti_bytes(scan.values, scan.ijk_to_ras) if scan.is_volume else png_bytes(scan.seen())


def _of_volume(scan: Scan, content: bytes) -> Changed:
    values, matrix, record = read_nifti(content)
    corners = np.array(np.meshgrid(*([0, length] for length in scan.values.shape[::-1]))).reshape(3, -1)
    moved = (matrix - scan.ijk_to_ras)[:3] @ np.vstack([corners, np.ones(corners.shape[1])])
    if values.shape != scan.values.shape or np.abs(moved).max() > APART * max(1.0, np.abs(scan.ijk_to_ras).max()):
        raise ValueError("the answer is on another grid than the volume")
    return Changed(values, _difference(values, scan.values), record)


def _of_image(scan: Scan, levels: NDArray[np.int16], record: dict[str, Any]) -> Changed:
    """An answer about an image whose grey levels change by ``levels``."""
    low, high = scan.shown
    change = levels * ((high - low) / 255)
    if scan.values.dtype.kind in "iu":
        limits = np.iinfo(scan.values.dtype)
        values = np.clip(np.rint(scan.values + change), limits.min, limits.max).astype(scan.values.dtype)
    else:
        values = np.where(levels == 0, scan.values, scan.values + change).astype(scan.values.dtype)
    return Changed(values, _difference(values, scan.values), record)


def _difference(after: NDArray[Any], before: NDArray[Any]) -> NDArray[Any]:
    """Of values of one type, in one that has negative numbers."""
    signed = np.result_type(after.dtype, np.int16)
    difference: NDArray[Any] = after.astype(signed) - before.astype(after.dtype).astype(signed)
    return difference
