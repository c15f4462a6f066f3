"""Bad input ends with an error that names the file: mutated files of every kind, and bombs within a bound of memory."""

from __future__ import annotations

import gzip
import io
import multiprocessing
import os
import struct
import zlib
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from benchmarks.fuzz.__main__ import fuzz
from benchmarks.fuzz.corpus import READERS
from benchmarks.fuzz.corpus.dicom import radiograph, saved
from benchmarks.fuzz.work import Reader, input_of, judge, measured, working_folder

MOST = 1 << 30
"""Bytes of memory that a bomb may take beyond what the process has without it, as docs/reliability.md promises."""

QUICK = 3000
"""Mutated inputs, of all readers together; docs/reliability.md tells of many more."""


@pytest.mark.slow
def test_mutated_input_is_read_or_refused(tmp_path: Path) -> None:
    tallies = fuzz([*READERS.values()], QUICK, seed=1, jobs=os.cpu_count() or 1, out=tmp_path / "findings")
    kinds = {name: dict(tally.kinds) for name, tally in tallies.items() if tally.kinds}
    assert kinds == {}, [path.read_text() for path in sorted(tmp_path.glob("findings/*.txt"))][:3]
    for name, tally in tallies.items():
        assert tally.refused, f"{name}: no input was refused"
        # Which they are before they are mutated.
        assert tally.read, f"{name}: no input was read"


@pytest.mark.parametrize("name", ["study", "png", "ct-gzip", "table", "mesh-vtp"])
def test_inputs_of_a_seed_are_always_the_same(name: str) -> None:
    reader = READERS[name]
    made = [[input_of(reader, reader.make(), 5, number) for number in range(40)] for _ in range(2)]
    assert made[0] == made[1]
    assert len({*made[0]}) > 30


def long_picture() -> bytes:
    """A small file whose image, filled up to a square, would have 900 million pixels."""
    return png(30000, 255, zlib.compress(bytes(30001) + (b"\0" + b"\xff" * 30000) * 254))


def jpeg_2000_without_end() -> bytes:
    """A DICOM file with a JPEG 2000 image whose second box says that it has no bytes."""
    (file,) = (one for one in READERS["dicom"].make() if b"jP  \r\n\x87\n" in one)
    at = file.index(b"jP  \r\n\x87\n") + 8
    return file[:at] + bytes(4) + file[at + 4 :]


def endless_name() -> bytes:
    """A checkpoint that asks for a module with a very long name."""
    file = io.BytesIO()
    torch.save({"key": "k"}, file, _use_new_zipfile_serialization=False)
    return file.getvalue().replace(b"X\x03\0\0\0key", b"c" + b"A" * 200_000 + b"\nx\n", 1)


def png(width: int, height: int, data: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A grey PNG file that says it has this size."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), *more, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def zeros(length: int, start: bytes = b"", wbits: int = zlib.MAX_WBITS) -> bytes:
    """``start`` and so many zeros, deflated, without the checksum: what is deflated alike may be repeated."""
    deflate = zlib.compressobj(9, wbits=wbits)
    first = deflate.compress(start) + deflate.flush(zlib.Z_FULL_FLUSH)
    piece = deflate.compress(bytes(1 << 24)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return first + piece * (length >> 24)


def gzipped(start: bytes, length: int) -> bytes:
    """A gzip file of ``start`` and so many zeros, in as many parts as it takes."""
    return gzip.compress(start, mtime=0) + gzip.compress(bytes(1 << 24), mtime=0) * (length >> 24)


def nifti(shape: tuple[int, ...], kind: type = np.uint8) -> bytes:
    """The header of a NIfTI file, and nothing behind it."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(kind)
    header.set_data_shape(shape)
    header.set_sform(np.diag([1, 1, 1, 1]), code=1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    return bytes(header.binaryblock) + bytes(4)


def deflated() -> bytes:
    """A DICOM file that is deflated; a private element of it is 2 GiB of zeros."""
    dataset = radiograph()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    file = io.BytesIO()
    file.write(bytes(128) + b"DICM")
    write_file_meta_info(file, dataset.file_meta)
    element = struct.pack("<HH2sHI", 0x0009, 0x0010, b"OB", 0, 2 << 30)
    return file.getvalue() + zeros(2 << 30, element, -zlib.MAX_WBITS)


LAUGHS = (
    b"a: &a ["
    + b"x, " * 9
    + b"x]\n"
    + b"".join(
        b"%c: &%c [%s]\n" % (c + 1, c + 1, b", ".join([b"*%c" % c] * 10)) for c in range(ord("a"), ord("a") + 12)
    )
)
MERGES = b"_a: &a {x: 1}\n" + b"".join(
    b"_%c: &%c {<<: [%s]}\n" % (c + 1, c + 1, b", ".join([b"*%c" % c] * 10)) for c in range(ord("a"), ord("a") + 12)
)
MILLIONS = "more than the 32 million pixels"

BOMBS: dict[str, tuple[str, str, Callable[[], bytes], str]] = {
    "gigapixel PNG header": ("png", ".png", lambda: png(60000, 60000, b""), MILLIONS),
    "PNG header below Pillow's own limit": ("png", ".png", lambda: png(9000, 9000, zeros(1 << 20)), MILLIONS),
    "decompression bomb PNG": ("png", ".png", lambda: png(30000, 30000, zeros(30001 * 30000)), MILLIONS),
    "PNG text bomb": (
        "inspect-png", ".png",
        lambda: png(8, 8, zlib.compress(bytes(72)), (b"zTXt", b"segcft\0\0" + zeros(2 << 30))), "too large",
    ),
    "gigapixel PNG to inspect": ("inspect-png", ".png", lambda: png(60000, 60000, b""), MILLIONS),
    "gzip bomb NIfTI": ("nifti", ".nii.gz", lambda: gzipped(nifti((64, 64, 1)), 2 << 30), "256 MiB"),
    "NIfTI of giant dimensions": ("nifti", ".nii", lambda: nifti((32767, 32767, 1), np.float64), MILLIONS),
    "NIfTI cut off": ("nifti", ".nii", lambda: nifti((4000, 4000, 1), np.float64), "cut off"),
    "CT of giant dimensions": ("ct-volume", ".nii", lambda: nifti((32767, 32767, 32767), np.int16), "1024 MiB"),
    "CT cut off": ("ct-gzip", ".nii.gz", lambda: gzipped(nifti((512, 512, 1000), np.int16), 0), "cut off"),
    "gzip bomb CT": ("ct-gzip", ".nii.gz", lambda: gzipped(nifti((64, 64, 64), np.int16), 2 << 30), "goes on after"),
    "DICOM of giant rows": ("dicom", ".dcm", lambda: saved(radiograph(Rows=65535, Columns=65535)), MILLIONS),
    "deflated DICOM bomb": ("dicom", ".dcm", deflated, "unpacks to more than the 256 MiB"),
    "billion laughs": ("study", ".yaml", lambda: LAUGHS, "its aliases stand for more than"),
    "billion merges": ("study", ".yaml", lambda: MERGES, "its aliases stand for more than"),
    "YAML that contains itself": ("study", ".yaml", lambda: b"a: &a [*a]\n", "an anchor contains itself"),
    "deep YAML": ("study", ".yaml", lambda: b"a: " + b"[" * 100_000, "nested too deeply"),
    "large YAML": ("study", ".yaml", lambda: b"a: 1\n" * 10_000_000, "characters"),
    "YAML of many digits": ("study", ".yaml", lambda: b"name: " + b"9" * 5000, "a value cannot be read"),
    "deep JSON": ("store-store.json", ".json", lambda: b"[" * 200_000, "recursion"),
    "deep JSON in results": ("results", ".json", lambda: b'{"a":' * 200_000, "recursion"),
    "JSON of many digits": ("store-store.json", ".json", lambda: b"9" * 5000, "digits"),
    "table with one cell": ("table", ".csv", lambda: b"id,age,sex\na" + b"x" * 50_000_000, "field limit"),
    "gzip bomb table": ("padchest", ".csv", lambda: gzipped(READERS["padchest"].make()[0], 2 << 30), "a line of"),
    "VTP of a giant array": (
        "mesh-vtp", ".vtp",
        lambda: READERS["mesh-vtp"].make()[0].replace(b'NumberOfPoints="', b'NumberOfPoints="9999'), "damaged",
    ),
    "PLY of a giant table": (
        "mesh-ply", ".ply",
        lambda: b"ply\nformat binary_little_endian 1.0\nelement vertex 99999999999\nproperty float x\n"
        b"property float y\nproperty float z\nend_header\n", "cut off",
    ),
    "upload of a gigapixel PNG": ("web-upload", ".bin", lambda: png(60000, 60000, b""), MILLIONS),
    "upload of a gzip bomb": ("web-upload", ".bin", lambda: gzipped(nifti((64, 64, 1)), 2 << 30), "256 MiB"),
    "upload of giant dimensions": ("web-upload", ".bin", lambda: gzip.compress(nifti((30000, 30000, 1))), MILLIONS),
    "long and narrow image": ("png", ".png", long_picture, "too long and narrow"),
    "upload of a long and narrow image": ("web-upload", ".bin", long_picture, "too long and narrow"),
    "JPEG 2000 without end": ("dicom", ".dcm", jpeg_2000_without_end, "a box of its JPEG 2000 image has 0 bytes"),
    "checkpoint with an endless name": ("checkpoint", ".pt", endless_name, "this checkpoint is damaged (ValueError)"),
    "date that is none": ("study", ".yaml", lambda: b"name: 2001-99-99\n", "a value cannot be read"),
    "results without a field": ("results", ".json", lambda: b'[{"method": "none"}]', "row 0 lacks a field"),
    "store without a size": ("store-store.json", ".json", lambda: b'{"version": 1}', "damaged (KeyError"),
    "examples that are no numbers": ("examples", ".csv", lambda: b"image,age\n1.png,old\n", "not the attributes"),
    "examples in another encoding": ("examples", ".csv", lambda: b"\xff\xfeimage", "not the attributes"),
    "training in another encoding": ("history", ".jsonl", lambda: b"\xff\xfe{}", "cannot read this record"),
    "DICOM of no transfer syntax": (
        "ct-series", ".dcm",
        lambda: READERS["ct-series"].make()[0].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"), "input.dcm",
    ),
    "table with a long name of a column": (
        "centreline-csv", ".csv", lambda: b"x" + b"-" * 2_000_000 + b",y,z\n1,2,3\n", "expected columns x, y and z",
    ),
    "checksum of another file": (
        "store-store.json", ".json",
        lambda: READERS["store-store.json"].make()[0].replace(b'"images.u8"', b'"/dev/zero"'),
        "images.u8: the content differs",
    ),
    "answers without their record": (
        "answers", ".jsonl", lambda: READERS["answers"].make()[0].replace(b'"record"', b'"recorded"'), "damaged",
    ),
    "deep JSON in a journal": ("journal", ".jsonl", lambda: b'{"settings":' * 200_000 + b"\n", "recursion"),
    "deep question": ("web-question", ".json", lambda: b'{"do":' * 15_000, "the question"),
}  # fmt: skip


def read_in_a_fork(reader: Reader, bomb: Path) -> tuple[str, str, int]:
    """How reading ends, what is told, and the bytes of memory that it took, in a process that has imported all."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=serve_bomb, args=(reader, bomb, there))
    process.start()
    there.close()
    try:
        assert here.poll(60), "it hangs"
        kind, told, _, memory = here.recv()
        return kind, told, memory
    finally:
        process.kill()
        process.join()


def serve_bomb(reader: Reader, bomb: Path, pipe: Connection) -> None:
    torch.set_num_threads(1)  # those of the process that this one was forked from are not there
    with working_folder(reader) as path:
        path = path.with_name(reader.file or "input" + "".join(bomb.suffixes))
        read = reader.open()
        path.write_bytes(reader.make()[0])
        judge(read, path)  # what is imported late takes memory too
        path.unlink()
        path.symlink_to(bomb)
        pipe.send(measured(read, path, reader.named))


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_in_little_memory(bomb: str, tmp_path: Path) -> None:
    name, suffix, make, message = BOMBS[bomb]
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(make())
    kind, told, memory = read_in_a_fork(READERS[name], path)
    assert kind == "refused", told
    assert message in told
    assert memory <= MOST
