"""DICOM Segmentation objects: masks that a PACS keeps beside the image or the series that they are of.

An object has a frame a structure and file, on the pixels that the file stores, and refers to it. It is of the same
patient and study, in a series of its own. Nothing in it depends on when or where it is written.
"""

from __future__ import annotations

import hashlib
import io
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.sr.coding import Code
from pydicom.uid import UID

from segcft import __version__
from segcft.io.dicomfile import open_dicom, text_of
from segcft.io.lie import Lie
from segcft.io.reject import Excluded, about
from segcft.io.series import slices_of
from segcft.io.turn import Turn
from segcft.utils.digest import key_of
from segcft.utils.extra import extra

BUNDLE = "dicom-seg"
"""The extra that brings what writes them."""
NONE = "no DICOM segmentation"
"""The kind of reason why an image has none."""

MAKER = "segcft"
SCHEME = "99SEGCFT"
"""Private codes, whose value is the name that a study gives a structure."""
LONGEST = 64
"""Characters of a label, and of the meaning of a code."""

CATEGORY = Code("123037004", "SCT", "Anatomical Structure")
STRUCTURES = {
    "left_lung": Code("44029006", "SCT", "Left lung"),
    "right_lung": Code("3341006", "SCT", "Right lung"),
    "heart": Code("80891009", "SCT", "Heart"),
}
"""Names of structures whose SNOMED CT code is known."""

IDENTITY = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
"""What a source file is referred to by."""
MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber"),
)
"""Elements that every image has and that may say nothing; files whose names were removed often lack them."""

MEASURES = ("PixelSpacing", "ImagePositionPatient")
"""What need not be repeated of the source, on whose pixels the masks are (PS3.3, table A.51-2)."""

MOMENTS = ("Content", "Acquisition", "Series", "Study")
"""Whose date and time in the source file become those of the object, which has to have them."""
NO_MOMENT = ("19000101", "000000")


class DicomSource(NamedTuple):
    """The file that a mask is of, or the folder with a series."""

    path: Path
    headers: list[FileDataset]
    """Of the file, or of each slice in their order."""
    turn: Turn | Lie
    """How pixels or voxels were turned to be looked at."""

    @classmethod
    def of(cls, path: Path, turn: Turn | Lie) -> DicomSource:
        """The file or folder at ``path``; a :class:`~segcft.io.reject.Rejected` is raised where it is none."""
        files = slices_of(path) if path.is_dir() else [path]
        return cls(path, [open_dicom(one, pixels=False) for one in files], turn)

    def stored(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A mask of what is seen, (H, W) or (D, H, W), as the files have it: (files, rows, columns)."""
        if isinstance(self.turn, Turn):
            return self.turn.inverse(mask)[None]
        return self.turn.back(mask).transpose(2, 1, 0)

    @property
    def thickness(self) -> float | None:
        """From one slice of a series to the next, in mm."""
        return None if isinstance(self.turn, Turn) else self.turn.spacing[self.turn.order.index(2)]


class Segmentations:
    """Writes masks of some structures as DICOM Segmentation objects.

    Args:
        structures: their names; structure k is bit k of a mask.
        depends: what the masks depend on, by name, in JSON's types: the readers' digests, settings.

    Raises:
        DataError: highdicom is not installed.
    """

    def __init__(self, structures: Sequence[str], depends: Mapping[str, Any]) -> None:
        self.structures = structures
        self._parameters = {name: json.dumps(value) for name, value in depends.items()}
        self._highdicom = extra("highdicom", "a DICOM segmentation", BUNDLE)
        self._key = [MAKER, __version__, list(structures), self._parameters]

    def content(self, source: DicomSource, mask: NDArray[np.uint8]) -> bytes:
        """The bytes of a file, the same ones for the same mask of the same source.

        Args:
            source: what the mask is of; its headers are changed to ones that highdicom takes.
            mask: flags, uint8 (H, W) or (D, H, W), of the image or volume as it is seen. The file has them as the
                source stores its pixels.

        Raises:
            Excluded: the source cannot be referred to, or is of a kind for which highdicom writes none.
        """
        headers, segments, flags = source.headers, self._descriptions(), source.stored(mask)
        masks = np.stack([flags & (1 << bit) > 0 for bit in range(len(segments))])
        with about(source.path):
            if lacking := [name for name in IDENTITY if not all(header.get(name) for header in headers)]:
                raise Excluded(NONE, f"nothing can refer to it, since it has no {' and no '.join(lacking)}")
            try:
                for header in headers:
                    _complete(header, source.thickness)
                file = io.BytesIO()
                self._object(headers, masks, segments).save_as(file, enforce_file_format=True)
                return file.getvalue()
            except Exception as error:  # highdicom raises almost anything over a header that it does not expect
                kind = UID(headers[0].SOPClassUID).name
                why = f"highdicom writes none of this {kind} ({type(error).__name__}: {error})"
                raise Excluded(NONE, why) from None

    def _object(self, headers: Sequence[Dataset], masks: NDArray[np.bool_], segments: Sequence[Dataset]) -> Any:
        """Of masks (S, files, rows, columns)."""
        header = headers[0]
        shown = hashlib.sha256(np.packbits(masks).tobytes()).hexdigest()
        instance = _uid("instance", header.SOPInstanceUID, shown, self._key)
        date, time = _moment(header)
        written = self._highdicom.seg.Segmentation(
            source_images=headers,
            pixel_array=np.moveaxis(masks, 0, -1),
            segmentation_type="BINARY",
            segment_descriptions=segments,
            series_instance_uid=_uid("series", header.SeriesInstanceUID, self._key),
            series_number=_number(header, "SeriesNumber"),
            sop_instance_uid=instance,
            instance_number=_number(header, "InstanceNumber"),
            manufacturer=MAKER,
            manufacturer_model_name=f"{MAKER} segment",
            software_versions=__version__,
            device_serial_number=key_of(self._key),
            content_label="SEGMENTATION",
            content_date=date,
            content_time=time,
            series_description=f"Masks by {MAKER}",
            omit_empty_frames=False,  # that a structure is nowhere is an answer, too
        )
        if "FrameOfReferenceUID" not in written or "ImagePositionPatient" not in header:
            written.PatientOrientation = header.get("PatientOrientation")  # where nothing else says how it lies
        _forget_when(written, _uid("dimensions", instance))
        return written

    def _descriptions(self) -> list[Dataset]:
        from pydicom.sr.codedict import codes

        algorithm = self._highdicom.AlgorithmIdentificationSequence(
            f"{MAKER} segment", codes.DCM.ArtificialIntelligence, __version__, MAKER, self._parameters
        )
        return [
            self._highdicom.seg.SegmentDescription(
                number, name[:LONGEST], CATEGORY, code_of(name), "AUTOMATIC", algorithm
            )
            for number, name in enumerate(self.structures, 1)
        ]


def code_of(name: str) -> Code:
    """What kind of thing a structure is: a code of SNOMED CT where it is known, else a private one."""
    return STRUCTURES.get(name) or Code(name, SCHEME, name[:LONGEST])


def _complete(header: Dataset, thickness: float | None) -> None:
    """Make a header one that highdicom takes; ``thickness`` is that of slices, if it is of one."""
    for name in MAY_BE_EMPTY:
        header.setdefault(name, "")
    if thickness is not None and not header.get("SliceThickness"):
        header.SliceThickness = f"{thickness:.8g}"
    if not header.get("SliceThickness"):  # without it highdicom does not read its own files that say these
        for name in MEASURES:
            header.pop(name, None)


def _moment(header: Dataset) -> tuple[str, str]:
    """Date and time of the source, and not those of writing, so that the file is the same whenever it is written."""
    for name in MOMENTS:
        if day := text_of(header, f"{name}Date"):
            return day, text_of(header, f"{name}Time") or NO_MOMENT[1]
    return NO_MOMENT


def _number(header: Dataset, name: str) -> int:
    """A number that the source has, by which viewers sort; 1 where it has none."""
    return max(1, int(header.get(name) or 1))


def _uid(*parts: Any) -> str:
    """The same identifier for the same parts (PS3.5, section B.2)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(parts)).int}"


def _forget_when(written: Dataset, dimensions: str) -> None:
    """Take away what is different each time: moments of writing, and an identifier that highdicom draws."""
    del written.InstanceCreationDate, written.InstanceCreationTime
    for equipment in written.get("ContributingEquipmentSequence", ()):
        if equipment.PurposeOfReferenceCodeSequence[0].CodeMeaning == "Processing Equipment":
            equipment.pop("ContributionDateTime", None)
    for item in (*written.DimensionOrganizationSequence, *written.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
