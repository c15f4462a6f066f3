"""A small study that trains in seconds, and one run of it through every stage that all tests share."""

from __future__ import annotations

import copy
import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from hypothesis import settings
from PIL import Image

from segcft.config.loader import parse_study
from segcft.config.study import Study
from segcft.data.batches import sequential
from segcft.data.store import Store
from segcft.grey import to_unit
from segcft.measures.measurements import Measurements
from segcft.pipeline.run import Run
from segcft.pipeline.runner import Pipeline
from segcft.readers.reader import MaskReader
from segcft.simulate.files import write_people
from segcft.simulate.people import Population
from segcft.simulate.volume import VolumeSimulator
from segcft.training.loop import make_fabric
from tests import howto, small_retinas, small_volumes

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from segcft.app.catalogue import Catalogue

settings.register_profile("segcft", settings.default, deadline=None)  # a test asserts no time
settings.load_profile("segcft")

MODELS = Path(__file__).parents[1] / "models"
"""The models that come with segcft."""

SMALL = Path(__file__).parents[1] / "configs" / "small.yaml"

MakeStudy = Callable[..., Study]
MakeOnce = Callable[[str, Callable[[Path], object]], Path]


def small_mapping() -> dict[str, Any]:
    """The small study as a mapping: 32 x 32 pixels, 90 simulated people, tiny networks, few steps."""
    return dict(yaml.safe_load(SMALL.read_text(encoding="utf-8")))


def changed(raw: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``raw`` with dotted keys set, e.g. ``{"hvae.steps": 3}``."""
    raw = copy.deepcopy(raw)
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = raw
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    return raw


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes give a test no name: those of a packed file hold the second of packing, and two processes that collect
    the tests a second apart would not find the same ones."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """A shell starts what it runs in the background with SIGINT ignored, which children inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    """One, unless OMP_NUM_THREADS says otherwise, here and in every process of a test: networks this small are slower
    on several, and as many threads always add in the same order."""
    torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """``made_once(name, make)``: a folder that ``make(folder)`` fills once for all processes that test side by side."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all of them

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = base / f"{name}-once", base / f"{name}-made"
        with FileLock(base / f"{name}-lock"):
            if not done.exists():
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def make_small_study() -> MakeStudy:
    """``make_small_study({"hvae.steps": 3})``: the small study with some keys changed."""
    return lambda changes=None: parse_study(changed(small_mapping(), changes or {}))


@pytest.fixture(scope="session")
def small_study(make_small_study: MakeStudy) -> Study:
    return make_small_study()


@pytest.fixture(scope="session")
def small_study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "small.yaml"
    path.write_text(yaml.safe_dump(small_mapping(), sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def small_run(made_once: MakeOnce, small_study: Study) -> Run:
    """A whole run of the small study, every stage from the import to the evaluation; only to be read."""

    def make(folder: Path) -> None:
        Pipeline(Run(folder / "small", small_study), make_fabric("cpu")).run_all()

    return Run(made_once("small-run", make) / "small", small_study)


@pytest.fixture(scope="session")
def volumes(made_once: MakeOnce) -> Run:
    """A whole run of a small study of volumes, every stage from the import to the evaluation; only to be read."""
    study = parse_study(small_volumes.mapping())

    def make(folder: Path) -> None:
        Pipeline(Run(folder / "volumes", study), make_fabric("cpu")).run_all()

    return Run(made_once("volumes", make) / "volumes", study)


@pytest.fixture(scope="session")
def retinas(made_once: MakeOnce) -> Run:
    """A whole run of a small study in colour, every stage from the import to the evaluation; only to be read."""
    study = parse_study(small_retinas.mapping())

    def make(folder: Path) -> None:
        Pipeline(Run(folder / "retinas", study), make_fabric("cpu")).run_all()

    return Run(made_once("retinas", make) / "retinas", study)


@pytest.fixture(scope="session")
def volume_files(made_once: MakeOnce) -> Path:
    """A folder of the same people as those of the simulated study of volumes; only to be read."""
    return made_once(
        "volume-files",
        lambda folder: write_people(
            folder,
            VolumeSimulator(small_volumes.SIZE),
            24,
            source="volume-simulator",
            population=Population(seed=1),
            spacing=(1.0, 1.0, 1.0),
        ),
    )


@pytest.fixture(scope="session")
def flow_run(made_once: MakeOnce, small_run: Run) -> Run:
    """The small run with a flow for its image mechanism, of the page on how to add one; only to be read."""
    folder = made_once("flow", lambda folder: howto.follow("image-mechanism", folder, small_run.folder))
    howto.load(folder / "flow.py")
    return Run(folder / "runs" / "small")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations draw no figures, which take most of their time: for tests of something else."""
    monkeypatch.setattr("segcft.evaluate.figures.write_figures", lambda *_: None)


class Recalled(MaskReader):
    """A judge that is right on every machine: it answers with the masks of the most similar image of a store."""

    def __init__(self, store: Store, measurements: Measurements) -> None:
        super().__init__()
        self.measurements = measurements
        self.images, self.known = torch.from_numpy(store.images.copy()), torch.from_numpy(store.masks.copy()) / 255

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nearest = (self._standard(x) @ self._standard(self.images).T).argmax(dim=1)
        return 40 * (self.known[nearest] - 0.5)

    @staticmethod
    def _standard(images: torch.Tensor) -> torch.Tensor:
        """As brightness and contrast do not matter."""
        pixels = images.flatten(1).float()
        return (pixels - pixels.mean(dim=1, keepdim=True)) / pixels.std(dim=1, keepdim=True)


@pytest.fixture(scope="session")
def recalled(small_run: Run) -> Recalled:
    """Of the people of the small run."""
    return Recalled(small_run.store(), Measurements.of(small_run.study))


@pytest.fixture(scope="session")
def small_batch(small_run: Run) -> dict[str, torch.Tensor]:
    """The first training people of the small run: image in [-1, 1], mask in 0..1, values."""
    store = small_run.store()
    batch = next(sequential(store, store.indices("train", complete=True), 12))
    return {"image": to_unit(batch["image"]), "mask": batch["mask"].float() / 255, "values": batch["values"]}


def plaque_mapping() -> dict[str, Any]:
    """A study of a vessel, which everybody has, and of plaque in it, which about 40 % lack."""
    area = {"kind": "continuous", "unit": "px", "scale": "log"}
    changes = {
        "name": "plaques",
        "variables": {
            "age": {"kind": "continuous", "unit": "years"},
            "vessel_area": area,
            "plaque_area": area | {"parents": ["age"], "zero_inflated": True},
        },
        "structures": {
            "vessel": {"variable": "vessel_area", "bit": 1},
            "plaque": {"variable": "plaque_area", "bit": 2},
        },
        "data": {"source": "folder"},
        "segmentor.steps": 250,
        "judge.steps": 250,
        "regressor.steps": 20,
        "scm.steps": 60,
        "hvae.steps": 20,
        "finetune.steps": 3,
        "evaluation.metric": "mae",
    }
    return changed(small_mapping(), changes)


class Brighter(MaskReader):
    """A judge of the images below that is right on every machine: what is brighter than a level is the structure."""

    def __init__(self, study: Study) -> None:
        super().__init__()
        self.measurements = Measurements.of(study)
        self.levels = to_unit(torch.tensor([85, 175])).view(1, 2, 1, 1)  # the vessel is of 120, and the plaque of 230

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1000 * (x - self.levels)


def write_plaques(folder: Path, people: int = 90) -> None:
    """Images, masks and table of the study above: a bright disc inside a grey bar, in the old more often."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    rows = [["id", "age"]]
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for i in range(people):
        age = random.uniform(40, 80)
        vessel = abs(y - 16) < random.uniform(6, 11)
        radius = random.uniform(1.5, 5) if random.uniform(20, 80) < age else 0
        plaque = (y - 16) ** 2 + (x - random.uniform(8, 24)) ** 2 < radius**2
        grey = 50 + 70 * vessel + 110 * plaque + random.normal(0, 8, (32, 32))
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"p{i}.png")
        Image.fromarray((vessel + 2 * plaque).astype(np.uint8)).save(folder / "masks" / f"p{i}.png")
        rows.append([f"p{i}", f"{age:.1f}"])
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture(scope="session")
def plaque_run(made_once: MakeOnce) -> Run:
    """A whole run of a study whose second structure is absent in many; only to be read."""
    study = parse_study(plaque_mapping())

    def make(folder: Path) -> None:
        write_plaques(folder / "data")
        Pipeline(Run(folder / "run", study), make_fabric("cpu"), folder / "data").run_all()

    return Run(made_once("plaque-run", make) / "run", study)


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """What the web page offers in its tests."""
    from segcft.app.catalogue import Catalogue

    return Catalogue([MODELS / "chest-sim", MODELS / "coronary-quickstart", MODELS / "jsrt"])


@pytest.fixture
def client(catalogue: Catalogue) -> TestClient:
    """Of the web page's server."""
    from starlette.testclient import TestClient

    from segcft.app.server import make_app

    return TestClient(make_app(catalogue), base_url="http://127.0.0.1:8000")


@pytest.fixture
def question(client: TestClient) -> dict[str, Any]:
    """A question as the web page sends it."""
    example = client.get("/api/models/chest-sim").json()["examples"][0]
    return {"model": "chest-sim", "pixels": example["pixels"], "known": example["known"], "do": {"heart_area": 1800}}
