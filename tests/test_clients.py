"""The clients of the page's server, against a server that the command line started."""

from __future__ import annotations

import ast
import gzip
import io
import sys
import tomllib
import types
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import segcft
from napari_segcft.layers import layers_of, scan_of
from segcft.io.provenance import inspect
from segcft.pipeline.publish import publish
from segcft.pipeline.run import Run
from segcft_client import Client, Scan, ServerError, change, controls, read
from segcft_client.client import UNREACHED
from segcft_client.controls import summary
from segcft_client.nifti import CODES, nifti_bytes, read_nifti
from segcft_client.png import png_bytes
from tests.conftest import MODELS, MakeOnce
from tests.servers import served_by_command
from tests.slicer_stand_in import Display, Node, stand_ins
from tests.small_volumes import SIZE

CLIENTS = Path(__file__).parents[1] / "clients"
EXAMPLE = MODELS / "chest-sim/examples/1.png"
OLDEST = (3, 9)
"""The Python of 3D Slicer that the client must do with."""
OBLIQUE = np.array(
    [[-0.98, 0.10, 0.17, 40.0], [-0.07, -0.98, 0.17, -12.5], [0.18, 0.16, 0.97, 7.25], [0.0, 0.0, 0.0, 1.0]]
)
"""A matrix near that of a volume that lies straight."""


def started(*models: Path) -> Iterator[str]:
    """The address of a server."""
    with served_by_command(*models) as server:
        yield server.address
    assert "Traceback" not in server.said


@pytest.fixture(scope="module")
def served() -> Iterator[Client]:
    for address in started(MODELS / "chest-sim", MODELS / "jsrt"):
        yield Client(address)


@pytest.fixture(scope="module")
def volume_model(volumes: Run, made_once: MakeOnce) -> Path:
    return made_once("volume-model", lambda folder: publish(volumes, folder / "volumes")) / "volumes"


@pytest.fixture(scope="module")
def served_volumes(volume_model: Path) -> Iterator[Client]:
    for address in started(volume_model):
        yield Client(address)


def radiograph() -> np.ndarray:
    """Values of 12 bits on 260 x 300 pixels, of which the window is 100 to 3100."""
    with Image.open(EXAMPLE) as example:
        pixels = np.asarray(example.convert("L").resize((300, 260)), float)
    return np.rint(100 + pixels / 255 * 3000).astype(np.int16)


# --- requests ---


def test_models_are_described(served: Client) -> None:
    assert [model["name"] for model in served.models()] == ["chest-sim", "jsrt"]
    assert served.model("chest-sim")["channels"] == 1
    sex, *sliders = controls(served.model("chest-sim"))
    assert sex.categories == ("F", "M")
    assert all(slider.low < slider.high and not slider.categories for slider in sliders)
    assert sliders[-1].title == "heart area (px)"


def test_an_answer_is_that_of_python(served: Client) -> None:
    pixels, known = served.examples("chest-sim")[0]
    again, from_header = served.upload("chest-sim", EXAMPLE)
    assert np.array_equal(pixels, again)
    assert from_header == {}
    assert np.array_equal(served.upload("chest-sim", EXAMPLE, (0.7, 0.7))[0], pixels)  # a model of no size
    with pytest.raises(ServerError, match="millimetres"):
        served.upload("chest-sim", EXAMPLE, (0.7, 0.7, 0.7))
    found = served.ask("chest-sim", pixels, {"heart_area": 1800}, known, draws=2)
    model = segcft.load(MODELS / "chest-sim")
    expected = model.counterfactual(EXAMPLE, known, {"heart_area": 1800}, draws=2)
    # Another process may round otherwise.
    assert np.abs(np.moveaxis(found.image, -1, 0).astype(int) - expected.image).max() <= 1
    assert np.abs(np.moveaxis(found.draws[1], -1, 0).astype(int) - expected.draws[1]).max() <= 1
    assert found.spread is not None
    assert expected.spread is not None
    assert np.allclose(found.spread, expected.spread[0], atol=1)
    for name, row in expected.record["variables"].items():
        after = row["after"] if isinstance(row["after"], str) else pytest.approx(row["after"], rel=1e-3)
        assert found.record["variables"][name]["after"] == after
    assert any(line.startswith("heart_area:") and "(set)" in line for line in summary(found.record))


def test_files_say_that_they_are_synthetic(served: Client, tmp_path: Path) -> None:
    pixels, known = served.examples("chest-sim")[0]
    files = {"png": served.file("chest-sim", pixels, {"heart_area": 1800}, "png", known)}
    files["dcm"] = served.full_file("chest-sim", EXAMPLE.read_bytes(), {"heart_area": 1800}, "dcm", known)
    for suffix, content in files.items():
        path = tmp_path / f"x.{suffix}"
        path.write_bytes(content)
        record = inspect(path)
        assert record is not None
        assert record["do"] == ["heart_area=1800.0"]


def test_an_image_is_answered_in_its_own_pixels(served: Client) -> None:
    pixels = radiograph()
    file = png_bytes(Scan(pixels).seen())
    found, record = served.full("chest-sim", file, {"heart_area": 1800})
    model = segcft.load(MODELS / "chest-sim")
    answer = model.counterfactual(Scan(pixels).seen(), do={"heart_area": 1800}, draws=0)
    assert found is not None
    assert np.array_equal(np.moveaxis(found, -1, 0), answer.full_resolution(Scan(pixels).seen()))
    assert record["variables"] == answer.record["variables"]
    nothing, record = served.full("chest-sim", file, {})
    assert nothing is None
    assert record["variables"]["heart_area"]["before"] == answer.record["variables"]["heart_area"]["before"]


@pytest.mark.parametrize(
    ("model", "do", "status"),
    [("other", {"heart_area": 1800}, 404), ("chest-sim", {"hart_area": 1}, 400), ("chest-sim", {"sex": "X"}, 400)],
)
def test_what_the_server_refuses_is_an_error(served: Client, model: str, do: dict[str, Any], status: int) -> None:
    with pytest.raises(ServerError) as caught:
        served.full(model, EXAMPLE, do)
    assert caught.value.status == status
    assert caught.value.text == str(caught.value) != ""


def test_where_no_server_is(served: Client) -> None:
    for address in ("http://127.0.0.1:9", "file:///etc/passwd", "127.0.0.1:8000"):
        with pytest.raises(ServerError) as caught:
            Client(address, seconds=5).models()
        assert caught.value.status == UNREACHED


# --- what a viewer shows ---


def test_an_image_changes_where_it_lies(served: Client) -> None:
    """And in its own values: whatever way its array goes, the same pixels of the patient change alike."""
    pixels = radiograph()
    window, do = (100.0, 3100.0), {"heart_area": 1800}
    found = change(served, "chest-sim", Scan(pixels, window=window), do)
    assert found.values.shape == pixels.shape
    assert found.values.dtype == pixels.dtype
    assert np.array_equal(found.values, pixels + found.difference)
    assert 100 < np.abs(found.difference).max() < 3000
    assert (found.difference == 0).mean() > 0.1
    upside_down = Scan(pixels[::-1, ::-1], np.diag([1.0, 1.0, 1.0, 1.0]), window)
    assert np.array_equal(change(served, "chest-sim", upside_down, do).values[::-1, ::-1], found.values)
    real = change(served, "chest-sim", Scan(pixels.astype(np.float32), window=window), do)
    assert np.array_equal(real.values == pixels, found.difference == 0)


def test_a_volume_changes_on_its_own_grid(served_volumes: Client, volume_model: Path, tmp_path: Path) -> None:
    """Of other voxels than the model's, oblique, and in the units of its file."""
    example = nibabel.load(volume_model / "examples/1.nii.gz")
    stored = np.repeat(np.asarray(example.dataobj).T[:, ::-1, ::-1], 2, axis=2).astype(np.int16) * 4 - 300
    matrix = OBLIQUE @ np.diag([0.5, 1.0, 1.0, 1.0])
    scan, do = Scan(stored, matrix), {"anterior_volume": 1500.0}
    found = change(served_volumes, "volumes", scan, do)
    assert found.values.shape == stored.shape == (SIZE[0], SIZE[1], 2 * SIZE[2])
    assert found.values.dtype == np.int16
    assert np.array_equal(found.difference, found.values.astype(int) - stored)
    assert found.record["do"] == ["anterior_volume=1500.0"]
    # The same as in Python, of the same file, which NiBabel wrote.
    own = tmp_path / "own.nii.gz"
    nibabel.save(nibabel.Nifti1Image(stored.T, matrix), own)
    answer = segcft.load(volume_model).counterfactual(own, do=do, draws=0)
    answer.save(tmp_path / "full.nii.gz", full_resolution=True)
    saved = nibabel.load(tmp_path / "full.nii.gz")
    assert np.abs(np.asarray(saved.dataobj).T.astype(int) - found.values).max() <= 8  # a grey level is 4 of its units
    assert np.allclose(saved.affine, matrix, atol=1e-4)
    before = read(served_volumes, "volumes", scan)["variables"]["anterior_volume"]["before"]
    assert before == pytest.approx(answer.record["variables"]["anterior_volume"]["before"], rel=1e-3)


def test_a_scan_of_another_kind_is_refused(served: Client, served_volumes: Client) -> None:
    volume = Scan(np.arange(60.0).reshape(3, 4, 5))
    for client, model, scan in ((served, "chest-sim", volume), (served_volumes, "volumes", Scan(radiograph()))):
        with pytest.raises(ValueError, match=model):
            read(client, model, scan)
    with pytest.raises(ValueError, match="array"):
        Scan(np.zeros(3))


@given(st.sampled_from(sorted(CODES)), st.tuples(*[st.integers(2, 5)] * 3), st.integers(0, 9))
def test_nifti_is_as_nibabel_reads_it(kind: str, shape: tuple[int, int, int], seed: int) -> None:
    random = np.random.default_rng(seed)
    values, matrix = random.integers(0, 100, shape).astype(kind), OBLIQUE @ np.diag([*random.uniform(0.5, 3, 3), 1])
    content = nifti_bytes(values, matrix)
    image = nibabel.Nifti1Image.from_stream(io.BytesIO(gzip.decompress(content)))
    assert np.array_equal(np.asarray(image.dataobj).T, values)
    assert image.get_data_dtype() == values.dtype
    assert np.allclose(image.affine, matrix, atol=1e-5)
    again, found, record = read_nifti(content)
    assert np.array_equal(again, values)
    assert np.allclose(found, matrix, atol=1e-5)
    assert record == {}


@pytest.mark.parametrize("content", [b"", b"no file", nifti_bytes(np.ones((2, 2, 2)), np.eye(4))[:60]])
def test_what_is_no_nifti_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="NIfTI"):
        read_nifti(content)


def test_a_png_is_as_pillow_reads_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 11), np.uint8)
    with Image.open(io.BytesIO(png_bytes(pixels))) as file:
        assert np.array_equal(np.asarray(file), pixels)


# --- napari ---


def layer(data: np.ndarray, **other: Any) -> Any:
    """What of a napari layer the plug-in looks at."""
    told = {"name": "chest", "data": data, "scale": (1.0,) * data.ndim, "rgb": False, "multiscale": False}
    return types.SimpleNamespace(**(told | {"contrast_limits": (0.0, 255.0)} | other))


def test_a_layer_is_a_scan_and_back(served: Client) -> None:
    shown = layer(radiograph(), contrast_limits=(100, 3100), scale=(0.2, 0.3), translate=(5.0, 6.0))
    assert scan_of(shown).window == (100, 3100)
    assert scan_of(shown).millimetres is None
    assert scan_of(shown, in_millimetres=True).millimetres == (0.2, 0.3)
    do: dict[str, float | str] = {"heart_area": 1800}
    changed = change(served, "chest-sim", scan_of(shown), do)
    after, difference = layers_of(shown, changed, do)
    assert np.array_equal(after.data, changed.values)
    assert after.meta["scale"] == difference.meta["scale"] == (0.2, 0.3)
    assert after.meta["translate"] == (5.0, 6.0)
    assert after.meta["contrast_limits"] == (100, 3100)
    assert after.meta["metadata"]["segcft"]["do"] == ["heart_area=1800.0"]
    assert {after.kind, difference.kind} == {"image"}
    volume = scan_of(layer(np.zeros((3, 4, 5)), scale=(3.0, 2.0, 1.0)))
    assert np.array_equal(volume.ijk_to_ras, np.diag([-1.0, -2.0, 3.0, 1.0]))
    with pytest.raises(ValueError, match="one channel"):
        scan_of(layer(np.zeros((4, 5, 3)), rgb=True))


def test_the_manifest_of_napari_names_what_is_there() -> None:
    folder = CLIENTS / "napari"
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    manifest = yaml.safe_load((folder / "napari_segcft/napari.yaml").read_text(encoding="utf-8"))
    assert manifest["name"] == project["project"]["name"]
    assert project["project"]["entry-points"]["napari.manifest"] == {manifest["name"]: "napari_segcft:napari.yaml"}
    commands = {command["id"]: command["python_name"] for command in manifest["contributions"]["commands"]}
    for command in commands.values():
        module, name = command.split(":")
        assert callable(getattr(import_module(module), name))  # which needs neither napari nor Qt
    assert {widget["command"] for widget in manifest["contributions"]["widgets"]} == set(commands)
    assert "napari" not in sys.modules
    assert "magicgui" not in sys.modules


# --- 3D Slicer ---


@pytest.fixture
def slicer_logic(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module's logic, where the few calls of Slicer that it makes have stand-ins."""
    for name, module in stand_ins().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(str(CLIENTS / "slicer/SegCft"))
    monkeypatch.delitem(sys.modules, "SegCft", raising=False)
    return import_module("SegCft").SegCftLogic()


def test_the_module_of_slicer_asks_about_an_image(served: Client, slicer_logic: Any) -> None:
    assert slicer_logic.connect(served.address) == ["chest-sim", "jsrt"]
    pixels, do = radiograph(), {"heart_area": 1800.0}
    node = Node("chest", pixels[None, ::-1], np.diag([-0.3, 0.2, 1.0, 1.0]), display=Display(100, 3100))
    changed, after, difference = slicer_logic.ask(node, "chest-sim", do)
    expected = change(served, "chest-sim", Scan(pixels, window=(100, 3100), millimetres=(0.2, 0.3)), do)
    assert np.array_equal(after.array[0, ::-1], expected.values)
    assert np.array_equal(difference.array[0, ::-1], expected.difference)
    assert changed.record["do"] == ["heart_area=1800.0"]
    assert slicer_logic.scan_of(node).millimetres == pytest.approx((0.2, 0.3))
    for made in (after, difference):
        assert np.array_equal(made.matrix, node.matrix)
        assert made.transform == node.transform
        assert "Synthetic" in made.attributes["segcft.synthetic"]
    assert difference.display.GetLevel() == 0
    assert node.array.base is not None
    assert np.array_equal(node.array[0, ::-1], pixels)  # the image itself stays
    with pytest.raises(ValueError, match="one channel"):
        slicer_logic.scan_of(Node("colour", np.zeros((1, 2, 2, 3)), np.eye(4)))


def test_the_module_of_slicer_asks_about_a_volume(served_volumes: Client, slicer_logic: Any) -> None:
    slicer_logic.connect(served_volumes.address)
    values = np.random.default_rng(0).integers(0, 900, SIZE).astype(np.int16)
    node, do = Node("volume", values, OBLIQUE), {"anterior_volume": 1500.0}
    _, after, difference = slicer_logic.ask(node, "volumes", do)
    expected = change(served_volumes, "volumes", Scan(values, OBLIQUE), do)
    assert np.array_equal(after.array, expected.values)
    assert np.array_equal(difference.array, expected.difference)
    assert np.array_equal(after.matrix, OBLIQUE)


@pytest.mark.parametrize("path", sorted([*CLIENTS.glob("client/**/*.py"), *CLIENTS.glob("slicer/**/*.py")]))
def test_it_is_read_by_the_python_of_slicer(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), feature_version=OLDEST)


def test_the_client_needs_numpy_alone() -> None:
    """And so nothing that comes with segcft, which a program that asks it lacks."""
    wanted = set()
    for path in CLIENTS.glob("client/segcft_client/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wanted |= {name.partition(".")[0] for name in names}
    assert wanted - set(sys.stdlib_module_names) == {"numpy", "segcft_client"}
