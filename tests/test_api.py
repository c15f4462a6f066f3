"""What a model is asked from Python: draws, batches, matches, trajectories, samples, likelihood."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import segcft
from refused import refused
from segcft.api.answer import Answer
from segcft.api.model import BATCH, Model
from segcft.errors import Code, DataError, InterventionError, RunError, WriteError
from segcft.io.provenance import dicom_bytes, png_bytes
from segcft.io.rendering import difference_colours, outlined, strip
from segcft.io.source import MemoryFile
from segcft.pipeline.run import Run
from tests.conftest import MODELS

DO = {"heart_area": "+10%"}


@pytest.fixture(scope="module")
def model(small_run: Run) -> Model:
    return segcft.load(small_run.folder)


@pytest.fixture(scope="module")
def pictures(small_run: Run) -> NDArray[np.uint8]:
    store = small_run.store()
    return np.array(store.images[store.indices("test")[:5], 0])


@pytest.fixture(scope="module")
def trained() -> Model:
    """A published model, for what a short training may or may not come to."""
    return segcft.load(MODELS / "chest-sim")


@pytest.fixture(scope="module")
def example() -> NDArray[np.uint8]:
    """Of its images."""
    with Image.open(MODELS / "chest-sim" / "examples" / "1.png") as file:
        return np.array(file.convert("L"))


def assert_same(one: Answer, other: Answer) -> None:
    """Batches of other sizes round otherwise: pictures may differ by a grey level, numbers in the last digits."""
    assert (np.abs(one.image.astype(int) - other.image) <= 1).all()
    for name, value in one.attributes.items():
        assert other.attributes[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4))


# --- one answer ---


def test_draws_tell_how_uncertain_the_answer_is(model: Model, pictures: NDArray[np.uint8]) -> None:
    answer = model.counterfactual(pictures[0], {"sex": "F", "age": 60}, DO, draws=4)
    assert answer.draws.shape == (4, *answer.image.shape)
    assert answer.spread is not None
    assert answer.spread.shape == answer.image.shape
    assert np.allclose(answer.spread, answer.draws.astype(float).std(axis=0, ddof=1), atol=1e-3)
    assert answer.spread.max() > 0
    assert answer.record["variables"]["heart_area"]["obtained_sd"] > 0
    again = model.counterfactual(pictures[0], {"sex": "F", "age": 60}, DO, draws=4)
    assert np.array_equal(again.draws, answer.draws)
    state = torch.random.get_rng_state()
    plain = model.counterfactual(pictures[0], {"sex": "F", "age": 60}, DO, draws=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(plain.image, answer.image)
    assert plain.spread is None


def test_unknown_attributes_add_to_the_spread(trained: Model, example: NDArray[np.uint8]) -> None:
    spread = []
    for known in ({"sex": "F", "age": 60}, {}):
        answer = trained.counterfactual(example, known, {"sex": "M"}, draws=12)
        spread.append(answer.record["variables"]["left_lung_area"]["obtained_sd"])
        row = answer.record["variables"]["age"]
        assert ("sd" in row) == (not known)
    assert spread[1] > 3 * spread[0]
    assert 0 < row["sd"] < 40
    assert 0.5 <= answer.record["variables"]["sex"]["probability"] <= 1


def test_masks_are_the_judges_and_areas_their_sums(trained: Model, example: NDArray[np.uint8]) -> None:
    answer = trained.counterfactual(example, do=DO, draws=0)
    assert answer.masks_before.shape == answer.masks_after.shape == (len(trained.study.structures), *example.shape)
    hearts = list(trained.study.measured).index("heart_area")
    assert answer.masks_after[hearts].sum() * trained.study.image.cell_size == pytest.approx(
        answer.areas["heart_area"], rel=0.02
    )


def test_nothing_asked_leaves_the_image_and_tells_what_is_known(model: Model, pictures: NDArray[np.uint8]) -> None:
    with refused(InterventionError, Code.MISSING, "do"):
        model.counterfactual(pictures[0])
    answer = model.answer([model.question(pictures[0])])[0]
    assert np.array_equal(answer.image, answer.original)
    assert answer.record["variables"]["age"]["source"] == "inferred"


def test_a_notebook_shows_pictures_and_escapes_text(model: Model, pictures: NDArray[np.uint8]) -> None:
    answer = model.counterfactual(pictures[0], do=DO, draws=2)
    shown = answer._repr_html_()
    assert shown.count("data:image/png;base64,") == 4 + (answer.band is not None)
    assert "heart area" in shown
    assert "http" not in shown
    answer.record["warnings"].append("<script>")
    assert "<script>" not in answer._repr_html_()


def test_the_same_image_in_every_form(model: Model, pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    picture = pictures[0]
    Image.fromarray(picture).save(tmp_path / "a.png")
    tensor = torch.from_numpy(picture)
    forms = [
        picture,
        tensor,
        tensor[None],
        tensor[None].repeat(3, 1, 1),
        tensor[None] / 255,
        Image.fromarray(picture).convert("RGBA"),
        Image.fromarray(picture).convert("LA"),
        Image.fromarray(picture.astype(np.int32) * 257),
        MemoryFile("upload.png", (tmp_path / "a.png").read_bytes()),
    ]
    for form in forms:
        assert np.array_equal(model.question(form, do=DO).pixels, picture[None])
    assert model.question(forms[-1], do=DO).name == "upload.png"
    palette = Image.fromarray(picture).convert("RGB").quantize(64)
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(model.question(palette).pixels, model.question(tmp_path / "palette.png").pixels)
    # 0 to 255 of a type that has no white of its own, and what is no grey.
    whole = [picture.astype(int), tensor.long(), picture.astype(complex)]
    for wrong in (torch.zeros(2, 8, 8), np.zeros((0, 4)), np.array([["a", "b"], ["c", "d"]]), *whole):
        with refused(DataError, Code.INVALID, "image"):
            model.question(wrong, do=DO)


def test_what_is_implied_beyond_the_range_is_warned_of(model: Model, pictures: NDArray[np.uint8]) -> None:
    age = list(model.study.variables).index("age")
    oldest = float(model.people[:, age].max())
    answer = model.counterfactual(pictures[0], {"age": oldest}, {"age": oldest + 400}, draws=0)
    assert any("(asked for) is not in the training range" in text for text in answer.warnings)
    assert any("(what follows) is not in the training range" in text for text in answer.warnings)


def test_a_number_that_looks_like_a_change_is_hinted_at(model: Model, pictures: NDArray[np.uint8]) -> None:
    warnings = model.counterfactual(pictures[0], do={"heart_area": 0.8}, draws=0).warnings
    assert "; this sets the area to 0.8 px, and a change is written as text, such as '-20%'" in str(warnings)
    for change, hinted in ((-0.2, True), ("-200%", False), ("-9000", False)):
        with pytest.raises(InterventionError) as told:
            model.counterfactual(pictures[0], do={"heart_area": change})
        assert (told.value.code, told.value.field) == (Code.OUT_OF_RANGE, "heart_area")
        assert ("written as text" in told.value.text) == hinted
    for plain in ({"heart_area": 400}, {"age": 0.8}, {"heart_area": "+10%"}):
        assert "written as text" not in str(model.counterfactual(pictures[0], do=plain, draws=0).warnings)


def test_errors_say_what_was_expected(model: Model, pictures: NDArray[np.uint8]) -> None:
    for images in ("a.png", Path("a.png"), MemoryFile("a.png", b""), Image.fromarray(pictures[0]), None):
        with refused(DataError, Code.INVALID, "images"):
            model.counterfactuals(images, do=DO)  # type: ignore[arg-type]
    with refused(DataError, Code.INVALID, "image"):
        model.counterfactual(None, do=DO)  # type: ignore[arg-type]
    for name in ("none.png", "none.dcm", "none.nii.gz"):
        with refused(DataError, Code.UNREADABLE, name):
            model.counterfactual(name, do=DO)
    with refused(InterventionError, Code.INVALID, "age"):
        model.counterfactual(pictures[0], {"age": "+10"}, DO)
    for sex, near in (("male", "'M'?"), ("f", "'F'?")):
        with pytest.raises(InterventionError) as told:
            model.counterfactual(pictures[0], {"sex": sex}, DO)
        assert (told.value.code, told.value.field) == (Code.UNKNOWN, "sex")
        assert told.value.text.endswith(near)


def test_a_name_alone_is_looked_for_where_models_are(
    small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with refused(RunError, Code.MISSING, "small"):
        segcft.load("small")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "small").symlink_to(small_run.folder)
    with pytest.raises(RunError) as told:
        segcft.load("small")
    assert told.value.text.endswith("runs/small?")


class Counted(MemoryFile):
    """A file that knows how often it was opened."""

    opened = 0

    def open(self, mode: str = "rb") -> IO[Any]:
        Counted.opened += 1
        return super().open(mode)


@pytest.mark.parametrize("kind", ["png", "dcm", "nii.gz"])
def test_an_image_is_read_once(model: Model, pictures: NDArray[np.uint8], kind: str) -> None:
    """Opened once to see of which kind it is, and once to be read."""
    content = {
        "png": lambda: png_bytes(pictures[0][None]),
        "dcm": lambda: dicom_bytes(pictures[0][None], {}),
        "nii.gz": lambda: gzip.compress(nibabel.Nifti1Image(pictures[0], np.eye(4)).to_bytes()),
    }[kind]()
    for ask in (
        lambda image: model.counterfactual(image, do=DO, draws=0),
        lambda image: model.trajectory(image, "age", 5, do=DO),
    ):
        Counted.opened = 0
        ask(Counted(f"a.{kind}", content))
        assert Counted.opened <= 2


# --- another image's value ---


def test_a_match_takes_the_area_of_another_image(model: Model, pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    Image.fromarray(pictures[1]).save(tmp_path / "other.png")
    other = model.answer([model.question(pictures[1])])[0].record["variables"]["heart_area"]["before"]
    for do in (
        {"heart_area": f"match:{tmp_path / 'other.png'}"},
        {"heart_area": f"match: {tmp_path / 'other.png'}"},
        {"heart_area": segcft.Match(pictures[1])},
        [f"heart_area=match:{tmp_path / 'other.png'}"],
    ):
        answer = model.counterfactual(pictures[0], do=do, draws=0)
        assert answer.attributes["heart_area"] == pytest.approx(other, rel=1e-5)
        assert str(tmp_path) not in str(answer.record)
        assert answer.provenance["do"] == [f"heart_area={answer.attributes['heart_area']}"]
        assert "other" not in str(answer.provenance)
    with refused(InterventionError, Code.MISSING, "age"):
        model.counterfactual(pictures[0], do={"age": segcft.Match(pictures[1])})
    with refused(DataError, Code.UNREADABLE, "none.png"):
        model.counterfactual(pictures[0], do={"heart_area": "match:none.png"})
    with refused(InterventionError, Code.UNKNOWN, "height"):
        model.counterfactual(pictures[0], do={"height": "match:none.png"})
    with refused(InterventionError, Code.INVALID, "heart_area"):
        model.counterfactual(pictures[0], {"heart_area": segcft.Match(pictures[1])}, DO)


def test_a_variable_is_given_one_value(model: Model, pictures: NDArray[np.uint8]) -> None:
    with refused(InterventionError, Code.DUPLICATE, "age"):
        model.counterfactual(pictures[0], do=["age=60", "age=61"])


# --- many images ---


@pytest.mark.parametrize("missing", [None, math.nan, np.float32("nan"), pd.NA])
def test_what_is_missing_in_a_table_is_not_known(model: Model, pictures: NDArray[np.uint8], missing: Any) -> None:
    """As ``table.iloc[0].to_dict()`` has it."""
    known = {"age": missing, "sex": "F", "heart_area": missing}
    answer = model.counterfactual(pictures[0], known, {"left_lung_area": "-10%"}, draws=0)
    expected = model.counterfactual(pictures[0], {"sex": "F"}, {"left_lung_area": "-10%"}, draws=0)
    assert answer.record["variables"] == expected.record["variables"]
    assert answer.record["variables"]["age"]["source"] == "inferred"
    with refused(InterventionError, Code.INVALID, "age"):
        model.counterfactual(pictures[0], do={"age": missing})
    with refused(InterventionError, Code.UNKNOWN, "height"):
        model.counterfactual(pictures[0], {"height": missing}, {"age": 60})


@pytest.mark.parametrize("text", ["4_5", "1e400", "\N{ARABIC-INDIC DIGIT FOUR}", "0x2d", "45,", "45 years"])
def test_what_is_no_number_is_none_in_questions_either(model: Model, pictures: NDArray[np.uint8], text: str) -> None:
    for question in ({"attributes": {"age": text}, "do": {"heart_area": "+5%"}}, {"do": {"age": text}}):
        with pytest.raises(InterventionError):
            model.counterfactual(pictures[0], **question)  # type: ignore[arg-type]


def test_many_answers_are_those_of_each(model: Model, pictures: NDArray[np.uint8]) -> None:
    many = list(model.counterfactuals(pictures, {"sex": "F"}, DO))
    assert len(many) == len(pictures)
    for picture, answer in zip(pictures, many, strict=True):
        assert_same(answer, model.counterfactual(picture, {"sex": "F"}, DO, draws=0))
    each = [{"heart_area": f"{change:+d}%"} for change in (5, 10, -5, -10, 8)]
    known = iter([{"age": 50 + k} for k in range(5)])
    for k, answer in enumerate(model.counterfactuals(torch.from_numpy(pictures)[:, None], known, each)):
        assert answer.attributes["age"] == 50 + k
        row = answer.record["variables"]["heart_area"]
        assert row["after"] == pytest.approx(row["before"] * (1 + float(each[k]["heart_area"][:-1]) / 100), rel=1e-5)


def test_a_stream_is_read_as_its_answers_are_asked_for(model: Model, pictures: NDArray[np.uint8]) -> None:
    read = 0

    def stream() -> Iterator[NDArray[np.uint8]]:
        nonlocal read
        while True:
            read += 1
            yield pictures[read % len(pictures)]

    answers = model.counterfactuals(stream(), do=DO)
    next(answers)
    assert read <= BATCH + 1


def test_what_is_of_each_must_be_of_all(model: Model, pictures: NDArray[np.uint8]) -> None:
    with refused(InterventionError, Code.MISSING, "attributes"):
        list(model.counterfactuals(pictures, [{"age": 60}], DO))
    with refused(InterventionError, Code.MISSING, "do"):
        list(model.counterfactuals(pictures, {}, [DO, DO]))
    assert len(list(model.counterfactuals(pictures[:2], [{"age": 60}] * 3, DO))) == 2
    assert model.answer([]) == []


def test_a_text_is_one_intervention(model: Model, pictures: NDArray[np.uint8]) -> None:
    answer = model.counterfactual(pictures[0], "age=60", "heart_area=+10%", draws=0)
    assert answer.record["do"] == ["heart_area=+10.0%"]
    assert answer.attributes["age"] == 60


def test_what_cannot_be_is_refused(model: Model, pictures: NDArray[np.uint8]) -> None:
    for ask in (
        lambda: model.counterfactual(pictures[0], do={"heart_area": "(-5)"}),
        lambda: model.counterfactual(pictures[0], {"heart_area": "(-5)"}, {"age": 60}),
        lambda: model.sample(2, {"heart_area": "(-5)"}),
    ):
        with refused(InterventionError, Code.OUT_OF_RANGE, "heart_area"):
            ask()
    for ask in (
        lambda: model.counterfactual(pictures[0], do={"heart_area": 1025}),
        lambda: model.counterfactual(pictures[0], {"heart_area": 1025}, {"age": 60}),
        lambda: model.sample(2, {"heart_area": 1025}),
    ):
        with refused(InterventionError, Code.OUT_OF_RANGE, "heart_area"):
            ask()
    with pytest.raises(InterventionError, match=r"age=1e\+30"):
        model.counterfactual(pictures[0], {"age": 1e30}, DO)
    for ask, name in (
        (lambda: model.counterfactual(pictures[0], do=DO, draws=-1), "draws"),
        (lambda: model.log_likelihood(pictures[0], draws=0), "draws"),
        (lambda: model.trajectory(pictures[0], "age", -1), "values"),
    ):
        with refused(DataError, Code.OUT_OF_RANGE, name):
            ask()


# --- trajectories, samples, likelihood ---


def test_a_trajectory_moves_one_variable(model: Model, pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    moved = model.trajectory(pictures[0], "heart_area", [100.0, 120.0, 140.0], {"age": 60})
    assert [answer.attributes["heart_area"] for answer in moved.answers] == [100, 120, 140]
    assert moved.images.shape == (3, 1, *pictures[0].shape)
    moved.save(tmp_path / "moved.gif")
    moved.save(tmp_path / "moved.png")
    with Image.open(tmp_path / "moved.gif") as file:
        assert getattr(file, "n_frames", 1) == 4  # there and back
    with Image.open(tmp_path / "moved.png") as file:
        assert np.array_equal(np.asarray(file), moved.strip()[0])
    for name in ("moved.gif", "moved.png"):
        record = segcft.inspect(tmp_path / name)
        assert record is not None
        assert record["do"][0] == "heart_area=100.0"
    with refused(DataError, Code.UNSUPPORTED, "moved.mp4"):
        moved.save(tmp_path / "moved.mp4")
    assert [a.attributes["sex"] for a in model.trajectory(pictures[0], "sex").answers] == ["F", "M"]
    values = model.trajectory(pictures[0], "age", np.int64(4)).values
    assert list(values) == sorted(values)
    assert "heart area" in moved._repr_html_()
    for wrong in ({"variable": "height"}, {"variable": "age", "values": []}, {"variable": "age", "do": {"age": 60}}):
        with pytest.raises(InterventionError):
            model.trajectory(pictures[0], **wrong)  # type: ignore[arg-type]


def test_samples_are_people_under_an_intervention(model: Model, tmp_path: Path) -> None:
    seen = model.sample(40, seed=3)
    assert seen.images.shape == (40, 1, *model.study.image.size)
    assert set(seen.attributes["sex"]) == {"F", "M"}
    done = model.sample(40, {"sex": "F"}, seed=3)
    assert set(done.attributes["sex"]) == {"F"}
    # The same people: those who were women before are as they were.
    women = (seen.attributes["sex"] == "F").to_numpy()
    assert np.allclose(done.attributes["heart_area"][women], seen.attributes["heart_area"][women], rtol=1e-5)
    assert not np.allclose(done.attributes["heart_area"][~women], seen.attributes["heart_area"][~women], rtol=1e-3)
    assert np.array_equal(model.sample(40, seed=3).images, seen.images)
    assert not np.array_equal(model.sample(40, seed=4).images, seen.images)
    assert not np.array_equal(model.sample(2, seed=3, pixel_noise=True).images, seen.images[:2])
    done.save(tmp_path / "made-up")
    record = segcft.inspect(tmp_path / "made-up" / "7.png")
    assert record is not None
    assert record["do"] == ["sex=F"]
    assert len((tmp_path / "made-up" / "attributes.csv").read_text().splitlines()) == 41
    with refused(InterventionError, Code.INVALID, "heart_area"):
        model.sample(2, {"heart_area": "+10%"})
    with refused(DataError, Code.OUT_OF_RANGE, "n"):
        model.sample(0)


def test_what_was_never_seen_is_less_likely(trained: Model, example: NDArray[np.uint8]) -> None:
    likely = trained.log_likelihood(example, {"age": 60})
    noise = np.random.default_rng(0).integers(0, 256, example.shape, dtype=np.uint8)
    assert likely.bits_per_pixel + 100 < trained.log_likelihood(noise, {"age": 60}).bits_per_pixel
    assert likely.bits_per_pixel == pytest.approx(-likely.image / example.size / np.log(2), rel=1e-5)
    assert likely.attributes["age"] > trained.log_likelihood(example, {"age": 400}).attributes["age"] + 10
    assert likely.total == pytest.approx(likely.image + sum(likely.attributes.values()))


# --- pictures ---


@given(st.integers(-255, 255))
def test_a_difference_is_red_where_it_is_brighter(level: int) -> None:
    red, green, blue = (
        int(colour) for colour in difference_colours(np.full((1, 1, 1), level, dtype=np.int16))[:, 0, 0]
    )
    assert (red > blue) == (level > 0)
    assert (red < blue) == (level < 0)
    assert green <= 247


@given(st.integers(1, 3), st.integers(3, 9), st.integers(3, 30), st.integers(1, 4))
@settings(max_examples=30)
def test_a_strip_holds_every_picture(channels: int, height: int, width: int, number: int) -> None:
    pictures = [np.full((channels, height, width), k, dtype=np.uint8) for k in range(number)]
    joined = strip(pictures)
    assert {*range(number)} <= set(joined.ravel().tolist()) <= {*range(number), 255}
    assert joined.size >= number * pictures[0].size


def test_an_outline_is_on_the_edge_of_the_mask() -> None:
    mask = np.zeros((1, 8, 8), dtype=bool)
    mask[0, 2:6, 2:6] = True
    drawn = outlined(np.zeros((1, 8, 8), dtype=np.uint8), mask)
    coloured = (drawn > 0).any(axis=0)
    assert coloured.sum() == 12
    assert not (coloured & ~mask[0]).any()


def test_saving_refuses_what_it_cannot_write(model: Model, pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    answer = model.counterfactual(pictures[0], do=DO, draws=2)
    with refused(DataError, Code.UNSUPPORTED, "x.jpg"):
        answer.save(tmp_path / "x.jpg")
    assert not list(tmp_path.iterdir())
    answer.save(tmp_path / "all")
    names = {path.name for path in (tmp_path / "all").iterdir()}
    assert {"spread.png", "draw-1.png", "draw-2.png", "counterfactual.json"} <= names
    model.counterfactual(pictures[0], do=DO, draws=0).save(tmp_path / "all")
    left = {path.name for path in (tmp_path / "all").iterdir()}
    assert left == names - {"spread.png", "draw-1.png", "draw-2.png"}
    samples = model.sample(2)
    (tmp_path / "cut-off" / "2.png").mkdir(parents=True)
    (tmp_path / "cut-off" / "attributes.csv").touch()
    with refused(WriteError, Code.NOT_WRITABLE, "2.png"):
        samples.save(tmp_path / "cut-off")
    # The table was written first: by it the folder is known again.
    assert len(pd.read_csv(tmp_path / "cut-off" / "attributes.csv")) == 2
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "image.png").write_bytes(b"a patient's")
    for save in (answer.save, model.sample(1).save):
        with refused(DataError, Code.EXISTS, "data"):
            save(tmp_path / "data")
    assert [path.read_bytes() for path in (tmp_path / "data").iterdir()] == [b"a patient's"]
