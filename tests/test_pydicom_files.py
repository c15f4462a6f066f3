"""The public files that come with pydicom and pydicom-data, of many scanners and toolkits: what each is read as.

pydicom_files.csv was written once, from what segcft read, and every image was looked at: heads and fronts are up, bones
are bright, markers can be read. ``grey`` are the means of 4 x 4 blocks, in percent.
"""

from __future__ import annotations

import csv
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.data.data_manager import external_data_sources

from segcft.io import dicom
from segcft.io.dicomfile import open_dicom
from segcft.io.imagefile import is_dicom, read_image
from segcft.io.reject import Excluded

with Path(__file__).with_name("pydicom_files.csv").open(encoding="utf-8", newline="") as _file:
    TABLE = {row["file"]: row for row in csv.DictReader(_file)}


def folders() -> Iterator[Path]:
    """Where files are: in pydicom, in pydicom-data, and in the folder where pydicom keeps what it has downloaded."""
    own = Path(pydicom.data.__file__).parent
    yield from (own / "test_files", own / "charset_files")
    if (source := external_data_sources().get("pydicom-data")) is not None:
        yield Path(source.data_path)
    yield Path.home() / ".pydicom" / "data"


def find(name: str) -> Path:
    """The file; the test is skipped where it is not there."""
    found = [folder / name for folder in folders() if (folder / name).is_file()]
    if not found:
        pytest.skip(f"{name}: comes with pydicom-data, or by pydicom.data.fetch_data_files()")
    return found[0]


def blocks(grey: NDArray[np.floating]) -> list[float]:
    """Means of 4 x 4 blocks, in percent."""
    rows = (np.array_split(band, 4, axis=1) for band in np.array_split(grey, 4, axis=0))
    return [100 * float(part.mean()) for row in rows for part in row]


def look(path: Path) -> tuple[Dataset | None, dicom.Picture | None, str]:
    """What a file is read as and "read", or the kind of reason for which it is not."""
    try:
        dataset = open_dicom(path)
        return dataset, dicom.shown(path, dataset), "read"
    except Excluded as reason:
        return None, None, reason.kind


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Without what pydicom says of files that are made to be wrong."""
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", TABLE)
def test_a_public_file_is_read_as_it_should(name: str) -> None:
    path, row = find(name), TABLE[name]
    assert is_dicom(path) == (row["outcome"] != "not a DICOM file" or path.suffix == ".dcm")
    dataset, picture, outcome = look(path)
    if row["outcome"] == "no decoder" and outcome != "no decoder":  # one that is only sometimes installed
        return
    assert outcome == row["outcome"]
    if dataset is None or picture is None:
        return
    assert "x".join(map(str, picture.grey.shape)) == row["shape"]
    assert str(picture.turn) == row["turn"]
    assert picture.aspect == pytest.approx(float(row["aspect"]), abs=1e-3)
    assert [remark.kind for remark in picture.remarks] == [kind for kind in row["remarks"].split(";") if kind]
    assert blocks(picture.grey) == pytest.approx([float(mean) for mean in row["grey"].split()], abs=2)
    person = dicom.person(dataset)
    assert person["sex"] == (row["sex"] or None)
    assert person["age"] == (pytest.approx(float(row["age"]), abs=0.1) if row["age"] else None)
    assert dicom.view(dataset) == (row["view"] or None)
    seen = read_image(path, 1)
    np.testing.assert_allclose(seen.grey[0], picture.grey)
    assert (seen.aspect, seen.turn, seen.remarks, seen.placed.measured) == picture[1:]


def test_every_file_is_in_the_table() -> None:
    there = {
        path.relative_to(folder).as_posix()
        for folder in list(folders())[:-1]
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert len(there & set(TABLE)) > 150
    assert not there - set(TABLE)
