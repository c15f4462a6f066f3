"""Confounded simulators: a shortcut among those who train, and none among those who judge and are judged."""

from pathlib import Path

import numpy as np
import pytest
import torch

from segcft.config.loader import load_study
from segcft.config.study import Study
from segcft.errors import Code, DataError, StudyError
from segcft.evaluate.truth import Truth
from segcft.importers.simulated import CONFOUNDED, CONFOUNDED_PARTS, import_simulated, make_simulator
from segcft.pipeline.run import Run
from segcft.simulate.chest import MECHANISMS, ChestSimulator
from segcft.simulate.people import person_number
from segcft.simulate.radiograph import Exposure
from segcft.simulate.shortcut import Quality, Shortcut
from tests.conftest import MakeStudy

CONFIGS = Path(__file__).parents[1] / "configs"
PEOPLE = [person_number(3, index) for index in range(1200)]


def deviations(variable: str) -> np.ndarray:
    simulator = ChestSimulator((16, 16))
    found = []
    for person in PEOPLE:
        known = simulator.attributes(person)
        found.append(MECHANISMS[variable].deviation(str(known["sex"]), float(known["age"]), person))
    return np.array(found)


class TestShortcut:
    def test_without_a_correlation_every_quality_is_as_it_was(self) -> None:
        shortcut = Shortcut("heart_area", "exposure", 0.0)
        for own in (0.0, 0.1, 0.5, 1.0):
            assert shortcut.quantile(own, 2.0) == pytest.approx(own, abs=1e-8)

    @pytest.mark.parametrize("rho", [-0.9, 0.5, 0.9])
    def test_quality_and_area_go_together_and_the_quality_keeps_its_range(self, rho: float) -> None:
        shortcut, d = Shortcut("heart_area", "exposure", rho), deviations("heart_area")
        own = np.random.default_rng(0).random(len(d))
        quality = np.array([shortcut.quantile(*one) for one in zip(own, d, strict=True)])
        assert np.corrcoef(quality, d)[0, 1] == pytest.approx(rho, abs=0.06)
        assert quality.mean() == pytest.approx(0.5, abs=0.03)
        assert quality.std() == pytest.approx(12**-0.5, abs=0.02)

    def test_an_exposure_moves_to_other_quantiles_of_its_ranges(self) -> None:
        drawn = Exposure.draw(np.random.default_rng(0))
        same = drawn.moved(lambda own: own)
        assert (same.beam, same.gamma) == pytest.approx((drawn.beam, drawn.gamma))
        brightest = drawn.moved(lambda own: 1.0)
        assert (brightest.beam, brightest.gamma) == pytest.approx((0.95 * np.exp(0.3), np.exp(-0.3)))
        assert brightest.noise == drawn.noise


@pytest.mark.parametrize("quality", ["exposure", "body"])
class TestPictures:
    def test_larger_areas_look_brighter_but_for_the_area_itself(self, quality: Quality) -> None:
        """All areas are set to one value, so only the person differs: with the shortcut, as their area does."""
        people = PEOPLE[:60]
        shortcut = Shortcut("heart_area", quality, 1)
        natural, confounded = (ChestSimulator((32, 32), shortcut=one) for one in (None, shortcut))
        usual = natural.attributes(people[0])

        def brightness(simulator: ChestSimulator) -> np.ndarray:
            return np.array([simulator.render(person, usual)[0].mean() for person in people])

        own = deviations("heart_area")[:60]
        # The same people's brightness before is what they have of themselves.
        assert np.corrcoef(brightness(confounded) - brightness(natural), own)[0, 1] > 0.4

    def test_masks_are_the_same(self, quality: Quality) -> None:
        person = PEOPLE[0]
        shortcut = Shortcut("heart_area", quality, 0.9)
        natural, confounded = (ChestSimulator((32, 32), shortcut=one) for one in (None, shortcut))
        known = natural.attributes(person)
        assert confounded.attributes(person) == known
        np.testing.assert_array_equal(natural.render(person, known)[1], confounded.render(person, known)[1])
        assert not np.array_equal(natural.render(person, known)[0], confounded.render(person, known)[0])

    def test_what_is_set_makes_nobody_brighter(self, quality: Quality) -> None:
        """Where the heart is not, the true counterfactual is the picture as it was."""
        person, simulator = PEOPLE[1], ChestSimulator((64, 64), shortcut=Shortcut("heart_area", quality, 0.9))
        known = simulator.attributes(person)
        before, masks = simulator.render(person, known)
        _, after, drawn = simulator.counterfactual(person, {"heart_area": 1.2 * float(known["heart_area"])})
        far = (np.arange(64) < 12)[:, None] & ~(masks.any(axis=0) | drawn.any(axis=0))
        assert far.sum() > 100
        assert np.abs(before[far].astype(int) - after[far]).max() <= 1


def confounded_study(make_small_study: MakeStudy, **changes: object) -> Study:
    return make_small_study(
        {
            "data.confounding": {"variable": "heart_area", "rho": 0.9} | changes,
            "data.people": 24,
            "splits": {"train": 0.4, "judge": 0.2, "validation": 0.2, "test": 0.2},
        }
    )


class TestImport:
    def test_who_trains_is_confounded_and_who_judges_is_not(self, make_small_study: MakeStudy, tmp_path: Path) -> None:
        study = confounded_study(make_small_study)
        store, natural = import_simulated(study, tmp_path / "a"), import_simulated(make_small_study(), tmp_path / "b")
        for row, (part, flag) in enumerate(zip(store.table["split"], store.table[CONFOUNDED], strict=True)):
            assert flag == (part in CONFOUNDED_PARTS)
            assert np.array_equal(store.images[row], natural.images[row]) != bool(flag)
        assert set(store.table.loc[store.table[CONFOUNDED] == 0, "split"]) == {"judge", "test"}
        np.testing.assert_array_equal(store.values(), natural.values()[: len(store)])

    def test_a_study_without_it_has_no_such_column(self, small_run: Run) -> None:
        assert CONFOUNDED not in small_run.store().table

    def test_the_truth_is_of_the_person_that_was_drawn(self, make_small_study: MakeStudy, tmp_path: Path) -> None:
        """Where nothing changes, the true counterfactual is the image, of the confounded and of the others."""
        study = confounded_study(make_small_study)
        store = import_simulated(study, tmp_path / "a")
        column, rows = list(study.variables).index("heart_area"), torch.arange(len(store))
        simulator = make_simulator(study)
        own = [float(simulator.attributes(int(person))["heart_area"]) for person in store.table["person"]]
        assert own == pytest.approx(store.values()[:, column], rel=0.01)
        drawn = Truth(study, store).counterfactuals(rows, {"heart_area": torch.tensor(own, dtype=torch.float64)})
        assert drawn is not None
        moved = (drawn.image - torch.from_numpy(store.images.copy()).float() / 127.5 + 1).abs()
        assert float(moved.max()) <= 1.01 / 127.5

    def test_a_key_that_is_not_set_is_not_written(self, make_small_study: MakeStudy) -> None:
        assert "confounding" not in make_small_study().model_dump(mode="json")["data"]
        said = confounded_study(make_small_study).model_dump(mode="json")["data"]["confounding"]
        assert said == {"variable": "heart_area", "quality": "exposure", "rho": 0.9}


class TestRefused:
    def test_an_unknown_variable(self, make_small_study: MakeStudy, tmp_path: Path) -> None:
        with pytest.raises(DataError) as error:
            import_simulated(confounded_study(make_small_study, variable="age"), tmp_path / "a")
        assert (error.value.code, error.value.field) == (Code.UNKNOWN, "data.confounding.variable")

    @pytest.mark.parametrize("changes", [{"rho": 1.2}, {"quality": "weather"}])
    def test_what_is_not_there(self, make_small_study: MakeStudy, changes: dict[str, object]) -> None:
        with pytest.raises(StudyError):
            confounded_study(make_small_study, **changes)

    @pytest.mark.parametrize(
        "changes",
        [{"splits.judge": 0.0, "splits.train": 0.6}, {"splits.folds": 3, "splits.judge": 0.0, "splits.train": 0.6}],
    )
    def test_who_judges_must_not_be_confounded(self, make_small_study: MakeStudy, changes: dict[str, object]) -> None:
        confounding = {"data.confounding": {"variable": "heart_area", "rho": 0.9}}
        with pytest.raises(StudyError) as error:
            make_small_study(confounding | changes)
        assert "data.confounding" in str(error.value)

    def test_a_simulator_that_confounds_nothing(self, make_small_study: MakeStudy) -> None:
        study = load_study(CONFIGS / "coronary-quickstart.yaml")
        confounding = confounded_study(make_small_study).data.confounding  # type: ignore[union-attr]
        study = study.model_copy(update={"data": study.data.model_copy(update={"confounding": confounding})})
        with pytest.raises(DataError) as error:
            make_simulator(study, confounded=True)
        assert (error.value.code, error.value.field) == (Code.UNSUPPORTED, "data.confounding")
