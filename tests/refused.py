"""What tests of errors say: which class, code and field, not which words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from segcft.errors import Code, SegcftError


@contextmanager
def refused(error: type[SegcftError], code: Code, field: object = "") -> Iterator[None]:
    """The block raises exactly this ``error``, with this ``code``, about what ends in ``field``."""
    with pytest.raises(error) as caught:
        yield
    found = caught.value
    assert (type(found), found.code) == (error, code), f"{found.code}: {found}"
    assert found.field.endswith(str(field)), f"{found.field!r}: {found.text}"
