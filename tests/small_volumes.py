"""A small study of simulated volumes."""

from __future__ import annotations

from typing import Any

SIZE = (28, 36, 56)


def mapping() -> dict[str, Any]:
    """A small study of volumes, in voxels of 1 x 1 x 1 mm."""
    reader = {"steps": 3, "batch_size": 3, "widths": [4, 8]}
    volume = {"kind": "continuous", "parents": ["sex", "age"], "unit": "mm³"}
    return {
        "name": "volumes",
        "image": {"size": list(SIZE), "field_of_view": list(SIZE), "length_unit": "mm"},
        "variables": {
            "sex": {"kind": "categorical", "categories": ["F", "M"]},
            "age": {"kind": "continuous", "unit": "years"},
            "anterior_volume": volume,
            "posterior_volume": volume,
            "tip": {"kind": "continuous", "parents": ["anterior_volume"], "unit": "mm"},
        },
        "structures": {
            "anterior": {"variable": "anterior_volume"},
            "posterior": {"variable": "posterior_volume"},
            "anterior_tip": {"variable": "tip", "of": ["anterior"], "measure": "right"},
        },
        "data": {"source": "volume-simulator", "people": 24, "seed": 1},
        "splits": {"train": 0.5, "validation": 0.25, "test": 0.25},
        "segmentor": reader | {"seed": 1},
        "judge": reader | {"seed": 2},
        "regressor": {"steps": 3, "batch_size": 3, "widths": [4, 4, 8, 8], "blocks": [1, 1, 1, 1], "seed": 3},
        "scm": {"steps": 5, "seed": 4},
        "hvae": {
            "steps": 3,
            "batch_size": 3,
            "patch": 2,
            "warp": 4,
            "diffeomorphic": True,
            "deform": {"share": 0.5},
            "levels": [
                {"width": 8, "encoder": 1, "decoder": 1, "z": 2},
                {"width": 8, "encoder": 1, "decoder": 1, "z": 2},
            ],
        },
        "finetune": {"steps": 3, "batch_size": 3, "bound_batches": 1, "price": "floor", "area_scale": "given others"},
        "evaluation": {"metric": "mae", "people": 4, "bootstrap": 100, "batch_size": 4, "figure_people": 1},
    }
