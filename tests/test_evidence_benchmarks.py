"""Benchmarks of guides and of shortcuts: their sums, and both of them whole on the small study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import guides, shortcut
from benchmarks.guides import Point
from benchmarks.trainings import figure_of, varied
from segcft.config.study import Study
from segcft.errors import StudyError
from segcft.simulate.people import person_number


def points(power: float, factor: float) -> list[Point]:
    """Of six trainings in which answers err as the regression says, exactly."""
    found = []
    for k in range(6):
        for method, start in (("segmentor", 1.0), ("regressor", 1.5)):
            for structure, usual in (("lung", 3.0), ("heart", 5.0)):
                error = start * 1.3**k
                answers = usual * error**power * (factor if method == "segmentor" else 1.0)
                found.append(Point(f"run-{k}", "good", method, structure, error, answers, (0.5, 2.0)))
    return found


class TestGuides:
    @pytest.mark.parametrize(("power", "factor"), [(1.0, 0.7), (0.4, 1.2), (0.0, 1.0)])
    def test_the_regression_finds_what_is_there(self, power: float, factor: float) -> None:
        found = guides.fit(points(power, factor))
        assert found.power == pytest.approx([power] * 3, abs=1e-9)
        assert found.factor == pytest.approx([factor] * 3)

    def test_the_interval_holds_the_value_where_trainings_differ(self) -> None:
        random = np.random.default_rng(0)
        noisy = [p._replace(answers=p.answers * float(np.exp(random.normal(0, 0.1)))) for p in points(0.5, 0.8)]
        found = guides.fit(noisy)
        for value, low, high in found:
            assert low < value < high

    def test_errors_that_both_kinds_have(self) -> None:
        found = guides.overlap(points(1, 1))
        assert found["lung"] == pytest.approx((1.5, 1.3**5))
        apart = [p._replace(guide=p.guide + 100 * (p.method == "regressor")) for p in points(1, 1)]
        assert guides.overlap(apart) == {"lung": None, "heart": None}

    def test_trainings_of_a_seed_share_the_mechanism_and_nothing_else_differs(self, small_study: Study) -> None:
        studies = dict(guides.graded(small_study, 2))
        assert len(studies) == 2 * len(guides.GRADES)
        for seed in (1, 2):
            own = [study for name, study in studies.items() if name.endswith(f"-{seed}")]
            assert len({study.hvae.model_dump_json() for study in own if study.hvae}) == 1
            assert len({study.finetune.model_dump_json() for study in own}) == 1
        assert len({study.hvae.seed for study in studies.values() if study.hvae}) == 2


class TestShortcut:
    def test_every_arm_and_correlation_is_trained_with_every_seed(self, small_study: Study) -> None:
        base = varied(small_study, "base", {"splits": shortcut.SPLITS, "finetune": {"least_change": 2}})
        found = list(shortcut.variants_of(base, 2))
        assert len({name for name, *_ in found}) == len(found) == 2 * len(shortcut.ARMS) * len(shortcut.RHOS)
        for _, arm, rho, study in found:
            assert study.data.confounding.rho == rho  # type: ignore[union-attr]
            assert (study.finetune.least_change == 0) == (arm == "no price")

    def test_a_brighter_film_has_more_of_the_beam_and_less_gamma(self) -> None:
        people = np.array([person_number(0, k) for k in range(300)])
        found = shortcut.brightness(people)
        assert found.mean() == pytest.approx(0, abs=1e-9)
        assert found.std() == pytest.approx(1)
        from segcft.simulate.chest import ChestSimulator

        simulator = ChestSimulator((24, 24))
        usual = simulator.attributes(int(people[0]))
        grey = [simulator.render(int(person), usual)[0].mean() for person in people[:80]]
        assert np.corrcoef(found[:80], grey)[0, 1] > 0.5


class TestWhole:
    def test_guides(self, small_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        few = {"segmentor": {"steps": 8}, "regressor": {"steps": 8}}
        monkeypatch.setattr(guides, "GRADES", {"poor": few, "best": few | {"segmentor": {"steps": 9}}})
        (tmp_path / "study.yaml").write_text(small_study.model_dump_json(), encoding="utf-8")
        options = ["--base", str(tmp_path / "study.yaml"), "--seeds", "1", "--out", str(tmp_path / "runs")]
        guides.main([*options, "--page", str(tmp_path / "page.md")])
        assert "| poor  | Seg-CFT |" in (tmp_path / "page.md").read_text(encoding="utf-8")
        assert (tmp_path / "page.svg").stat().st_size > 1000

    def test_shortcut(self, small_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shortcut, "RHOS", (0.9,))
        monkeypatch.setattr(shortcut, "ARMS", {"as planned": {}})
        (tmp_path / "study.yaml").write_text(small_study.model_dump_json(), encoding="utf-8")
        options = ["--base", str(tmp_path / "study.yaml"), "--people", "60", "--seeds", "1"]
        options += ["--out", str(tmp_path / "runs"), "--page", str(tmp_path / "page.md")]
        shortcut.main(options)
        first = (tmp_path / "page.md").read_text(encoding="utf-8")
        assert "| as planned             | 0.9 | Seg-CFT |" in first
        monkeypatch.setattr(shortcut, "_brightens", None)
        shortcut.main(options)  # from what was kept
        assert (tmp_path / "page.md").read_text(encoding="utf-8") == first


def test_a_changed_study_is_checked(small_study: Study) -> None:
    with pytest.raises(StudyError):
        varied(small_study, "other", {"segmentor": {"stepps": 3}})
    assert varied(small_study, "other", {}).name == "other"


def test_a_figure_that_is_not_there_is_none() -> None:
    row = {"method": "a", "metric": "m", "structure": "", "intervention": "", "value": 1.5}
    assert figure_of([row], "a", "m") == 1.5
    assert np.isnan(figure_of([row | {"value": None}], "a", "m"))
    assert np.isnan(figure_of([row], "b", "m"))
