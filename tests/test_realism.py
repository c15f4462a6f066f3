"""Realism: two-sample tests, distances of features, and the command on a run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segcft.cli import main
from segcft.errors import Code, DataError
from segcft.evaluate.cohort import Cohort
from segcft.evaluate.identity import CHANGED
from segcft.evaluate.looks import FEWEST, deepest, radiomic
from segcft.evaluate.realism import (
    BLURRED,
    FRECHET,
    KERNEL,
    RADIOMIC,
    REAL,
    TOLD,
    Shown,
    blurred,
    left_out,
    realism,
    render_realism,
)
from segcft.evaluate.two_sample import Classifier, descend, frechet, kernel_distance, told_apart
from segcft.grey import to_unit
from segcft.importers.simulated import import_simulated
from segcft.measures.measurements import Measurements
from segcft.pipeline.realism import asked_of, shown_by
from segcft.pipeline.run import Run
from segcft.readers.reader import MaskReader, NoStructures
from segcft.utils.progress import Progress
from tests.conftest import MODELS, MakeStudy


class Brightness(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(dim=1, keepdim=True)


class Untrained(Classifier):
    """Takes the brighter image for an answer, whatever it is shown: no outcome hangs on a training."""

    def train(
        self,
        first: Tensor,
        second: Tensor,
        seed: int,
        advance: Callable[[int], object],
        device: torch.device | str = "cpu",
    ) -> nn.Module:
        advance(self.steps)
        return Brightness()


FEW = Untrained(steps=40)
PEOPLE = np.arange(40)
FOLDS = PEOPLE % 4


def noise(images: int, low: int, high: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (images, 1, 16, 16), generator=generator, dtype=torch.uint8)


class Bright(MaskReader):
    """Sees a structure where the image is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 5, 4, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            self.coarse(self.fine(x))
        return 100 * x


class TestToldApart:
    def test_black_is_told_from_white(self) -> None:
        told = told_apart(noise(40, 0, 20), noise(40, 200, 255), (FOLDS, FOLDS), (PEOPLE, PEOPLE), FEW)
        assert told == (1.0, 1.0, 1.0)

    def test_nobody_tells_what_is_the_same(self) -> None:
        same = noise(40, 0, 255)
        told = told_apart(same, same.clone(), (FOLDS, FOLDS), (PEOPLE, PEOPLE), FEW)
        assert told.auc == told.low == told.high == pytest.approx(0.5)

    def test_the_interval_is_over_people_and_not_over_images(self) -> None:
        """Were each image a person, that of ten copies of everybody would be narrower."""
        first, second = noise(40, 0, 255), noise(40, 0, 255, seed=1)
        once = told_apart(first, second, (FOLDS, FOLDS), (PEOPLE, PEOPLE), FEW)
        copies, owner = [one.repeat(10, 1, 1, 1) for one in (first, second)], np.tile(PEOPLE, 10)
        often = told_apart(*copies, (owner % 4, owner % 4), (owner, owner), FEW)
        alone = told_apart(*copies, (owner % 4, owner % 4), (np.arange(400), np.arange(400)), FEW)
        assert often.auc == alone.auc  # the trainings are the same
        assert alone.high - alone.low < 0.6 * (often.high - often.low)
        assert once.low < once.auc < once.high

    def test_it_leaves_random_numbers_alone(self) -> None:
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        trained = Classifier(widths=(4, 4, 4, 4), steps=1, batch_size=8)
        told_apart(noise(40, 0, 9), noise(40, 0, 9), (FOLDS, FOLDS), (PEOPLE, PEOPLE), trained)
        assert torch.equal(torch.rand(3), expected)

    def test_a_training_goes_down_a_bowl(self) -> None:
        """Of a convex loss the outcome is known, whatever the machine."""
        bowl = nn.Linear(1, 1, bias=False)
        nn.init.constant_(bowl.weight, 5.0)
        descend(bowl, lambda: (bowl.weight - 2).square().sum(), 400, 0.1, 0.0, lambda steps: None)
        assert float(bowl.weight.detach()) == pytest.approx(2.0, abs=0.05)
        assert not bowl.training

    def test_trainings_of_one_seed_are_one(self) -> None:
        settings, sets = Classifier(widths=(4, 4, 4, 4), steps=3, batch_size=8), (noise(9, 0, 99), noise(9, 0, 99))
        once, twice = (settings.train(*sets, 7, lambda steps: None)(to_unit(sets[0])) for _ in range(2))
        assert torch.equal(once, twice)

    def test_steps_are_told_of(self) -> None:
        done: list[int] = []
        same = noise(40, 0, 9)
        told_apart(same, same, (FOLDS, FOLDS), (PEOPLE, PEOPLE), FEW, advance=done.append)
        assert sum(done) == 4 * FEW.steps


class TestDistances:
    random = np.random.default_rng(0)
    x = random.normal(size=(50, 3))

    def test_frechet_of_a_shift_is_its_square(self) -> None:
        assert frechet(self.x, self.x + np.array([1, 2, 0])) == pytest.approx(5, abs=1e-6)

    def test_frechet_of_a_scale_is_that_of_the_standard_deviations(self) -> None:
        centred = self.x - self.x.mean(axis=0)
        spread = np.trace(np.cov(centred, rowvar=False))
        assert frechet(centred, 3 * centred) == pytest.approx(4 * spread, rel=1e-6)

    def test_frechet_of_one_feature(self) -> None:
        assert frechet(self.x[:, :1], self.x[:, :1] - 2) == pytest.approx(4, abs=1e-6)

    def test_kernel_is_the_mean_over_pairs(self) -> None:
        x, y = self.x[:4], self.x[4:9]

        def mean(a: np.ndarray, b: np.ndarray) -> float:
            pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if a is not b or i != j]
            return float(np.mean([(a[i] @ b[j] / 3 + 1) ** 3 for i, j in pairs]))

        assert kernel_distance(x, y) == pytest.approx(mean(x, x) + mean(y, y) - 2 * mean(x, y))


class TestFeatures:
    def test_the_deepest_convolution_is_averaged(self) -> None:
        reader, x = Bright(), torch.rand(2, 1, 16, 16)
        expected = reader.coarse(reader.fine(x)).mean(dim=(2, 3))
        assert torch.allclose(deepest(reader, x), expected)

    def test_no_hook_stays(self) -> None:
        reader = Bright()
        deepest(reader, torch.rand(1, 1, 16, 16))
        assert not reader.coarse._forward_hooks

    def test_texture_of_a_ramp_is_known(self) -> None:
        """Of a ramp the mean is its middle, the gradient its slope, and nothing is rough or skewed."""
        ramp = torch.linspace(-0.8, -0.1, 15).expand(1, 1, 15, 15)
        frame, structure = radiomic(Bright(), ramp).split(5, dim=1)
        spread = float(ramp.std(correction=0))
        assert torch.allclose(frame[0], torch.tensor([-0.45, spread, 0.0, 0.05, 0.0]), atol=1e-4)
        assert structure.isnan().all()  # nothing is brighter than 0

    def test_a_structure_has_its_own(self) -> None:
        image = torch.full((1, 1, 16, 16), -1.0)
        image[..., :8, :8] = 0.5
        assert float(radiomic(Bright(), image)[0, 5]) == pytest.approx(0.5)

    def test_of_a_few_pixels_there_is_none(self) -> None:
        image = torch.full((1, 1, 16, 16), -1.0)
        image[0, 0, 0, : FEWEST - 1] = 1.0
        assert radiomic(Bright(), image)[0, 5:].isnan().all()

    def test_volumes(self) -> None:
        assert radiomic(Bright(), torch.rand(2, 1, 6, 6, 6)).shape == (2, 10)


def shown(answers: Tensor, people: int = 160) -> Shown:
    real = noise(people, 0, 128)
    return Shown.read(real, {"segmentor": answers}, [f"p{k}" for k in range(people)], Bright(), np.arange(people))


class TestRealism:
    def test_answers_that_anybody_tells(self) -> None:
        rows = realism(shown(noise(160, 140, 255)), Progress(), classifier=FEW)
        found = {(row["method"], row["metric"], row["features"]): row for row in rows}
        assert found["segmentor", TOLD, ""]["value"] == 1.0
        for metric in (FRECHET, KERNEL):
            assert found["segmentor", metric, RADIOMIC]["low"] > found[REAL, metric, RADIOMIC]["high"]
        assert {row["method"] for row in rows} == {REAL, BLURRED, "segmentor"}

    def test_real_images_as_answers_are_as_far_as_halves_are(self) -> None:
        rows = realism(shown(noise(160, 0, 128)), Progress(), classifier=FEW)
        found = {(row["method"], row["metric"], row["features"]): row["value"] for row in rows}
        assert found["segmentor", TOLD, ""] == pytest.approx(0.5)
        # Halvings differ, so the two are not equal.
        assert found["segmentor", FRECHET, RADIOMIC] == pytest.approx(found[REAL, FRECHET, RADIOMIC], rel=0.5)

    def test_the_same_seed_gives_the_same_rows(self) -> None:
        one = shown(noise(160, 0, 128, seed=3))
        assert realism(one, Progress(), classifier=FEW, seed=5) == realism(one, Progress(), classifier=FEW, seed=5)

    def test_too_few_people_are_refused(self) -> None:
        with pytest.raises(DataError) as error:
            realism(shown(noise(150, 0, 9), people=150), Progress(), classifier=FEW)
        assert error.value.code == Code.EMPTY

    def test_a_blur_leaves_what_is_even(self) -> None:
        even = torch.full((1, 1, 8, 8), 77, dtype=torch.uint8)
        assert torch.equal(blurred(even), even)
        spot = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
        spot[..., 4, 4] = 200
        assert 0 < int(blurred(spot)[0, 0, 4, 4]) < 200

    def test_folds_are_read_by_a_judge_each(self) -> None:
        """What two networks make of images cannot be compared; textures can."""
        both = Shown.joined([shown(noise(160, 0, 128)), shown(noise(160, 0, 128))])
        assert set(both.features) == {RADIOMIC}
        assert len(both.real) == len(both.people) == len(both.features[RADIOMIC][BLURRED]) == 320

    def test_a_table_without_the_judge_has_fewer_columns(self) -> None:
        both = Shown.joined([shown(noise(160, 0, 128)), shown(noise(160, 0, 128))])
        text = render_realism(realism(both, Progress(), classifier=FEW), "x", 160, 1.0)
        assert "radiomic" in text
        assert "kernel, judge" not in text


class TestAsked:
    """Of a cohort with a category and a number that not everybody has."""

    @pytest.fixture
    def cohort(self, small_run: Run, make_small_study: MakeStudy) -> Cohort:
        study = make_small_study({"evaluation.interventions": ["sex", "heart_area"]})
        store = small_run.store()
        chosen = Cohort(study, store, store.indices("test", complete=True), torch.device("cpu"))
        chosen.values[0, chosen.column("heart_area")] = torch.nan
        return chosen

    def test_a_category_becomes_another_one(self, cohort: Cohort) -> None:
        do, column = asked_of(cohort, 1.0), cohort.column("sex")
        asked = ~do[:, column].isnan()
        assert int(asked.sum()) == len(cohort) // 2
        assert torch.equal(do[asked, column], 1 - cohort.values[asked, column])

    def test_who_lacks_a_number_is_notasked_of_for_it_and_others_are(self, cohort: Cohort) -> None:
        do = asked_of(cohort, 1.0)[:, cohort.column("heart_area")]
        assert do[0].isnan()
        assert int((~do.isnan()).sum()) >= len(cohort) // 2 - 1


class TestWithoutANetwork:
    def test_a_study_without_structures_has_texture_alone(self, small_run: Run) -> None:
        nobody = NoStructures(Measurements.of(small_run.study))
        found = Shown.read(noise(4, 0, 99), {}, ["a", "b", "c", "d"], nobody, np.arange(4))
        assert set(found.features) == {RADIOMIC}
        assert found.features[RADIOMIC][REAL].shape == (4, 5)

    def test_what_some_image_lacks_is_counted(self) -> None:
        dark = shown(noise(160, 0, 100))
        assert left_out(dark) == 5
        assert left_out(shown(noise(160, 200, 255), people=160)) == 5  # the real ones are dark


class TestOfARun:
    def test_everybody_isasked_of_for_one_small_change(self, small_run: Run) -> None:
        study, store = small_run.study, small_run.store()
        cohort = Cohort(study, store, store.indices("test", complete=True), torch.device("cpu"))
        do = asked_of(cohort, 1.0)
        assert (do.isnan().logical_not().sum(dim=1) == 1).all()
        spread = cohort.values.std(dim=0, correction=0)
        assert ((do - cohort.values).abs() <= spread * (1 + 1e-5)).where(~do.isnan(), torch.tensor(True)).all()
        assert not (do == cohort.values).any()
        asked = {list(study.variables)[column] for column in (~do.isnan()).nonzero()[:, 1].tolist()}
        assert asked == set(study.asked)

    def test_answers_are_those_of_its_methods(self, small_run: Run) -> None:
        store = small_run.store()
        rows = store.indices("test", complete=True)[:5]
        found = shown_by(small_run, store, rows, torch.device("cpu"), Progress())
        assert set(found.answers) == set(small_run.methods())
        assert {tuple(images.shape) for images in found.answers.values()} == {tuple(found.real.shape)}
        assert len(found.people) == len(found.real) == 5
        assert [image.numpy().tobytes() for image in found.real] == [store.images[row].tobytes() for row in rows]

    def test_volumes_are_asked_about_and_judged_as_images_are(
        self, volumes: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("segcft.evaluate.realism.FEWEST", 2)
        store = volumes.store()
        rows = np.arange(16)
        found = shown_by(volumes, store, rows, torch.device("cpu"), Progress())
        assert set(found.answers) == set(volumes.methods())
        assert [one.numpy().tobytes() for one in found.real] == [store.images[row].tobytes() for row in rows]
        assert found.features[RADIOMIC][REAL].shape == (16, 5 * (1 + len(volumes.study.masked)))
        table = realism(found, Progress(), classifier=FEW)
        assert {row["method"] for row in table} == {REAL, BLURRED, *volumes.methods()}
        assert all(np.isfinite(row["value"]) for row in table)

    def test_the_command_writes_a_table(
        self, small_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("segcft.evaluate.realism.FEWEST", 2)  # the small study tests 18 people
        assert main(["realism", str(small_run.folder), "--steps", "2", "--out", str(tmp_path)]) == 0
        rows = json.loads((tmp_path / "realism.json").read_text(encoding="utf-8"))
        assert {row["method"] for row in rows["realism"]} == {REAL, BLURRED, *small_run.methods()}
        assert {row["method"] for row in rows["identity"]} == {CHANGED, *small_run.methods()}
        assert capsys.readouterr().out.strip() == (tmp_path / "realism.md").read_text(encoding="utf-8").strip()

    def test_people_who_were_trained_on_are_refused(self, small_run: Run, tmp_path: Path) -> None:
        copy = tmp_path / "run"
        shutil.copytree(small_run.folder, copy)
        import_simulated(
            small_run.study.model_copy(update={"data": small_run.study.data.model_copy(update={"seed": 9})}),
            copy / "store",
        )
        assert main(["realism", str(copy), "--out", str(tmp_path / "out")]) != 0

    def test_few_people_are_refused(self, small_run: Run, tmp_path: Path) -> None:
        assert main(["realism", str(small_run.folder), "--out", str(tmp_path)]) != 0
        assert not list(tmp_path.glob("realism.*"))

    def test_a_published_model_has_nobody(self, tmp_path: Path) -> None:
        assert main(["realism", str(MODELS / "chest-sim"), "--out", str(tmp_path)]) != 0
