"""Masks that are turned, another's, or everywhere are told from those that lie on their images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from segcft.config.study import Study
from segcft.data.maskfit import check_masks
from segcft.data.store import Store
from segcft.data.writer import StoreWriter
from segcft.simulate import ChestSimulator


@pytest.fixture(scope="module")
def chests(small_study: Study) -> list[tuple[np.ndarray, np.ndarray, dict]]:
    simulator = ChestSimulator(small_study.image.size)
    facts = [simulator.attributes(person) for person in range(40)]
    return [(*simulator.render(person, known), known) for person, known in enumerate(facts)]


def write(folder: Path, study: Study, images: np.ndarray, masks: np.ndarray, facts: list[dict]) -> Store:
    with StoreWriter(folder, study) as writer:
        for i, (image, mask, known) in enumerate(zip(images, masks, facts, strict=True)):
            writer.append(f"p{i}", f"p{i}", "train", np.ascontiguousarray(image), np.ascontiguousarray(mask), known)
    return Store(folder)


def kinds(tmp_path: Path, study: Study, chests: list, change: object = None) -> list[str]:
    images, masks = (np.stack([np.atleast_3d(chest[k]) for chest in chests]) for k in (0, 1))
    images = images.reshape(len(chests), 1, *study.image.size)
    masks = masks.reshape(len(chests), -1, *study.image.size)
    masks = change(masks) if callable(change) else masks
    store = write(tmp_path / "store", study, images, masks, [chest[2] for chest in chests])
    return [remark.kind for remark in check_masks(store)]


def test_masks_that_lie_on_their_images_are_not_told(tmp_path: Path, small_study: Study, chests: list) -> None:
    assert kinds(tmp_path, small_study, chests) == []


@pytest.mark.parametrize("axes", [(-1,), (-2,), (-1, -2)], ids=["mirrored", "upside down", "turned"])
@pytest.mark.parametrize("transposed", [False, True])
def test_masks_that_lie_another_way_round(
    tmp_path: Path, small_study: Study, chests: list, axes: tuple[int, ...], transposed: bool
) -> None:
    def change(masks: np.ndarray) -> np.ndarray:
        masks = np.flip(masks, axes)
        return masks.swapaxes(-1, -2) if transposed else masks

    assert kinds(tmp_path, small_study, chests, change) == ["masks lie another way round"]


def test_masks_of_other_images(tmp_path: Path, small_study: Study, chests: list) -> None:
    assert kinds(tmp_path, small_study, chests, lambda masks: np.roll(masks, 7, axis=0)) == [
        "masks do not fit their images"
    ]


@pytest.mark.parametrize("faint", [0.0, 0.05])
def test_faint_lesions_beside_steep_edges_are_not_told(tmp_path: Path, small_study: Study, faint: float) -> None:
    """Masks of others lie on steeper edges, those of a skull, in every image alike: that is no better fit."""
    size, random = small_study.image.size, np.random.default_rng(0)
    down, across = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]
    radius = np.hypot(down, across)
    head = np.where(np.abs(radius - 0.85) < 0.07, 1, 0.4 * (radius < 0.9))
    images, masks, facts = [], [], []
    for _ in range(60):
        angle, place = random.uniform(0, 2 * np.pi), random.uniform(0.4, 0.65)
        lesion = np.hypot(down - place * np.sin(angle), across - place * np.cos(angle)) < random.uniform(0.15, 0.25)
        image = head + faint * lesion + random.normal(0, 0.02, size)
        images.append(np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)[None])
        masks.append(np.repeat(np.uint8(255) * lesion[None], len(small_study.structures), axis=0))
        facts.append(ChestSimulator(size).attributes(0))
    store = write(tmp_path / "store", small_study, np.stack(images), np.stack(masks), facts)
    found = [remark.kind for remark in check_masks(store)]
    assert found == ([] if faint else ["masks do not fit their images"])


def test_masks_of_everything(tmp_path: Path, small_study: Study, chests: list) -> None:
    def change(masks: np.ndarray) -> np.ndarray:
        masks = masks.copy()
        masks[:, 1] = 255
        return masks

    assert "masks cover the whole frame" in kinds(tmp_path, small_study, chests, change)


def test_of_few_or_no_masks_nothing_is_said(tmp_path: Path, small_study: Study, chests: list) -> None:
    assert kinds(tmp_path / "few", small_study, chests[:5], lambda masks: masks[..., ::-1]) == []
    assert kinds(tmp_path / "none", small_study, chests, np.zeros_like) == []


def test_one_image_of_each_patient_counts(tmp_path: Path, small_study: Study, chests: list) -> None:
    """One patient with many images is one opinion."""
    images = np.stack([chest[0].reshape(1, *small_study.image.size) for chest in chests])
    masks = np.stack([chest[1] for chest in chests])[..., ::-1]
    store = write(tmp_path / "store", small_study, images, masks, [chest[2] for chest in chests])
    store.table = pd.DataFrame(store.table).assign(patient="one")
    assert check_masks(store) == []


def test_a_variable_may_be_called_index(tmp_path: Path, small_study: Study, chests: list) -> None:
    images, masks = (np.stack([chest[k].reshape(-1, *small_study.image.size) for chest in chests]) for k in (0, 1))
    store = write(tmp_path / "store", small_study, images, masks, [chest[2] for chest in chests])
    store.table = pd.DataFrame(store.table).assign(index=0.5)
    assert check_masks(store) == []
