"""A small study of simulated photographs in colour."""

from __future__ import annotations

from typing import Any

SIZE = (32, 32)


def mapping() -> dict[str, Any]:
    """A small study in colour with masks that overlap, a ratio of both, and attributes that are predicted."""
    reader = {"steps": 3, "batch_size": 4, "widths": [4, 8]}
    # Of three channels and four features PyTorch 2.13 writes beyond its memory where it has one thread (oneDNN, AVX2).
    residual = {"steps": 3, "batch_size": 4, "widths": [8, 8, 16, 16]}
    return {
        "name": "retinas",
        "image": {"size": list(SIZE), "channels": 3},
        "variables": {
            "sex": {"kind": "categorical", "categories": ["F", "M"]},
            "age": {"kind": "continuous", "unit": "years"},
            "disc_area": {"kind": "continuous", "scale": "log", "parents": ["sex"], "unit": "px"},
            "cup_area": {"kind": "continuous", "scale": "log", "parents": ["age", "disc_area"], "unit": "px"},
            "vessel_calibre": {"kind": "continuous", "parents": ["age"], "unit": "µm"},
            "cup_to_disc": {"kind": "continuous", "formula": "cup_area / disc_area", "solve_for": "cup_area"},
        },
        "structures": {"disc": {"variable": "disc_area"}, "cup": {"variable": "cup_area"}},
        "data": {"source": "retina-simulator", "people": 60, "seed": 1},
        "splits": {"train": 0.5, "validation": 0.25, "test": 0.25},
        "segmentor": reader | {"seed": 1},
        "judge": reader | {"seed": 2},
        "predictor": residual | {"seed": 4},
        "predictor_judge": residual | {"seed": 5},
        "scm": {"steps": 5, "batch_size": 12, "hidden": [8], "seed": 6},
        "hvae": {
            "steps": 3,
            "batch_size": 4,
            "context": 8,
            "patch": 2,
            "warp": 4,
            "levels": [
                {"width": 8, "encoder": 1, "decoder": 1, "z": 2},
                {"width": 8, "encoder": 1, "decoder": 1, "z": 2},
            ],
        },
        "finetune": {"guides": ["segmentor"], "steps": 2, "batch_size": 4, "bound_batches": 1},
        "evaluation": {
            "people": 4,
            "bootstrap": 50,
            "figure_people": 1,
            "figure_changes": [0.2],
            "progression_quantiles": [0.1, 0.9],
        },
    }
