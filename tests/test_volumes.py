"""Volumes through every stage."""

from __future__ import annotations

import io
import json
import re
import shutil
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import PIL.Image
import pytest
import torch
from nibabel.orientations import axcodes2ornt, ornt_transform

import segcft
from benchmarks.volumes import main as benchmark
from benchmarks.volumes import study_of
from refused import refused
from segcft.api.full import change_of
from segcft.api.many import answer_all
from segcft.api.question import prepare_image, read_pixels
from segcft.api.questions import folder_items
from segcft.cli import main
from segcft.config.loader import parse_study
from segcft.config.outline import Outline
from segcft.data.maskfit import check_masks
from segcft.data.resize import Pixel
from segcft.data.store import Store
from segcft.data.writer import StoreWriter
from segcft.errors import Code, DataError, StudyError
from segcft.evaluate.planes import Planes
from segcft.grid import Grid
from segcft.importers.folder import import_folder
from segcft.io.lie import Lie
from segcft.io.provenance import inspect
from segcft.io.scan import read_array
from segcft.io.volumeout import nifti_bytes, series_bytes
from segcft.pipeline.publish import publish
from segcft.pipeline.run import Run
from segcft.planning.fingerprint import facts, take_fingerprint
from segcft.planning.plan import make_plan, usual_study
from segcft.planning.planned import Machine
from segcft.report.page import render_report
from segcft.stress.people import people_of_store
from segcft.utils.progress import Progress
from tests.small_volumes import SIZE, mapping


def test_every_stage_takes_volumes(volumes: Run) -> None:
    store = volumes.store()
    assert store.images.shape[1:] == (1, *SIZE)
    assert store.masks.shape[1:] == (2, *SIZE)
    measured = store.masks[:, 0].reshape(len(store), -1).sum(axis=1) / 255
    np.testing.assert_allclose(store.table["anterior_volume"], measured, rtol=1e-5)  # mm³, of voxels of 1 mm³
    assert 28 < store.table["tip"].mean() < 56
    rows = json.loads((volumes.evaluation / "table.json").read_text())
    said = {(row["method"], row["metric"]) for row in rows if row["value"] is not None}
    for method in ("none", "regressor", "segmentor"):
        for metric in ("mae", "locality", "true counterfactual error", "smallest stretch", "reversibility"):
            assert (method, metric) in said
    assert all(row["value"] > 0 for row in rows if row["metric"] == "smallest stretch" and row["value"] is not None)
    figures = {path.name for path in (volumes.evaluation / "figures").iterdir()}
    assert {"counterfactuals-anterior.png", "differences-posterior.png", "asked-obtained.png"} <= figures


def test_an_answer_to_nothing_is_the_volume_itself(volumes: Run) -> None:
    model, store = volumes.model("segmentor"), volumes.store()
    x = torch.from_numpy(store.images[:2].copy()).float() / 127.5 - 1
    values = torch.from_numpy(store.values()[:2])
    with torch.no_grad():
        same = model.mechanism.predict(model.mechanism.abduct(x, values), values)
    torch.testing.assert_close(same, x, rtol=0, atol=1e-4)


# --- files ---


def of_files(**changes: Any) -> dict[str, Any]:
    """The study of :func:`mapping`, whose volumes are files."""
    raw = mapping()
    raw["structures"]["anterior"]["file"] = "{id}_anterior.nii.gz"
    raw["structures"]["posterior"]["file"] = "{id}_posterior.nii.gz"
    raw["image"]["fit"] = "physical"
    return raw | {"data": {"source": "folder", "grey_range": [0, 255]}} | changes


def test_volumes_from_files_are_those_that_were_written(volumes: Run, volume_files: Path, tmp_path: Path) -> None:
    store = import_folder(parse_study(of_files()), volume_files, tmp_path / "store")
    own = volumes.store()
    assert list(store.table["id"]) == list(own.table["id"])
    assert np.array_equal(store.images, own.images)
    assert np.array_equal(store.masks, own.masks)
    np.testing.assert_allclose(store.values(), own.values(), rtol=1e-5)


def test_a_volume_that_cannot_be_used_is_left_out_with_its_reason(volume_files: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(volume_files, folder)
    ids = sorted(path.name.split(".")[0] for path in (folder / "images").iterdir())[:4]
    several = nibabel.Nifti1Image(np.zeros((4, 4, 4, 5), np.uint8) + np.arange(5, dtype=np.uint8), np.eye(4))
    nibabel.save(several, folder / "images" / f"{ids[0]}.nii.gz")
    (folder / "masks" / f"{ids[1]}_anterior.nii.gz").unlink()
    (folder / "images" / f"{ids[2]}.nii.gz").write_bytes(b"cut off")
    shutil.copy(folder / "masks" / f"{ids[3]}_anterior.nii.gz", folder / "masks" / f"{ids[3]}_posterior.nii.gz")
    store = import_folder(parse_study(of_files()), folder, tmp_path / "store")
    assert sorted(store.rejected["id"]) == ids
    reasons = dict(zip(store.rejected["id"], store.rejected["reason"], strict=True))
    assert "4 x 4 x 4 x 5" in reasons[ids[0]]
    assert f"{ids[1]}_anterior" in reasons[ids[1]]
    assert "same mask" in reasons[ids[3]]


def test_masks_that_lie_another_way_round_than_their_volumes_are_told_of(volumes: Run, tmp_path: Path) -> None:
    store = volumes.store()
    assert not check_masks(store)
    turned = tmp_path / "store"
    with StoreWriter(turned, volumes.study) as writer:
        for k, row in enumerate(store.table.itertuples()):
            values = {name: getattr(row, name) for name in ("sex", "age")}
            masks = np.ascontiguousarray(store.masks[k][..., ::-1])
            writer.append(row.id, row.patient, row.split, store.images[k], masks, values)
    (remark,) = check_masks(Store(turned))
    assert remark.kind == "masks lie another way round"
    assert "mirrored" in remark.text
    assert "upside down" not in remark.text


@pytest.mark.parametrize("more", [{"spacing": [1, 1]}, {"nifti_axes": "xy"}])
def test_what_only_images_need_to_be_told_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match="data: files of volumes say"):
        parse_study(of_files(data={"source": "folder"} | more))


# --- questions ---


def test_a_question_about_a_file_is_answered_in_its_own_voxels(
    volumes: Run, volume_files: Path, tmp_path: Path
) -> None:
    """Any order of axes, in the file's own units, whatever is beyond the grid is untouched."""
    model = segcft.load(volumes.folder)
    path = sorted((volume_files / "images").iterdir())[0]
    original = nibabel.load(path)
    values = np.pad(np.asanyarray(original.dataobj).astype(np.int16), 3, mode="edge") * 7 + 100
    moved = original.affine.copy()
    moved[:3, 3] -= moved[:3, :3] @ [3, 3, 3]
    given = tmp_path / "t1.nii.gz"
    turn = ornt_transform(axcodes2ornt(tuple("RAS")), axcodes2ornt(tuple("PIR")))
    nibabel.save(nibabel.Nifti1Image(values, moved).as_reoriented(turn), given)
    # The study of simulated volumes fills its grid up: of one of files see above.
    answer = model.counterfactual(given, {"sex": "F", "age": 50}, {"anterior_volume": "+20%"}, draws=2)
    assert answer.image.shape == (1, *SIZE)
    assert answer.masks_after.shape == (2, *SIZE)
    assert set(answer.areas) == {"anterior_volume", "posterior_volume", "tip"}
    out = tmp_path / "answer.nii.gz"
    answer.save(out, full_resolution=True)
    written, before = nibabel.load(out), nibabel.load(given)
    np.testing.assert_array_equal(written.affine, before.affine)
    assert written.get_data_dtype() == before.get_data_dtype() == np.int16
    change = np.asanyarray(written.dataobj).astype(int) - np.asanyarray(before.dataobj)
    _, lie, _ = read_array(given)
    low, high = np.percentile(np.asanyarray(before.dataobj), (0.5, 99.5))
    size = lie.turn(np.asanyarray(before.dataobj)).shape
    pixel = Pixel(1.0, lie.spacing)
    asked = change_of(size, pixel, model.study.image, answer.original, answer.image)[0] * (high - low)
    assert np.abs(lie.turn(change) - asked).max() <= 0.5 + 1e-9
    assert inspect(out) == json.loads(json.dumps(answer.provenance))


def test_a_change_lies_where_it_was_made_and_nothing_else_moves(volumes: Run, tmp_path: Path) -> None:
    """A block of the grid is a block of the file, in half its voxels; what the grid does not show is as it was."""
    study = parse_study(of_files(data={"source": "folder", "grey_range": [0, 1000]}))
    shape = (60, 80, 120)  # voxels of 0.5 mm: 30 x 40 x 60 mm, of which the grid shows 28 x 36 x 56
    lie = Lie.straight((0.5,) * 3, said=True)
    stored = np.random.default_rng(0).integers(300, 600, shape).astype(np.int16)
    path = tmp_path / "t1.nii.gz"
    path.write_bytes(nifti_bytes(stored[None], lie, None))
    prepared = prepare_image(study, path)
    after, block = prepared.pixels.copy(), (slice(10, 14), slice(20, 25), slice(30, 36))
    after[0][block] += 51  # a fifth of 1000
    model = segcft.load(volumes.folder)
    do = {"anterior_volume": "+10%"}
    some = model.counterfactual(np.asarray(volumes.store().images[0]), {"sex": "F", "age": 50}, do, draws=0)
    answer = replace(some, image=after, original=prepared.pixels, study=study, source=path, lie=prepared.lie)
    answer.save(tmp_path / "y.nii.gz", full_resolution=True)
    found, _, _ = read_array(tmp_path / "y.nii.gz")
    change = found[..., 0].astype(int) - stored
    # The grid begins 2, 4 and 4 voxels of 0.5 mm within the volume.
    own = [slice(2 * one.start + more, 2 * one.stop + more) for one, more in zip(block, (2, 4, 4), strict=True)]
    inner = tuple(slice(one.start + 1, one.stop - 1) for one in own)
    assert (change[inner] == 200).all()
    around = np.ones(shape, dtype=bool)
    around[tuple(slice(one.start - 1, one.stop + 1) for one in own)] = False
    assert not change[around].any()


def test_an_answer_about_a_volume_as_a_folder(volumes: Run, volume_files: Path, tmp_path: Path) -> None:
    model = segcft.load(volumes.folder)
    path = sorted((volume_files / "images").iterdir())[1]
    answer = model.counterfactual(path, {"sex": "M", "age": 60}, {"posterior_volume": "-10%"}, draws=2)
    answer.save(tmp_path / "answer", full_resolution=True)
    names = {one.name for one in (tmp_path / "answer").iterdir()}
    assert {"counterfactual.json", "image.png", "counterfactual.png", "difference.png", "spread.png", "dicom"} <= names
    assert {"counterfactual.nii.gz", "difference.nii.gz", "counterfactual-full.nii.gz", "spread.nii.gz"} <= names
    depth, height, width = SIZE
    with PIL.Image.open(tmp_path / "answer" / "counterfactual.png") as picture:
        assert picture.size == (width + height, depth + height)
    values, lie, _ = read_array(tmp_path / "answer" / "counterfactual.nii.gz")
    assert np.array_equal(np.moveaxis(values, -1, 0), answer.image)
    series, again, _ = read_array(tmp_path / "answer" / "dicom")
    assert np.array_equal(series, values)
    assert again.apart(lie, SIZE) < 1e-3
    difference, _, _ = read_array(tmp_path / "answer" / "difference.nii.gz")
    assert np.array_equal(np.moveaxis(difference, -1, 0), answer.difference)
    answer.save(tmp_path / "answer")  # in place of that, with less
    assert not (tmp_path / "answer" / "counterfactual-full.nii.gz").exists()
    assert "<img" in answer._repr_html_()
    for name in ("x.dcm", "x.gif"):
        with refused(DataError, Code.UNSUPPORTED, name):
            answer.save(tmp_path / name)
    for name in ("x.json", "x.png"):
        with refused(DataError, Code.CONFLICT, name):
            answer.save(tmp_path / name, full_resolution=True)


def test_an_array_of_voxels_is_asked_about(volumes: Run) -> None:
    model, store = segcft.load(volumes.folder), volumes.store()
    voxels = np.asarray(store.images[0])
    do = {"anterior_volume": "+10%"}
    answer = model.counterfactual(voxels[0], {"sex": "F", "age": 40}, do, draws=0)
    assert np.array_equal(answer.original, voxels)
    for other in (voxels, torch.from_numpy(voxels.copy()), voxels[0].astype(np.float64) / 255):
        same = model.counterfactual(other, {"sex": "F", "age": 40}, do, draws=0)
        assert np.array_equal(same.image, answer.image)
    many = list(model.counterfactuals(np.asarray(store.images[:2])[:, 0], {"sex": "F", "age": 40}, do))
    assert np.abs(many[0].image.astype(int) - answer.image).max() <= 1  # of another size of batch
    for wrong in (voxels[0, 0], voxels[0][None].repeat(2, axis=0), voxels[0, :, :, :-1]):
        with pytest.raises(DataError):
            model.counterfactual(wrong, {"sex": "F", "age": 40}, do, draws=0)
    strip = model.trajectory(voxels[0], "anterior_volume", 3, {"sex": "F", "age": 40}).strip()
    assert strip.ndim == 3


def test_volumes_are_made_up_too(volumes: Run, tmp_path: Path) -> None:
    made = segcft.load(volumes.folder).sample(2)
    assert made.images.shape == (2, 1, *SIZE)
    made.save(tmp_path / "made")
    values, lie, _ = read_array(tmp_path / "made" / "1.nii.gz")
    assert np.array_equal(np.moveaxis(values, -1, 0), made.images[0])
    assert lie.spacing == (1.0, 1.0, 1.0)


def test_many_volumes_are_asked_about(volumes: Run, volume_files: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ask"
    folder.mkdir()
    first, second = sorted((volume_files / "images").iterdir())[:2]
    shutil.copy(first, folder / "a.nii.gz")
    values, lie, _ = read_array(second)
    for number, content in enumerate(series_bytes(np.moveaxis(values, -1, 0), lie, {"do": []})):
        (folder / "b").mkdir(exist_ok=True)
        (folder / "b" / f"{number}.dcm").write_bytes(content)
    (folder / "note.txt").write_text("of somebody")
    asked = folder_items(folder, ["sex=F", "age=50"], ["anterior_volume=+10%"], volumes=True)
    assert [item.id for item in asked.items] == ["a", "b"]
    assert [one.name for one in asked.passed] == ["note.txt"]
    out = tmp_path / "answers"
    done = answer_all(volumes, asked.items, out, torch.device("cpu"), dicom=True)
    assert (done.answered, done.rejected) == (2, 0)
    for id in ("a", "b"):
        values, _, _ = read_array(out / "volumes" / f"{id}.nii.gz")
        series, _, _ = read_array(out / "dicom" / id)
        assert np.array_equal(values, series)
    (out / "volumes" / "a.nii.gz").unlink()
    done = answer_all(volumes, asked.items, out, torch.device("cpu"), dicom=True)
    assert (done.answered, done.before) == (1, 1)


def test_the_command_line_asks_about_a_volume(volumes: Run, volume_files: Path, tmp_path: Path) -> None:
    path = sorted((volume_files / "images").iterdir())[0]
    ask = ["counterfactual", volumes.folder, path, "--do", "anterior_volume=+10%", "--set", "sex=F", "--set", "age=50"]
    more = ["--draws", "0", "--device", "cpu", "--out"]
    assert main([*map(str, ask), *more, str(tmp_path / "y.nii.gz")]) == 0
    assert inspect(tmp_path / "y.nii.gz")["do"] == ["anterior_volume=+10.0%"]
    assert main([*map(str, ask), *more, str(tmp_path / "y.dcm")]) == 1
    assert main([*map(str, ask), *more, str(tmp_path / "y.tar.gz")]) == 1


def test_a_classifier_of_volumes_is_stressed(volumes: Run, volume_files: Path, tmp_path: Path) -> None:
    store, data, out = volumes.store(), tmp_path / "data", tmp_path / "out"
    assert np.shape(people_of_store(store, store.indices("test"), volumes.study)[0].image) == SIZE
    data.mkdir()
    (data / "images").symlink_to(volume_files / "images")
    # A judge of a few steps reads no volume right: all is known.
    store.table[["id", *volumes.study.variables]].to_csv(data / "metadata.csv", index=False)
    (tmp_path / "theirs.py").write_text("def grey(x):\n    assert x.dim() == 5\n    return x.mean(dim=(1, 2, 3, 4))\n")
    card = tmp_path / "theirs.yaml"
    card.write_text("code: theirs.py:grey\ngives: numbers\noutputs: {grey: 0}\n")
    words = ["stress", volumes.folder, "--classifier", card, "--data", data, "--doses", "2", "--device", "cpu"]
    words += ["--variables", "anterior_volume", "exposure of the film", "--out", out]
    assert main([str(word) for word in words]) == 0
    record = json.loads((out / "stress.json").read_text())
    assert record["images"] > 0
    assert record["images"] + len(record["left out"]) == len(store)
    assert 0 < record["taught the model"] <= record["images"]
    brighter = next(one for one in record["effects"] if one["variable"] == "exposure of the film")
    assert brighter["slope"] > 0
    depth, height, width = SIZE
    found = re.findall(r"image/png;base64,([^\"]+)", (out / "stress.html").read_text())
    pictures = [PIL.Image.open(io.BytesIO(b64decode(one))) for one in found]
    assert {one.size for one in pictures} == {(width + height, depth + height)}
    for image, _, _, sham in zip(*(pictures[k::4] for k in range(4)), strict=True):
        assert np.abs(np.asarray(sham, int) - np.asarray(image, int)).max() > 1  # it is seen where it is
    card.write_text(card.read_text() + "size: [32, 32]\n")
    assert main([str(word) for word in words]) == 1


def test_a_report_shows_planes(volumes: Run) -> None:
    page = render_report(volumes, torch.device("cpu"))
    assert f"{' x '.join(map(str, SIZE))} voxels" in page
    depth, height, width = SIZE
    assert f'viewBox="0 0 {width + height} {depth + height}"' in page


def test_a_model_of_volumes_is_published_and_asked(volumes: Run, tmp_path: Path) -> None:
    publish(volumes, tmp_path / "model")
    model = segcft.load(tmp_path / "model")
    example = tmp_path / "model" / "examples" / "1.nii.gz"
    row = int(volumes.store().indices("test", complete=True)[0])
    assert np.array_equal(read_pixels(model.study, example), volumes.store().images[row])
    answer = model.counterfactual(example, {"sex": "F", "age": 50}, {"anterior_volume": "+10%"}, draws=0)
    own = segcft.load(volumes.folder)
    same = own.counterfactual(example, {"sex": "F", "age": 50}, {"anterior_volume": "+10%"}, draws=0)
    assert np.array_equal(answer.image, same.image)
    assert "28 x 36 x 56 voxels" in (tmp_path / "model" / "README.md").read_text()


# --- what there cannot be ---


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"data": {"source": "chest-simulator", "people": 9}}, "study: image.size"),
        ({"image": {"size": [32, 32]}}, "study: image.size"),
        ({"regressor": mapping()["regressor"] | {"augment": {"film": {"share": 0.5}}}}, "study: regressor.augment"),
    ],
)
def test_what_volumes_cannot_have_is_told_before_anything_is_trained(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(StudyError) as caught:
        parse_study(mapping() | changes)
    assert str(caught.value).startswith(field)


# --- what is seen of a volume ---


def test_three_planes_meet_in_one_voxel() -> None:
    grid = Grid((4, 5, 6))
    masks = torch.zeros(2, 4, 5, 6)
    masks[0, 1, 2, 3] = masks[1, 1, 2, 5] = 1  # the middle is between them
    view = Planes(grid, masks)
    assert view.place == (1, 2, 4)
    assert view.size == (4 + 5, 6 + 5)
    values = torch.arange(120.0).reshape(1, 4, 5, 6)
    picture = view(values, -1.0)[0]
    assert torch.equal(picture[:4, :6], values[0, :, 2].flip(0))  # the head is up
    assert torch.equal(picture[:4, 6:], values[0, :, :, 4].flip(0))
    assert torch.equal(picture[4:, :6], values[0, 1])
    assert bool((picture[4:, 6:] == -1).all())
    assert picture[2, 4] == picture[2, 6 + 2] == picture[4 + 2, 4] == values[0, 1, 2, 4]


def test_voxels_are_shown_as_large_as_they_are() -> None:
    grid = Grid((4, 5, 6), pitch=(2.0, 1.0, 1.0))
    assert Planes(grid, torch.zeros(0, 4, 5, 6)).size == (8 + 5, 6 + 5)
    assert Planes(grid, torch.zeros(1, 4, 5, 6))(torch.ones(3, 4, 5, 6)).shape == (3, 13, 11)


def test_of_an_image_it_is_the_image() -> None:
    view, image = Planes(Grid((4, 5)), torch.ones(1, 4, 5)), torch.rand(2, 3, 4, 5)
    assert view(image) is image
    assert view.size == (4, 5)


# --- plans ---


def outline(**changes: Any) -> Outline:
    raw = of_files(**changes)
    kept = {key: raw[key] for key in ("name", "image", "variables", "structures", "data")}
    return Outline(kept, "volumes.yaml")


def test_volumes_are_planned(volume_files: Path) -> None:
    study = usual_study(outline())
    assert study.image.size == SIZE
    found = take_fingerprint(study, outline(), volume_files, Progress())
    assert found.size == SIZE
    assert found.extent == SIZE  # voxels of 1 mm
    for name in ("anterior", "posterior"):
        assert 0.01 < found.structures[name].share < 0.1
        assert 4 < found.structures[name].thickness * found.side < 20  # mm
    trained = ("segmentor", "judge", "regressor", "scm", "hvae", "finetune")
    plan = make_plan(outline(), found, Machine("cpu", 2, 8 * 2**30, 2), 2.0, lambda _: dict.fromkeys(trained, 0.1))
    assert plan.study.segmentor is not None
    assert plan.study.segmentor.augment.rotate > 0
    image = plan.study.hvae.model_dump()
    assert image["diffeomorphic"]
    assert len(image["levels"]) >= 2
    assert plan.study.hvae.batch_size == plan.study.finetune.batch_size == 4
    assert "28 x 36 x 56 voxels" in " ".join(facts(found))


def test_a_plan_of_volumes_needs_their_grid() -> None:
    raw = mapping()
    kept = {key: raw[key] for key in ("name", "variables", "structures", "data")}
    with refused(StudyError, Code.MISSING, "image.size"):
        usual_study(Outline(kept, "volumes.yaml"))


# --- what it costs ---


def test_the_benchmark_measures_studies_of_any_size() -> None:
    study = study_of((16, 24, 24), 2, {"precision": "bf16"}, recompute=True)
    assert study.image.spacing == (1, 1, 1)
    assert study.hvae.recompute
    assert study.finetune.precision == "bf16"
    assert study.hvae.batch_size == 2


def test_the_benchmark_estimates_a_head(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In proportion to voxels, from the largest size that was measured."""
    taken = {16: ({"segmentor": 1.0, "hvae": 2.0}, 0.5), 32: ({"segmentor": 8.0, "hvae": 16.0}, 4.0)}
    monkeypatch.setattr("benchmarks.volumes._apart", lambda size, *_: taken[size[0]])
    benchmark(["--sizes", "32x32x32", "16x16x16"])
    *_, last = capsys.readouterr().out.strip().splitlines()
    assert last.startswith("| estimated: 256 x 256 x 256 |")
    assert [cell.strip() for cell in last.split("|")[3:]] == ["4.1e+03", "–", "–", "8.19e+03", "–", "2048.0", ""]


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_of_several_channels_a_picture_has_the_first(volumes: Run, tmp_path: Path, channels: int) -> None:
    """They are no colours, and nothing is transparent."""
    do = {"anterior_volume": "+10%"}
    image = np.asarray(volumes.store().images[0])
    some = segcft.load(volumes.folder).counterfactual(image, {"sex": "F", "age": 50}, do, draws=0)
    several = np.concatenate([some.image, *(255 - some.image for _ in range(channels - 1))])
    answer = replace(some, image=several, original=several, band=None)
    for one, name in ((some, "one.png"), (answer, "several.png")):
        one.save(tmp_path / name)
    with PIL.Image.open(tmp_path / "one.png") as first, PIL.Image.open(tmp_path / "several.png") as other:
        assert other.mode == "L"
        assert np.array_equal(first, other)
    assert "<img" in answer._repr_html_()
    answer.save(tmp_path / "answer")
    assert not (tmp_path / "answer" / "dicom").exists()
    assert read_array(tmp_path / "answer" / "counterfactual.nii.gz", channels)[0].shape == (*SIZE, channels)
