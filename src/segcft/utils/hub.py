"""A model by its name on the Hugging Face Hub: ``hf://user/model``, or ``hf://user/model@revision``."""

from __future__ import annotations

import re
from pathlib import Path

from segcft.errors import Code, DataError
from segcft.utils.extra import extra

HUB = "hf://"
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""Of a model: its owner and its own."""
FILES = ("*.safetensors", "*.json", "*.yaml", "*.csv", "*.md", "*.png", "*.nii.gz")
"""What a published model has; nothing else is fetched."""


def located(place: str | Path) -> str | Path:
    """The folder of a model, which is fetched if it is one of the hub's (:func:`fetch`); anything else as it is."""
    return fetch(place) if isinstance(place, str) and place.startswith(HUB) else place


def fetch(name: str) -> Path:
    """A model of the hub, in the cache of ``huggingface_hub``, from where it is taken the next time.

    Its environment variables hold: ``HF_ENDPOINT`` names another hub, ``HF_HOME`` the cache, ``HF_HUB_OFFLINE=1`` takes
    what is there.

    Raises:
        DataError: no model can be called so, there is none, it cannot be fetched, or huggingface_hub is not installed.
    """
    model, _, revision = name.removeprefix(HUB).partition("@")
    if not NAME.fullmatch(model):
        raise DataError(Code.INVALID, name, "a model of the hub is called hf://USER/MODEL or hf://USER/MODEL@REVISION")
    hub = extra("huggingface_hub", name, "hub")
    try:
        return Path(hub.snapshot_download(model, revision=revision or None, allow_patterns=list(FILES)))
    except (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError):
        why = "the hub has no such model, or does not show it to you (`hf auth login`)"
        raise DataError(Code.MISSING, name, why) from None
    except Exception as error:  # of its network and its cache, which have no class in common
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(Code.UNREADABLE, name, f"cannot be fetched ({reason})") from None
