"""The same samples in other parts: a store that shares the images of another one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from segcft.data.store import IMAGES, MASKS, REJECTED, TABLE, Store
from segcft.io.reject import WARNINGS
from segcft.utils.atomic import link, replaced_folder


def resplit(store: Store, parts: Mapping[str, str], out: Path) -> Store:
    """Write the store ``out``: the samples of ``store``, with each patient in the part that ``parts`` names.

    Images and masks are hard links, or copies where the file system has none. ``out`` may be the folder of ``store``.
    """
    table = store.table.copy()
    table["split"] = table["patient"].map(dict(parts)).astype(table["split"].dtype)
    meta = json.loads((store.folder / "store.json").read_text(encoding="utf-8"))
    meta["fingerprint"] = store.fingerprint_with(table)
    with replaced_folder(out) as partial:
        for name in (IMAGES, MASKS, REJECTED, WARNINGS):
            if (store.folder / name).is_file():  # older stores have no warnings
                link(store.folder / name, partial / name)
        table.to_parquet(partial / TABLE, index=False)
        if "sha256" in meta:  # older stores have none
            meta["sha256"][TABLE] = hashlib.sha256((partial / TABLE).read_bytes()).hexdigest()
        (partial / "store.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    return Store(out)
