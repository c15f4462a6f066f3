"""The segmentor or the judge of a model as a MONAI bundle: TorchScript, what it expects, and how files come to it.

The layout is that of MONAI's specification (https://docs.monai.io/en/stable/mb_specification.html): ``configs`` with
``metadata.json`` and ``inference.json``, ``models/model.ts``, ``docs/README.md``. So it runs without segcft.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

import segcft
from segcft.config.study import Study
from segcft.errors import Code, RunError
from segcft.export.masks import Masks
from segcft.export.room import require_room
from segcft.io.greys import PERCENTILES
from segcft.pipeline.run import READERS, Run
from segcft.utils.atomic import replaced_folder, write_bytes, write_text

METADATA = "configs/metadata.json"
"""By this file a folder is known as a bundle, and may be replaced."""
INFERENCE = "configs/inference.json"
MODEL = "models/model.ts"
AXES = "SPL"
"""Of volumes: to the head, to the back, to the left; see :mod:`segcft.io.scan`."""
SUFFIX = "mask"


def export_bundle(run: Run, folder: Path, part: str) -> None:
    """Write a reader of a run or of a published model to ``folder``, in place of an earlier bundle.

    Args:
        run: what has it.
        folder: new, empty, or an earlier bundle.
        part: "segmentor" or "judge".

    Raises:
        RunError: the run has no such reader, or ``folder`` holds something else.
    """
    if part not in READERS or part not in run.parts or not run.path(part).is_file():
        raise RunError(Code.MISSING, run.folder, f"it has no {part} to make a bundle of")
    require_room(folder, METADATA)
    study = run.study
    network = Masks(run.load(part)).eval()
    example = torch.zeros(1, study.image.channels, *study.image.size)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, that shapes are fixed, which they are
        traced = torch.jit.trace(network, example)
    with replaced_folder(folder) as partial:
        write_text(partial / METADATA, _json(_metadata(run, part)))
        write_text(partial / INFERENCE, _json(_inference(study)))
        write_bytes(partial / MODEL, traced.save_to_buffer())
        write_text(partial / "docs/README.md", _readme(study, part))
        if run.published:
            shutil.copyfile(run.folder / "README.md", partial / "docs/MODEL.md")


def _json(said: dict[str, Any]) -> str:
    return json.dumps(said, indent=2) + "\n"


def _metadata(run: Run, part: str) -> dict[str, Any]:
    """As MONAI's schema of bundles has it."""
    study = run.study
    image = {
        "type": "image",
        "format": "magnitude",
        "num_channels": study.image.channels,
        "spatial_shape": list(study.image.size),
        "dtype": "float32",
        "value_range": [-1, 1],
        "is_patch_data": False,
        "channel_def": {str(k): "image" for k in range(study.image.channels)},
    }
    masks = image | {
        "format": "segmentation",
        "num_channels": len(study.masked),
        "value_range": [0, 1],
        "channel_def": {str(k): name for k, name in enumerate(study.masked)},
    }
    return {
        "version": segcft.__version__,
        "changelog": {segcft.__version__: "written by segcft"},
        "monai_version": monai.__version__,
        "pytorch_version": str(torch.__version__).partition("+")[0],
        "numpy_version": np.__version__,
        "optional_packages_version": {},
        "name": f"{study.name}: {part}",
        "task": f"Segmentation of {', '.join(study.masked)}",
        "description": study.description or study.name,
        "authors": "segcft",
        "copyright": "see docs",
        "intended_use": "Research only, not for clinical use.",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": masks}},
    }


def _inference(study: Study) -> dict[str, Any]:
    """From files in ``images`` to masks in ``masks``, by MONAI's transforms."""
    return {
        "imports": [*(f"$import {name}" for name in ("glob", "numpy", "pathlib", "torch")), "$from PIL import Image"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/masks'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "files": "$sorted(glob.glob(@dataset_dir + '/*'))",
        "network": "$torch.jit.load(@bundle_root + '/models/model.ts').to(@device).eval()",
        "preprocessing": {"_target_": "Compose", "transforms": _to_grid(study)},
        "masks": "$lambda image: @network(image[None].to(@device))[0].cpu() >= 0.5",
        "flags": "$lambda masks: sum(masks[k].int() << k for k in range(len(masks)))",
        **_saved(study),
    }


def _saved(study: Study) -> dict[str, Any]:
    """How masks are written: one file each, whose bits are the structures, on the grid of the network."""
    if study.image.is_volume:
        saver = {
            "_target_": "SaveImage",
            "output_dir": "@output_dir",
            "output_postfix": SUFFIX,
            "separate_folder": False,
            "output_dtype": "$numpy.uint8",
        }
        run = "$[@save(@flags(@masks(image))[None], meta_data=image.meta) for image in map(@preprocessing, @files)]"
        return {"save": saver, "run": run}
    name = f"pathlib.Path(file).name + '_{SUFFIX}.png'"
    return {
        "folder": "$pathlib.Path(@output_dir)",
        "save": f"$lambda file, flags: Image.fromarray(flags.numpy().astype('uint8')).save(@folder / ({name}))",
        "run": [
            "$@folder.mkdir(exist_ok=True, parents=True)",
            "$[@save(file, @flags(@masks(@preprocessing(file)))) for file in @files]",
        ],
    }


def _to_grid(study: Study) -> list[dict[str, Any]]:
    """MONAI's transforms from a file to the network's grid and grey levels, which are the study's own."""
    image = study.image
    if not image.is_volume:
        keep = "image.mode[0] in 'IF'"  # of more than 8 bits, which would be cut off
        convert = "image.convert('RGB')" if image.channels == 3 else f"image if {keep} else image.convert('L')"
        reader = {"_target_": "PILReader", "reverse_indexing": False, "converter": f"$lambda image: {convert}"}
        return [
            {"_target_": "LoadImage", "reader": reader, "image_only": True, "ensure_channel_first": True},
            *_greys(study),
            {"_target_": "Resize", "spatial_size": list(image.size), "mode": "area"},
        ]
    return [
        {"_target_": "LoadImage", "image_only": True, "ensure_channel_first": True},
        *_greys(study),
        {"_target_": "Orientation", "axcodes": AXES},
        {"_target_": "Spacing", "pixdim": list(image.spacing or (1.0,) * 3), "mode": "bilinear"},
        {"_target_": "ResizeWithPadOrCrop", "spatial_size": list(image.size), "value": -1},
    ]


def _greys(study: Study) -> list[dict[str, Any]]:
    """From the file's values to -1 and 1: between those that the study names, or percentiles, or over the whole range
    of 8 or 16 bits; see :class:`segcft.config.sources.FolderKeys`."""
    spec, target = study.data.common, {"b_min": -1, "b_max": 1, "clip": True}
    if spec.grey_range is not None:
        low, high = spec.grey_range
        return [{"_target_": "ScaleIntensityRange", "a_min": low, "a_max": high, **target}]
    window = spec.window or (PERCENTILES if study.image.is_volume else None)
    if window is not None:
        return [{"_target_": "ScaleIntensityRangePercentiles", "lower": window[0], "upper": window[1], **target}]
    whole = "$lambda image: image / (255 if image.max() <= 255 else 65535)"
    return [
        {"_target_": "Lambda", "func": whole},
        {"_target_": "ScaleIntensityRange", "a_min": 0, "a_max": 1, **target},
    ]


def _readme(study: Study, part: str) -> str:
    bits = ", ".join(f"{1 << bit} {name}" for bit, name in enumerate(study.masked))
    fitted = "volumes are cut or filled up to it" if study.image.is_volume else "images are stretched to it"
    grid = "the depth, height and width" if study.image.is_volume else "the height and width"
    return f"""# {study.name}: its {part}, as a MONAI bundle

Written by segcft {segcft.__version__}. Research use only, not for clinical use.

Put images into `images` in the bundle, and run in it:

```python
from monai.bundle import ConfigParser

parser = ConfigParser()
parser.read_config("{INFERENCE}")
parser.get_parsed_content("run")
```

or `python -m monai.bundle run --config_file {INFERENCE}`. Masks are written to `masks`, on the network's grid of
{study.image.words} ({grid}), as sums of flags: {bits}. `models/model.ts` takes images from -1 (black) to 1 (white), of
that grid, and gives a probability of each structure.

How files come to the grid is MONAI's here, and simpler than what segcft does: {fitted}. `segcft
segment` keeps their shape, asks two networks that must agree, and writes masks on the pixels of the files.
"""
