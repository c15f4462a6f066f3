"""DICOM: radiographs in every encoding, slices of a CT, and what segcft writes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.fuzz.corpus.common import RECORD, lazily, pixels
from benchmarks.fuzz.work import Reader


def readers() -> list[Reader]:
    return [
        Reader("dicom", ".dcm", radiographs, lambda: _read, weight=1.5),
        Reader("ct series", ".dcm", lambda: [_slice(1)], lambda: _read_series, "bytes", _series, weight=0.6),
        Reader("inspect dicom", ".dcm", lambda: [answer()], lazily("segcft", "inspect")),
    ]


def _read(path: Path) -> None:
    from segcft.io import dicom
    from segcft.io.dicomfile import open_dicom

    dataset = open_dicom(path)
    dicom.person(dataset)
    dicom.view(dataset)
    dicom.field_of_view(dataset)
    dicom.aspect(dataset)
    dicom.shown(path, dataset)
    dicom.shown(path, dataset, window=(1, 99))


def _read_series(path: Path) -> None:
    from segcft.io.volumefile import read_volume

    read_volume(path.parent)


def radiograph(**changes: Any) -> Any:
    """A radiograph, always with the same identifiers."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = UID("1.2.3.4")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.Modality = "1.2.3", "1.2.3.5", "CR"
    dataset.PatientID, dataset.PatientSex, dataset.PatientAge = "p1", "F", "063Y"
    dataset.PatientBirthDate, dataset.StudyDate = "19500321", "20140915"
    dataset.ViewPosition, dataset.PixelSpacing = "PA", ["0.2", "0.2"]
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
    dataset.WindowCenter, dataset.WindowWidth = "1000", "2000"
    dataset.Rows, dataset.Columns = 24, 20
    dataset.PixelData = (pixels().astype("<u2") * 10).tobytes()
    for name, value in changes.items():
        setattr(dataset, name, value)
    return dataset


def saved(dataset: Any) -> bytes:
    """A dataset's file."""
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def radiographs() -> list[bytes]:
    """Files in each of the encodings that are read."""
    from pydicom import Dataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

    rle = radiograph()
    rle.compress(RLELossless)
    files = [saved(radiograph()), saved(rle)]
    for syntax, kind in ((JPEGBaseline8Bit, "jpeg"), (JPEG2000Lossless, "jpeg2000")):
        packed = radiograph(BitsAllocated=8, BitsStored=8, HighBit=7)
        file = io.BytesIO()
        Image.fromarray(pixels()).save(file, kind)
        packed.file_meta.TransferSyntaxUID = syntax
        packed.PixelData = encapsulate([file.getvalue()])
        packed["PixelData"].is_undefined_length = True
        files.append(saved(packed))
    table = Dataset()
    table.LUTDescriptor = [256, 0, 8]
    table.add_new("LUTData", "OW", np.arange(256, dtype="<u2").tobytes())
    files.append(
        saved(radiograph(VOILUTSequence=[table], PixelPaddingValue=0, PhotometricInterpretation="MONOCHROME1"))
    )
    turned = radiograph(
        PatientOrientation=["R", "F"],
        ImageOrientationPatient=["-1", "0", "0", "0", "0", "-1"],
        PresentationLUTShape="INVERSE",
        PixelIntensityRelationshipSign=1,
        HighBit=15,
        ModalityLUTSequence=[table],
    )
    files.append(saved(turned))
    files += [saved(one)[132:] for one in (turned, radiograph(RescaleSlope="0.0001", WindowWidth="0.5"))]  # no preamble
    return [*files, answer()]


def answer() -> bytes:
    """As segcft writes answers, but always with the same identifiers."""
    from pydicom import dcmread
    from pydicom.uid import UID

    from segcft.io.provenance import dicom_bytes

    dataset = dcmread(io.BytesIO(dicom_bytes(pixels()[None], RECORD, (0.2, 0.2))))
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = UID("1.2.3.4")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.5"
    return saved(dataset)


def _slice(number: int) -> bytes:
    """Of a CT with slices every 0.5 mm."""
    return saved(
        radiograph(
            Modality="CT",
            SOPInstanceUID=f"1.2.3.4.{number}",
            ImagePositionPatient=["0", "0", str(0.5 * number)],
            ImageOrientationPatient=["1", "0", "0", "0", "1", "0"],
            RescaleIntercept="-1024",
            RescaleType="HU",
        )
    )


def _series(folder: Path) -> None:
    """The slices on both sides of the one that is damaged."""
    for number in (0, 2):
        (folder / f"slice{number}.dcm").write_bytes(_slice(number))
