"""Arguments of the Python interface: pixels of any type are read as they are, and junk is refused by name."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import fractions
import io
import itertools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import segcft
from segcft.api.model import Model
from segcft.causal.intervention import Intervention
from segcft.errors import DataError, InterventionError, RunError, SegcftError
from segcft.pipeline.run import Run

DO = {"heart_area": "+10%"}


@pytest.fixture(scope="module")
def model(small_run: Run) -> Model:
    return segcft.load(small_run.folder)


@pytest.fixture(scope="module")
def picture(small_run: Run) -> NDArray[np.uint8]:
    store = small_run.store()
    return np.array(store.images[store.indices("test")[0], 0])


# --- pixels ---


@pytest.mark.parametrize(
    "kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_tensors_of_any_floating_type_are_read_as_they_are(model: Model, kind: torch.dtype) -> None:
    values = torch.linspace(0, 1, 32 * 32).reshape(32, 32).to(kind)
    expected = model.question(values.to(torch.float64).numpy()).pixels
    for tensor in (values, values[None], values.clone().float().requires_grad_().to(kind), values.T.contiguous().T):
        assert np.array_equal(model.question(tensor).pixels, expected)


def test_arrays_of_any_order_and_library_are_read_as_they_are(model: Model, picture: NDArray[np.uint8]) -> None:
    expected = model.question(picture).pixels
    wide = picture.astype(np.uint16) * 257
    forms = [
        wide.astype(">u2"),
        wide.astype("<u2"),
        (picture / 255).astype(">f8"),
        (picture / 255).tolist(),
        np.ma.array(picture),
        np.asfortranarray(picture),
        picture[::-1][::-1],
        Image.fromarray(wide),
        Image.fromarray(wide.astype(">u2")),
        Image.fromarray((picture / 255).astype(np.float32)),
        Image.fromarray(picture).convert("HSV"),
        torch.from_numpy(picture).requires_grad_(False),
    ]
    for form in forms:
        assert np.abs(model.question(form).pixels.astype(int) - expected).max() <= 1


WRONG_PIXELS: dict[str, Callable[[NDArray[np.uint8]], Any]] = {
    "None": lambda p: None,
    "number": lambda p: 3.0,
    "bytes": lambda p: p.tobytes(),
    "file": lambda p: io.BytesIO(p.tobytes()),
    "complex": lambda p: p.astype(complex),
    "complex tensor": lambda p: torch.from_numpy(p).to(torch.complex64).conj(),
    "objects": lambda p: p.astype(object),
    "int64": lambda p: p.astype(np.int64),
    "int64 tensor": lambda p: torch.from_numpy(p).long(),
    "lists of whole numbers": lambda p: p.tolist(),
    "ragged lists": lambda p: [[0.1], [0.1, 0.2]],
    "dates": lambda p: p.astype("datetime64[s]"),
    "records": lambda p: p.view([("a", "u1")]),
    "texts": lambda p: p.astype(str),
    "batch": lambda p: torch.from_numpy(p)[None, None],
    "batch of NumPy": lambda p: p[None, None],
    "channels first": lambda p: np.stack([p] * 3)[:, :20],
    "row": lambda p: p[0],
    "empty": lambda p: p[:0],
    "constant": lambda p: np.zeros_like(p),
    "negative": lambda p: p / -255,
    "beyond one": lambda p: p / 1.0,
    "NaN": lambda p: np.full(p.shape, np.nan),
    "NaN of bfloat16": lambda p: torch.full(p.shape, torch.nan, dtype=torch.bfloat16),
    "sparse": lambda p: torch.from_numpy(p / 255).to_sparse(),
    "sparse rows": lambda p: torch.from_numpy(p / 255).to_sparse_csr(),
    "quantized": lambda p: torch.quantize_per_tensor(torch.from_numpy(p / 255).float(), 1 / 255, 0, torch.quint8),
    "nowhere": lambda p: torch.from_numpy(p).to("meta"),
    "masked": lambda p: np.ma.masked_less(p, 50),
    "table": lambda p: pd.DataFrame(p / 255),
    "mapping": lambda p: {"pixels": p},
    "LAB": lambda p: Image.new("LAB", (32, 32)),
    "empty picture": lambda p: Image.new("L", (0, 5)),
    "real picture": lambda p: Image.fromarray(p.astype(np.float32)),
    "folder": lambda p: Path(),
    "zero character": lambda p: "a\0b.png",
    "long name": lambda p: "x" * 5000,
}


@pytest.mark.parametrize("kind", WRONG_PIXELS)
def test_what_is_no_image_is_refused(model: Model, picture: NDArray[np.uint8], kind: str) -> None:
    image = WRONG_PIXELS[kind](picture)
    for ask in (model.question, lambda image: model.question(picture, do={"heart_area": segcft.Match(image)})):
        with pytest.raises(DataError) as told:
            ask(image)
        assert len(str(told.value)) < 600 or kind == "long name"
    assert "batch" not in kind or "image[0]" in str(told.value)


# --- other arguments ---


class Odd:
    """Of no use, and unhelpful."""

    def __array__(self, *args: object, **options: object) -> NDArray[Any]:
        raise RuntimeError("no array")

    def __index__(self) -> int:
        raise ValueError("no index")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = object.__hash__


NO_NUMBERS = [2.5, 7.0, "7", True, np.True_, np.float64(3), None, {}, 1j, b"7", Odd()]
NUMBERS = [*NO_NUMBERS, -1, 10**30, [], torch.ones(2)]
NO_VALUES = [3, 2.0, True, b"age=63", {"age"}, [("age", 63)], [3], {3: 4}, {"age": [1]}, {"age": 1j}, Odd(), object]
NO_VALUES += [{"age": {}}, {"age": Odd()}, {"age": b"3"}, {"age": 10**400}, {"age": np.ones(2)}, {"age": object()}]
NO_VALUES += [{"age": Intervention("sex", "F")}, [Intervention("age", None)], [Intervention("age", 3, "much")]]  # type: ignore[arg-type]
NO_VALUES += [[None], [Intervention(3, 4)], pd.DataFrame({"age": [63]}), np.array([["age", "63"]]), iter(["age=63"])]  # type: ignore[arg-type]
NO_TEXT: list[Any] = [3, b"age", True, [], {}, ("age",), np.array(["age", "sex"]), Odd(), 1.5]
NO_PATHS: list[Any] = [3, None, b"x", [], {}, 2.5, True, "a\0b", "x" * 5000, Odd(), io.BytesIO(), "\ud800"]

Ask = Callable[[Model, NDArray[np.uint8], Any], object]

ARGUMENTS: dict[str, tuple[Ask, list[Any], type[SegcftError]]] = {
    "draws": (lambda m, p, v: m.counterfactual(p, do=DO, draws=v), NUMBERS, DataError),
    "draws of many": (lambda m, p, v: m.counterfactuals([p], do=DO, draws=v), NUMBERS, DataError),
    "draws of answer": (lambda m, p, v: m.answer([m.question(p)], draws=v), NUMBERS, DataError),
    "draws of log_likelihood": (lambda m, p, v: m.log_likelihood(p, draws=v), [0, *NUMBERS], DataError),
    "n": (lambda m, p, v: m.sample(v), [0, *NUMBERS], DataError),
    "seed": (
        lambda m, p, v: m.sample(1, seed=v),
        [*NO_NUMBERS, [], 10**30],
        DataError,
    ),
    "pixel_noise": (lambda m, p, v: m.sample(1, pixel_noise=v), [1, 0, "no", None, []], DataError),
    "do": (lambda m, p, v: m.counterfactual(p, do=v), NO_VALUES, InterventionError),
    "do of sample": (lambda m, p, v: m.sample(1, do=v), NO_VALUES, InterventionError),
    "do of trajectory": (lambda m, p, v: m.trajectory(p, "age", 1, do=v), NO_VALUES, InterventionError),
    "do of question": (lambda m, p, v: m.question(p, do=v), NO_VALUES, InterventionError),
    "do of many": (
        lambda m, p, v: list(m.counterfactuals([p], do=v)),
        [3, 2.0, True, b"age=63", [3], {3: 4}, {"age": [1]}, Odd(), pd.DataFrame({"age": [63]}), [("age", 3)], [[3]]],
        InterventionError,
    ),
    "attributes": (lambda m, p, v: m.counterfactual(p, v, DO), NO_VALUES, InterventionError),
    "attributes of log_likelihood": (lambda m, p, v: m.log_likelihood(p, v), NO_VALUES, InterventionError),
    "method": (lambda m, p, v: m.counterfactual(p, do=DO, method=v, draws=0), ["other", *NO_TEXT], RunError),
    "method of sample": (lambda m, p, v: m.sample(1, method=v), ["other", *NO_TEXT], RunError),
    "variable": (lambda m, p, v: m.trajectory(p, v), [None, "height", *NO_TEXT], InterventionError),
    "values": (
        lambda m, p, v: m.trajectory(p, "age", v),
        [*NO_NUMBERS, -1, 0, 10**30, {60, 70}, {"age": 60}, np.ones((2, 2)), np.array(3), iter([60])],
        DataError,
    ),
    "value": (
        lambda m, p, v: m.trajectory(p, "age", [v]),
        [None, [60], {}, 1j, np.nan, b"60", Odd(), 10**400, pd.NA],
        InterventionError,
    ),
    "questions": (lambda m, p, v: m.answer(v), [3, "a.png", [3], [None], {}, None, np.ones((2, 2)), Odd()], DataError),
    "images": (
        lambda m, p, v: m.counterfactuals(v, do=DO),
        [
            3,
            None,
            "a.png",
            b"a",
            {"a": 1},
            pd.DataFrame({"a": [1]}),
            np.ones((4, 4)),
            np.ones((4, 4, 3)),
            torch.ones(3),
        ],
        DataError,
    ),
    "one image": (lambda m, p, v: m.counterfactuals(v(p), do=DO), [lambda p: p, torch.from_numpy], DataError),
    "device": (lambda m, p, v: segcft.load(m.run.folder, v), ["cudaa", "meta", 99, None, [], 2.5, Odd(), ""], RunError),
    "folder": (lambda m, p, v: segcft.load(v), ["none", *NO_PATHS], RunError),
    "path": (lambda m, p, v: segcft.inspect(v), ["none.png", ".", *NO_PATHS], DataError),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_of_a_wrong_kind_are_refused_by_name(model: Model, picture: NDArray[np.uint8], name: str) -> None:
    ask, wrong, error = ARGUMENTS[name]
    for value in wrong:
        with pytest.raises(error) as told:
            ask(model, picture, value)
        assert len(str(told.value)) < 400 or isinstance(value, str)


def test_paths_to_save_to_are_refused_by_name(model: Model, picture: NDArray[np.uint8], tmp_path: Path) -> None:
    saves = [
        model.counterfactual(picture, do=DO, draws=0).save,
        model.trajectory(picture, "age", 1).save,
        model.sample(1).save,
    ]
    for save in saves:
        for path in NO_PATHS:
            with pytest.raises(DataError):
                save(path)


def test_numbers_of_other_libraries_are_numbers(model: Model, picture: NDArray[np.uint8]) -> None:
    assert len(model.sample(np.int32(2), seed=np.uint8(3)).images) == 2
    assert len(model.counterfactual(picture, do=DO, draws=torch.tensor(2)).draws) == 2
    assert len(model.trajectory(picture, "age", np.int64(3)).answers) == 3
    for values in (np.array([50, 60]), torch.tensor([50.0, 60.0]), pd.Series([50, 60]), range(50, 70, 10), (50, "60")):
        answers = model.trajectory(picture, "age", values).answers  # type: ignore[arg-type]
        assert [answer.attributes["age"] for answer in answers] == [50, 60]
    for known in (OrderedDict(age=63), "age=63", ("age=63",), [Intervention("age", 63)], {"age": np.float32(63)}):
        asked = model.question(picture, known, DO)
        assert [(one.variable, one.amount) for one in asked.known] == [("age", 63)]
    for nothing in (None, (), {}, []):
        assert model.question(picture, nothing, DO).known == ()  # type: ignore[arg-type]


JUNK = st.deferred(
    lambda: st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 3),
        st.integers(max_value=-(10**20)),
        st.floats(),
        st.complex_numbers(),
        st.text(max_size=5),
        st.binary(max_size=5),
        st.sampled_from(["age", "sex", "F", "+10%", "match:", "match:a", "age=63", "age=match:.", "=", "segmentor"]),
        st.sampled_from(
            [np.float16(1), np.int8(-1), np.datetime64("nat"), np.timedelta64(3, "s"), np.str_("F"), np.ones(3)]
        ),
        st.sampled_from([torch.ones(2, dtype=torch.bfloat16), torch.tensor(3), torch.ones(2, 2).to_sparse()]),
        st.sampled_from([pd.NA, pd.NaT, pd.Series([1]), pd.DataFrame(), datetime.date(2000, 1, 1), decimal.Decimal(3)]),
        st.sampled_from([fractions.Fraction(1, 2), object(), int, len, Odd(), io.BytesIO(), Path("a"), range(2)]),
        st.sampled_from([segcft.Match("a"), segcft.Match(3), Intervention("age", 3), Intervention("age", [])]),  # type: ignore[arg-type]
        st.builds(itertools.repeat, st.none(), st.just(2)),
        st.lists(JUNK, max_size=2),
        st.dictionaries(st.sampled_from(["age", "sex", "heart_area", "", 3, None]), JUNK, max_size=2),
    )
)


@given(name=st.sampled_from(list(ARGUMENTS)), value=JUNK)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_junk_breaks_the_interface(model: Model, picture: NDArray[np.uint8], name: str, value: Any) -> None:
    if name != "one image":
        with contextlib.suppress(SegcftError):
            ARGUMENTS[name][0](model, picture, value)
