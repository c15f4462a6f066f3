"""Every image that is written says that it is synthetic, and of what it was made; it is read back."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread

import segcft
from segcft.cli import main
from segcft.errors import DataError
from segcft.io.dicom import person
from segcft.io.imagefile import read_image
from segcft.io.provenance import dicom_bytes, gif_bytes, picture, png_bytes
from segcft.pipeline.run import Run

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.dictionaries(st.text(min_size=1), JSON, max_size=4)


@given(record=RECORDS, channels=st.sampled_from([1, 3]), size=st.tuples(st.integers(1, 9), st.integers(1, 9)))
@settings(max_examples=40)
def test_a_record_is_read_back(
    record: dict[str, Any], channels: int, size: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("record")
    pixels = np.random.default_rng(0).integers(0, 256, (channels, *size), dtype=np.uint8)
    (folder / "a.png").write_bytes(png_bytes(pixels, record))
    (folder / "a.dcm").write_bytes(dicom_bytes(pixels, record))
    (folder / "a.gif").write_bytes(gif_bytes([picture(pixels)] * 2, record, 100))
    for name in ("a.png", "a.dcm", "a.gif"):
        assert segcft.inspect(folder / name) == record
    with Image.open(folder / "a.png") as file:
        assert np.array_equal(
            np.asarray(file),
            np.squeeze(np.moveaxis(pixels, 0, -1), axis=2) if channels == 1 else np.moveaxis(pixels, 0, -1),
        )
    dataset = dcmread(folder / "a.dcm")
    assert np.array_equal(dataset.pixel_array, pixels[0] if channels == 1 else np.moveaxis(pixels, 0, -1))


def test_a_dicom_file_is_derived_synthetic_and_nobodys(small_run: Run, tmp_path: Path) -> None:
    store = small_run.store()
    image = np.array(store.images[store.indices("test")[0], 0])
    answer = segcft.load(small_run.folder).counterfactual(
        image, {"age": 63, "sex": "F"}, {"heart_area": "+10%"}, draws=0
    )
    answer.save(tmp_path / "one.dcm")
    answer.save(tmp_path / "two.dcm")
    one, two = (dcmread(tmp_path / name) for name in ("one.dcm", "two.dcm"))
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert one.StudyInstanceUID != two.StudyInstanceUID
    assert one.SOPClassUID.name == "Secondary Capture Image Storage"
    assert list(one.ImageType) == ["DERIVED", "SECONDARY"]
    assert (one.ConversionType, one.SyntheticData, one.PatientIdentityRemoved) == ("SYN", "YES", "YES")
    assert "heart_area=+10.0%" in one.DerivationDescription
    assert answer.record["model"] in one.DerivationDescription
    assert person(one) == {"age": None, "sex": None} or not any(person(one).values())
    assert np.allclose(read_image(tmp_path / "one.dcm", 1).grey[0], answer.image[0] / 255, atol=1 / 128)
    assert segcft.inspect(tmp_path / "one.dcm") == answer.provenance
    answer.save(tmp_path / "one.json")
    assert segcft.inspect(tmp_path / "one.json") == answer.record
    (tmp_path / "two.json").write_text('{"other": 1}')
    assert segcft.inspect(tmp_path / "two.json") is None


def test_images_of_others_have_no_record(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    Image.new("L", (4, 4)).save(tmp_path / "a.gif", comment=b"hello")
    Image.new("L", (4, 4)).save(tmp_path / "a.jpg")
    (tmp_path / "b.png").write_bytes(png_bytes(np.zeros((1, 4, 4), dtype=np.uint8)))
    for name in ("a.png", "a.gif", "a.jpg", "b.png"):
        assert segcft.inspect(tmp_path / name) is None


def test_a_damaged_file_or_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    whole = png_bytes(np.zeros((1, 64, 64), dtype=np.uint8), {"do": []})
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) - 30])
    from PIL.PngImagePlugin import PngInfo

    for name, text in (("broken", "{"), ("list", "[1]")):
        info = PngInfo()
        info.add_text("segcft", text)
        Image.new("L", (4, 4)).save(tmp_path / f"{name}.png", pnginfo=info)
    for name in ("text.png", "cut.png", "broken.png", "list.png", "none.png"):
        with pytest.raises(DataError) as caught:
            segcft.inspect(tmp_path / name)
        assert caught.value.field == str(tmp_path / name)


def test_the_command_line_inspects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(png_bytes(np.zeros((1, 4, 4), dtype=np.uint8), {"do": ["age=60"]}))
    assert main(["inspect", str(tmp_path / "a.png")]) == 0
    out = capsys.readouterr().out
    assert "synthetic, made by segcft" in out
    assert json.loads(out.split("\n", 1)[1]) == {"do": ["age=60"]}
    Image.new("L", (4, 4)).save(tmp_path / "b.png")
    assert main(["inspect", str(tmp_path / "a.png"), str(tmp_path / "b.png")]) == 1
    captured = capsys.readouterr()
    assert "does not say that segcft made it" in captured.out
    assert "b.png: no record" in captured.err


def test_a_gif_goes_on_for_ever() -> None:
    content = gif_bytes([Image.new("L", (4, 4), k) for k in (0, 90)], {}, 50)
    with Image.open(io.BytesIO(content)) as file:
        assert file.info["loop"] == 0
        assert file.info["duration"] == 50
