"""Kills a small study at random moments, over and over, and checks that nothing is lost: ``python -m benchmarks.soak``.

A study of simulated radiographs of 32 x 32 pixels is run whole once, and a folder of images is asked a question, for
reference. Then the same commands are begun again and again and ended by SIGKILL, SIGTERM or SIGINT, sent to the
process or to it and its workers, or by a disk that is full from a moment on, until they are through; then anew, until
the number of faults is reached. A part of the faults waits for a moment at which a file is being written. After every
one of them:

- every file with a final name is whole: weights, checkpoints and the store hold their checksums, the others parse;
- a training lost no more than the steps of a checkpoint interval, and none to SIGTERM and SIGINT;
- no process is left;
- of a full disk the last line of the output tells which file found no room.

Whenever the commands are through, weights, logs, store, table and figures are compared with the reference, bit for bit,
and the answers up to the rounding of another batch. The processes are forked from one that has imported PyTorch
already, so that a fault costs little; with ``--jobs 2`` (every fourth time) they have workers, which have not.
"""

from __future__ import annotations

from typing import Any


class SoakError(Exception):
    """Something was lost."""


def small_study() -> dict[str, Any]:
    """A study that trains in seconds, with checkpoints every few steps."""
    area = {"kind": "continuous", "parents": ["sex", "age"], "unit": "px"}
    step = {"batch_size": 8, "warmup_steps": 2, "checkpoint_steps": 5}
    segmentor = step | {"steps": 40, "learning_rate": 1e-2, "widths": [8, 16, 24], "ema": 0.9}
    levels = [{"width": 8, "encoder": 0, "z": 0}, {"width": 12, "z": 4}, {"width": 12, "z": 4}]
    hvae = {"steps": 40, "learning_rate": 3e-3, "ema": 0.9, "context": 8, "patch": 2, "warp": 8, "levels": levels}
    return {
        "name": "soak",
        "image": {"size": [32, 32]},
        "variables": {
            "sex": {"kind": "categorical", "categories": ["F", "M"]},
            "age": {"kind": "continuous", "unit": "years"},
            "left_lung_area": area,
            "right_lung_area": area,
            "heart_area": area,
        },
        "structures": {name: {"variable": f"{name}_area"} for name in ("left_lung", "right_lung", "heart")},
        "data": {"source": "chest-simulator", "people": 60, "seed": 3},
        "splits": {"train": 0.6, "validation": 0.2, "test": 0.2},
        "segmentor": segmentor,
        "judge": segmentor | {"seed": 1},
        "regressor": step | {"steps": 40, "learning_rate": 3e-3, "widths": [8, 8, 16, 16]},
        "scm": step | {"steps": 40, "hidden": [8], "bins": 4, "learning_rate": 1e-2},
        "hvae": step | hvae,
        "finetune": step | {"steps": 12, "ema": 0.5, "bound_batches": 2},
        "evaluation": {"bootstrap": 40, "figure_people": 1, "figure_changes": [-0.2, 0.2]},
    }
