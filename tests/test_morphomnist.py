"""`segcft import morphomnist`, and the benchmark of it, on a small folder of the same layout."""

from __future__ import annotations

import csv
import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from benchmarks import morphomnist as benchmark
from refused import refused
from segcft.cli import main
from segcft.config.loader import load_study, parse_study
from segcft.errors import Code, DataError
from segcft.importers.formats.morphomnist import MorphoMNIST
from segcft.importers.morphomnist import Files
from segcft.io.idx import read_idx

CONFIG = Path(__file__).parents[1] / "configs" / "morphomnist.yaml"
SIDE = 28
RANGES = {"thickness": (1.0, 5.0), "intensity": (60.0, 260.0)}


def idx(array: np.ndarray) -> bytes:
    """An IDX file."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_set(folder: Path, name: str, count: int, seed: int = 0) -> Files:
    """A set of bars, as thick and bright as its table says, in the layout of Morpho-MNIST."""
    folder.mkdir(exist_ok=True)
    random, files = np.random.default_rng(seed), Files.of(folder, name)
    images, lines = np.zeros((count, SIDE, SIDE), np.uint8), ["index,thickness,intensity"]
    for k in range(count):
        thickness, intensity = random.uniform(1.5, 4.5), random.uniform(70, 250)
        images[k, 4:24, 12 : 12 + round(thickness)] = round(intensity)
        lines.append(f"{k},{thickness:.6f},{intensity:.4f}")
    labels = (np.arange(count) % 10).astype(np.uint8)
    files.images.write_bytes(gzip.compress(idx(images)))
    files.labels.write_bytes(gzip.compress(idx(labels)))
    files.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return files


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- files --------------------------------------------------------------------------------------------------


@given(arrays(np.uint8, array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)), st.booleans())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, packed: bool) -> None:
    path = tmp_path_factory.mktemp("idx") / "array"
    path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    np.testing.assert_array_equal(read_idx(path), array)


GOOD = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", Code.INVALID),
        (b"PNG and more", Code.INVALID),
        (GOOD[:2] + b"\x0d" + GOOD[3:], Code.INVALID),  # real numbers
        (GOOD[:9], Code.DAMAGED),
        (GOOD[:-1], Code.DAMAGED),
        (GOOD + b"\0", Code.DAMAGED),
        (struct.pack(">HBB4I", 0, 8, 4, *(1 << 16,) * 4), Code.TOO_LARGE),
        (gzip.compress(GOOD)[:-4], Code.UNREADABLE),
        (gzip.compress(GOOD)[:10] + b"\xff" * 20, Code.UNREADABLE),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, content: bytes, code: Code) -> None:
    path = tmp_path / "array"
    path.write_bytes(content)
    with refused(DataError, code, str(path)):
        read_idx(path)


def test_both_sets_are_converted_and_only_one_tests(tmp_path: Path) -> None:
    write_set(tmp_path / "raw", "train", 60, seed=1)
    files = write_set(tmp_path / "raw", "t10k", 20)
    summary = MorphoMNIST(folder=tmp_path / "raw").convert(tmp_path / "out")
    assert sum(summary.samples.values()) == 80
    rows = {row["id"]: row for row in rows_of(tmp_path / "out")}
    for id, row in rows.items():
        assert (row["split"] == "test") == id.startswith("t10k")
    assert {row["split"] for row in rows.values()} == {"train", "validation", "test"}
    first, images = rows["t10k-00003"], read_idx(files.images)
    assert first["digit"] == "3"
    assert first["thickness"] == files.table.read_text(encoding="utf-8").splitlines()[4].split(",")[1].rstrip("0")
    found = np.asarray(Image.open(tmp_path / "out" / "images" / "t10k-00003.png"))
    np.testing.assert_array_equal(found, np.pad(images[3], 2))


def test_one_set_alone_is_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path / "raw", "t10k", 60)
    words = ["import", "morphomnist", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    assert main(words) == 1  # the other is not there
    assert "train-images" in capsys.readouterr().err
    assert main([*words, "--sets", "t10k", "--padding", "0"]) == 0
    rows = rows_of(tmp_path / "out")
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    assert Image.open(tmp_path / "out" / "images" / f"{rows[0]['id']}.png").size == (SIDE, SIDE)


def test_an_image_without_a_usable_row_is_left_out(tmp_path: Path) -> None:
    files = write_set(tmp_path / "raw", "t10k", 60)
    lines = files.table.read_text(encoding="utf-8").splitlines()
    lines[3], lines[8] = lines[3].rpartition(",")[0] + ",bright", ""
    files.table.write_text("\n".join(lines), encoding="utf-8")
    MorphoMNIST(folder=tmp_path / "raw", sets=("t10k",)).convert(tmp_path / "out")
    assert {f"t10k-{k:05d}" for k in range(60)} - {row["id"] for row in rows_of(tmp_path / "out")} == {
        "t10k-00002",
        "t10k-00007",
    }


@pytest.mark.parametrize(
    ("name", "content", "code", "field"),
    [
        ("labels", gzip.compress(idx(np.zeros(19, np.uint8))), Code.INVALID, "ubyte.gz"),
        ("labels", gzip.compress(idx(np.full(20, 10, np.uint8))), Code.OUT_OF_RANGE, "ubyte.gz"),
        ("images", gzip.compress(idx(np.zeros((20, 28), np.uint8))), Code.INVALID, "ubyte.gz"),
        ("table", b"index,thickness\n0,1\n20,2\n", Code.OUT_OF_RANGE, "line 3: column 'index'"),
        ("table", b"index,thickness\n0,1\n0,2\n", Code.DUPLICATE, "line 3: column 'index'"),
        ("table", b"index,digit\n0,1\n", Code.CONFLICT, "column 'digit'"),
        ("table", b"thickness\n1\n", Code.MISSING, "column 'index'"),
    ],
)
def test_files_that_do_not_go_together_are_refused(
    tmp_path: Path, name: str, content: bytes, code: Code, field: str
) -> None:
    path: Path = getattr(write_set(tmp_path / "raw", "t10k", 20), name)
    path.write_bytes(content)
    with refused(DataError, code, field):
        MorphoMNIST(folder=tmp_path / "raw", sets=("t10k",)).convert(tmp_path / "out")


# --- the benchmark ------------------------------------------------------------------------------------------


def write_predictors(folder: Path) -> None:
    """Predictors of no use, as checkpoints of the layout of theirs."""
    folder.mkdir()
    torch.manual_seed(0)
    for name in benchmark.VARIABLES:
        network = benchmark.Network(10 if name == "digit" else 1, int(name == "thickness"))
        torch.save({"epoch": 3, "state_dict": network.state_dict()}, folder / f"{name}_classifier-epoch=03.ckpt")


def fixed(name: str, outputs: list[float], network: benchmark.Network) -> None:
    """Make a predictor say the same of every image."""
    last = network.fc[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor(outputs))


def test_a_judge_measures_in_units_of_the_variables(tmp_path: Path) -> None:
    write_predictors(tmp_path / "predictors")
    judge = benchmark.Judge.read(tmp_path / "predictors", RANGES)
    fixed("thickness", [0.0], judge.networks["thickness"])  # the middle of the range
    fixed("intensity", [-1.0], judge.networks["intensity"])  # its lower end
    fixed("digit", [0.0] * 4 + [1.0] + [0.0] * 5, judge.networks["digit"])
    numbers = {"thickness": [3.0, 4.5], "intensity": [60.0, 100.0], "digit": [4.0, 7.0]}
    values = {one: torch.tensor(own) for one, own in numbers.items()}
    misses = judge.misses(torch.zeros(2, 1, 32, 32), values)
    np.testing.assert_allclose(misses, [[0, 0, 1], [1.5, 40, 0]], atol=1e-4)


def test_thickness_is_read_given_the_intensity(tmp_path: Path) -> None:
    write_predictors(tmp_path / "predictors")
    judge = benchmark.Judge.read(tmp_path / "predictors", RANGES)
    image, values = torch.zeros(1, 1, 32, 32), {"thickness": torch.tensor([3.0]), "digit": torch.tensor([4.0])}
    dark, bright = (judge.misses(image, values | {"intensity": torch.tensor([i])}) for i in (70.0, 240.0))
    assert dark[0, 0] != bright[0, 0]


def test_what_is_no_predictor_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "predictors"
    write_predictors(folder)
    (path,) = folder.glob("digit*")
    torch.save({"state_dict": benchmark.Network(9, 0).state_dict()}, path)
    with refused(DataError, Code.UNREADABLE, str(path)):
        benchmark.Judge.read(folder, RANGES)
    torch.save({"state_dict": Path("a pickle of more than tensors")}, path)
    with refused(DataError, Code.UNREADABLE, str(path)):
        benchmark.Judge.read(folder, RANGES)
    path.unlink()
    with refused(DataError, Code.MISSING, str(folder)):
        benchmark.Judge.read(folder, RANGES)


def test_asked_for_is_a_value_of_another_that_differs_enough() -> None:
    random = np.random.default_rng(0)
    digits = torch.from_numpy(random.integers(0, 10, 300)).float()
    asked = benchmark.wanted("digit", digits, None, 9, seed=0)
    assert bool((asked != digits).all())
    assert set(asked.tolist()) == set(range(10))
    own = torch.from_numpy(random.uniform(1, 5, 300)).float()
    asked = benchmark.wanted("thickness", own, (1.0, 5.0), 9, seed=0)
    assert set(asked.tolist()) <= set(own.tolist())
    place = np.clip(np.floor((own.numpy() - 1) / (4 / 9)), 0, 8)
    means = np.array([own.numpy()[place == k].mean() for k in range(9)])
    below = [(one.numpy()[:, None] > means).sum(axis=1) for one in (own, asked)]
    assert bool((below[0] != below[1]).all())


def test_the_published_network_gets_the_same_time() -> None:
    base = load_study(CONFIG)
    other = benchmark.with_published_network(base)
    assert other.hvae.architecture == "causal-gen"
    assert other.hvae.learning_rate == base.hvae.learning_rate
    seconds = {"hvae": 0.2, "finetune": 0.3}
    timed = benchmark.in_equal_time(other, seconds, {"hvae": 0.4, "finetune": 0.2})
    assert (timed.hvae.steps, timed.finetune.steps) == (base.hvae.steps // 2, base.finetune.steps * 3 // 2)


def tiny() -> dict[str, Any]:
    """The study in some steps."""
    raw = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    for part in ("predictor", "predictor_judge", "scm", "hvae", "finetune"):
        raw[part] |= {"steps": 2, "batch_size": 8, "warmup_steps": 1}
    raw["hvae"]["levels"] = [{"width": 8, "z": 2}, {"width": 8, "z": 2, "down": 4}]
    raw["finetune"]["bound_batches"] = 1
    return raw | {"evaluation": {"people": 12, "bootstrap": 40, "figure_people": 1}}


@pytest.mark.slow
def test_the_benchmark_runs_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parse_study(tiny())
    write_set(tmp_path / "raw", "t10k", 90)
    write_predictors(tmp_path / "predictors")
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(tiny()), encoding="utf-8")
    words = ["--data", str(tmp_path / "raw"), "--predictors", str(tmp_path / "predictors")]
    words += ["--base", str(tmp_path / "base.yaml"), "--out", str(tmp_path / "out"), "--contenders", "two-stream"]
    benchmark.main([*words, "--page", str(tmp_path / "page.md")])
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    for asked in benchmark.VARIABLES:
        own = [line for line in text.splitlines() if f"do({asked})" in line]
        assert len(own) == 4  # what is published, no change, before and after fine-tuning
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    assert before
    benchmark.main(words)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    assert capsys.readouterr().out.strip().endswith(text.strip())
