"""Digests of what is recorded, and of files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def key_of(*parts: Any) -> str:
    """A short digest of what a part is made from; any change of a setting or of the data changes it."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def digest_of(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
