"""What every synthetic image says of itself, in PNG, GIF, DICOM and NIfTI files, and how it is read back.

An image's *record* is a mapping that can be written as JSON. Records of counterfactuals have the study, the method,
the fingerprint of the model, the interventions and what is known of each variable; see
:class:`segcft.api.answer.Answer`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from segcft.errors import Code, DataError
from segcft.io.imagefile import is_dicom
from segcft.io.nifti import is_nifti
from segcft.io.picture import open_picture
from segcft.io.reject import Rejected, reading
from segcft.io.volumefile import opened_nifti

if TYPE_CHECKING:
    from pydicom import Dataset

SYNTHETIC = "Synthetic image made by segcft. For research only, not for clinical use."
KEY = "segcft"
"""Of the record in a PNG file's text, in a GIF file's comment and of the private block in a DICOM file."""

COMMENT = 6
"""Code of an extension of NIfTI's header that is text."""
_GROUP = 0x0099  # private elements of DICOM have odd groups
_RECORD = 0x01  # the record's element in the block
_LONGEST = 1024  # characters of a DICOM short text (ST)


def png_bytes(pixels: NDArray[np.uint8], record: Mapping[str, Any] | None = None) -> bytes:
    """A PNG file of pixels (C, H, W); with a ``record`` it says that it is synthetic, and why it was made."""
    file = io.BytesIO()
    info = PngInfo()
    if record is not None:
        info.add_text("Description", SYNTHETIC)
        info.add_text("Software", f"segcft {record.get('segcft', '')}".strip())
        info.add_itxt(KEY, json.dumps(record, allow_nan=False, ensure_ascii=False))
    picture(pixels).save(file, "png", pnginfo=info)
    return file.getvalue()


def gif_bytes(frames: Sequence[Image.Image], record: Mapping[str, Any], milliseconds: int) -> bytes:
    """An endless GIF of ``frames``, ``milliseconds`` each; its comment is the record."""
    file = io.BytesIO()
    comment = json.dumps({"Description": SYNTHETIC, KEY: record}, allow_nan=False).encode()
    first, *others = frames
    first.save(file, "gif", save_all=True, append_images=others, duration=milliseconds, loop=0, comment=comment)
    return file.getvalue()


def dicom_bytes(
    pixels: NDArray[np.uint8], record: Mapping[str, Any], spacing: tuple[float, ...] | None = None
) -> bytes:
    """:func:`dicom_of` as a file."""
    return file_of(dicom_of(pixels, record, spacing))


def file_of(dataset: Dataset) -> bytes:
    """A dataset as a DICOM file."""
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def dicom_of(pixels: NDArray[np.uint8], record: Mapping[str, Any], spacing: tuple[float, ...] | None = None) -> Dataset:
    """A DICOM image of pixels (C, H, W): a derived secondary capture of nobody, with unique identifiers of its own.

    Args:
        pixels: grey (C = 1) or colour (C = 3).
        record: goes into a private element, and its interventions and model into the derivation's description.
        spacing: height and width of a pixel in mm, if known.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    channels, height, width = pixels.shape
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = generate_uid(prefix=None)
    dataset.SeriesInstanceUID = generate_uid(prefix=None)
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.ConversionType = "SYN"  # defined term: synthetic image
    dataset.SyntheticData = "YES"
    dataset.Modality = "OT"
    # The person is made up as much as the image is; the original's identity stays with the original.
    dataset.PatientName = "SYNTHETIC"
    dataset.PatientID = "SYNTHETIC"
    for empty in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "StudyID"):
        setattr(dataset, empty, "")
    dataset.ReferringPhysicianName = ""
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "Of the original's header only values in the record are kept"
    dataset.BurnedInAnnotation = "NO"
    dataset.SeriesDescription = "Synthetic, not for clinical use"
    asked = ", ".join(map(str, record.get("do", ()))) or "none"
    dataset.DerivationDescription = f"{SYNTHETIC} do({asked}), model {record.get('model', '')}"[:_LONGEST]
    dataset.Manufacturer = KEY
    dataset.ManufacturerModelName = str(record.get("study", ""))[:64]
    dataset.SoftwareVersions = str(record.get("segcft", ""))
    dataset.SamplesPerPixel = channels
    dataset.PhotometricInterpretation = "MONOCHROME2" if channels == 1 else "RGB"
    if channels > 1:
        dataset.PlanarConfiguration = 0
    else:  # the whole range, or viewers choose a window
        dataset.WindowCenter, dataset.WindowWidth = 128, 256
    dataset.Rows, dataset.Columns = height, width
    if spacing is not None:
        dataset.NominalScannedPixelSpacing = [f"{length:.6g}" for length in spacing]
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    content = np.ascontiguousarray(np.moveaxis(pixels, 0, -1)).tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    block = dataset.private_block(_GROUP, KEY, create=True)
    block.add_new(_RECORD, "UT", json.dumps(record, allow_nan=False, ensure_ascii=False))
    return dataset


def inspect(path: str | Path) -> dict[str, Any] | None:
    """The record of a synthetic image, or of an answer's numbers in JSON; None of what does not say that it is ours.

    Raises:
        DataError: the file cannot be read, or its record is damaged.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".json":  # the numbers of an answer
            found = json.loads(path.read_text(encoding="utf-8"))
            text = json.dumps(found) if isinstance(found, dict) and KEY in found else None
        elif is_nifti(path):
            text = _nifti_record(path)
        elif is_dicom(path):
            from segcft.io.dicomfile import open_dicom

            text = _dicom_record(open_dicom(path, pixels=False))
        else:
            with path.open("rb") as opened, open_picture(opened) as file:
                file.load()  # some text of a PNG file comes after its pixels
                text = file.info.get(KEY) or _comment(file.info.get("comment", b""))
        record = None if text is None else json.loads(text)
        if record is not None and not isinstance(record, dict):
            raise ValueError("expected a mapping")
    except Rejected as error:
        raise DataError(Code.UNREADABLE, path, str(error).removeprefix(f"{path}: ")) from None
    except ValueError as error:
        raise DataError(Code.DAMAGED, path, f"what it says of its origin is damaged ({error})") from None
    except Exception as error:  # Pillow's readers raise almost anything over a broken file
        raise DataError(Code.UNREADABLE, path, f"cannot read this image ({error})") from None
    return record


def _comment(comment: bytes | str) -> str | None:
    text = comment.decode(errors="replace") if isinstance(comment, bytes) else str(comment)
    return json.dumps(json.loads(text)[KEY]) if f'"{KEY}"' in text else None


def _dicom_record(dataset: Dataset) -> str | None:
    try:
        return str(dataset.private_block(_GROUP, KEY)[_RECORD].value)
    except KeyError:
        return None


def _nifti_record(path: Path) -> str | None:
    """The record of a NIfTI file, in JSON; None of one that has none.

    Raises:
        DataError: NiBabel is not installed.
        Rejected: it cannot be read.
    """
    with reading(path, "NIfTI file"), opened_nifti(path) as image:
        extensions = list(image.header.extensions)
    for one in extensions:
        text = one.get_content() if one.get_code() == COMMENT else ""
        text = text.decode(errors="replace") if isinstance(text, bytes) else text
        if f'"{KEY}"' in text:
            return json.dumps(json.loads(text.rstrip("\0"))[KEY])
    return None


def picture(pixels: NDArray[np.uint8]) -> Image.Image:
    """Pixels (C, H, W) as a Pillow image: in colour if there are three channels, else the first one in grey."""
    return Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)) if len(pixels) == 3 else pixels[0])
