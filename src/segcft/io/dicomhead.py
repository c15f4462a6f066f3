"""Whether bytes are the beginning of a DICOM file, with the preamble that the standard wants or without.

Old archives and old versions of toolkits wrote the elements alone, without preamble and file meta information
(PS3.10, section 7.1). Such a file says of itself only what its first elements look like.
"""

from __future__ import annotations

import struct
from typing import IO, Any

PREAMBLE = 128
"""Bytes before the prefix."""
PREFIX = b"DICM"

DICOMDIR = "DICOMDIR"
"""The file that lists what a medium holds (PS3.10, section 8.6). It begins as an image does, and is none."""

HEAD = 4096
"""How many bytes at the beginning of a file are looked at."""

ENOUGH = 3
"""Known elements that follow one another in a header before it is believed to be one."""

_FIRST_GROUPS = (0x0002, 0x0008)
"""What a file without preamble begins with: file meta information, or identification."""
_BEGINNINGS = frozenset(struct.pack(order + "H", group) for group in _FIRST_GROUPS for order in "<>")
_UNDEFINED = 0xFFFFFFFF


def has_prefix(head: bytes) -> bool:
    """Whether a file that begins with ``head`` has the preamble."""
    return head[PREAMBLE : PREAMBLE + len(PREFIX)] == PREFIX


def begins_as_dicom(head: bytes, length: int) -> bool:
    """Whether a file is DICOM, as far as its beginning says.

    Args:
        head: its first :data:`HEAD` bytes.
        length: of the file, in bytes.
    """
    if has_prefix(head):
        return True
    if head[:2] not in _BEGINNINGS:
        return False
    return any(_known_elements(head, length, order, explicit) for order in "<>" for explicit in (True, False))


def is_dicom_file(file: IO[Any]) -> bool:
    """:func:`begins_as_dicom` of an open file, which is left at its beginning."""
    length = file.seek(0, 2)
    file.seek(0)
    head = file.read(HEAD)
    file.seek(0)
    return begins_as_dicom(head, length)


def _known_elements(head: bytes, length: int, order: str, explicit: bool) -> bool:
    """Whether ``head`` begins with :data:`ENOUGH` elements of the standard's dictionary, in their order."""
    from pydicom.datadict import dictionary_has_tag
    from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

    at = last = count = 0
    while count < ENOUGH and at + 12 <= len(head):
        group, element = struct.unpack_from(order + "HH", head, at)
        tag = group << 16 | element
        if tag <= last or (count == 0 and group not in _FIRST_GROUPS):
            return False
        if element and not dictionary_has_tag(tag):  # element 0 is the length of a group
            return False
        if explicit:
            representation = head[at + 4 : at + 6].decode("latin-1")
            if representation not in set(VR):
                return False
            long = representation in EXPLICIT_VR_LENGTH_32
            (size,) = struct.unpack_from(order + ("I" if long else "H"), head, at + (8 if long else 6))
            at += 12 if long else 8
        else:
            (size,) = struct.unpack_from(order + "I", head, at + 4)
            at += 8
        if size % 2 or size == _UNDEFINED or at + size > length:
            return False
        at, last, count = at + size, tag, count + 1
    return count >= ENOUGH
