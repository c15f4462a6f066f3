"""Tables of people, images, questions and vessels."""

from __future__ import annotations

import gzip
from pathlib import Path

from benchmarks.fuzz.corpus.common import CHEST, chest, lazily
from benchmarks.fuzz.work import Reader
from segcft.io.reject import Rejected

_TABLE = b"id,age,sex,patient\na,63,F,p1\nb,,M,p2\nc,1e2,F,p1\n"
_VESSELS = (
    b"id,volume,centreline,lumen,wall,patient,split\na,v.nii,c.vtp,l.stl,w.stl,p,train\nb,v.nii,d.csv,l.ply,w.stl,q,\n"
)
_BATCH = b"image,do,age,sex,id\na.png,heart_area=+20%;age=60,63,F,x\nb.png,,,,\n"
_JSRT = (
    b"JPCNN001.IMG\t52\tfemale\tnon-nodule\n"
    b"JPCLN001.IMG\t5\t15\t53\tmale\t1634\t692\tmalignant\tl.upper\t lobe\tlung cancer\n"
)


def readers() -> list[Reader]:
    return [
        Reader("table", ".csv", lambda: [_TABLE], lambda: _read_table, "csv"),
        Reader("batch", ".csv", lambda: [_BATCH], lambda: _read_batch, "csv"),
        Reader("vessels", ".csv", lambda: [_VESSELS], lazily("segcft.importers.ccta", "read_vessels"), "csv"),
        Reader("padchest", ".csv", _padchest, lambda: _read_padchest, "csv"),
        Reader("people", ".csv", _people, lambda: _read_people, "csv"),
        Reader("clinical", ".txt", lambda: [_JSRT], lambda: _read_clinical, "text"),
    ]


def _read_table(path: Path) -> None:
    from segcft.data.attributes import parse, read_table

    study = chest()
    columns = {"id": "data.id", "age": "variable age", "sex": "variable sex"}
    for row in read_table(path, columns)[0]:
        for name in ("age", "sex"):
            try:
                parse(row.cells[name], name, name, study.variables[name])
            except Rejected:  # of a cell: the import adds the line and the file
                continue


def _read_batch(path: Path) -> None:
    from segcft.api.questions import table_items

    for item in table_items(path, chest(), [], []).items:
        item.stamp()


def _padchest() -> list[bytes]:
    from segcft.importers.padchest import Row

    cells = {"Labels": "\"['normal', ' pacemaker', '']\"", "PatientBirth": "1930.0", "StudyDate_DICOM": "20140915"}
    lines = [",".join(Row._fields)] + [
        ",".join(cells.get(name, f"{name}{n}") for name in Row._fields) for n in range(3)
    ]
    text = "\n".join(lines).encode()
    return [text, gzip.compress(text, mtime=0)]


def _read_padchest(path: Path) -> None:
    from segcft.importers.padchest import parse_age, parse_labels, read_rows

    for row in read_rows(path):
        parse_age(row.PatientBirth, row.StudyDate_DICOM)
        try:
            parse_labels(row.Labels)
        except Rejected:
            continue


def _people() -> list[bytes]:
    return [b"\n".join((CHEST / "people.csv").read_bytes().splitlines()[:6]) + b"\n"]


def _read_people(path: Path) -> None:
    from segcft.pipeline.run import read_subjects

    read_subjects(path, chest())


def _read_clinical(path: Path) -> None:
    from segcft.importers.jsrt import read_clinical

    read_clinical([path])
