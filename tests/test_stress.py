"""Stress tests: what is there is found, and nothing else, of classifiers made by hand on true counterfactuals."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks import stress as benchmark
from refused import refused
from segcft.api.model import Model
from segcft.cli import main
from segcft.config.foreign import Outputs
from segcft.config.study import Study
from segcft.errors import Code, DataError, InterventionError, RunError, SegcftError, StudyError
from segcft.grey import rounded
from segcft.importers.simulated import make_simulator
from segcft.pipeline.run import Run
from segcft.readers.classifier import Classifier, Overlap, load_audited
from segcft.report.stress import render_page
from segcft.stress.audit import Audit, Settings, stress
from segcft.stress.doses import EXPOSURE, doses_of, exposed
from segcft.stress.effects import FEWEST, LEVEL, Effect, adjust, effects, enough, fewest, holm, mean_slopes, one_sided
from segcft.stress.gaps import MOST_SHUFFLES, gaps
from segcft.stress.people import chosen, people_of_store, read_people
from segcft.stress.responses import Responses, among, respond
from segcft.stress.sham import boards, motions, shams
from segcft.stress.source import Answered, ModelSource, Opened, Seen, Source
from segcft.stress.table import limits_of, render_audit
from segcft.stress.truth import TrueSource

SIZE = 32
PEOPLE = 40
BRIGHT = 0.08
"""Of a structure in the toy, for a standard deviation of its variable."""


class Toy(Source):
    """People whose images are known to the pixel: the brightness of one square is ``heart_area``, and of another one
    ``left_lung_area``; ``sex`` moves ``heart_area``; nothing else is seen. Everybody has grain and an exposure."""

    def __init__(self, study: Study, people: int = PEOPLE, images: int = 1) -> None:
        self.study, self.left_out, self.images = study, [], images
        random = np.random.default_rng(3)
        sex = np.arange(people * images) % 2
        own = random.standard_normal((people * images, 3))
        own[:, 2] += 0.5 * sex
        values = np.column_stack([sex, random.uniform(30, 80, len(sex)), own[:, 0], own[:, 1], own[:, 2]])
        self.all = self.people = torch.from_numpy(values.astype(np.float32))
        grain = 0.02 * torch.from_numpy(random.standard_normal((len(sex), 1, SIZE, SIZE)).astype(np.float32))
        light = 0.1 * torch.from_numpy(random.standard_normal((len(sex), 1, 1, 1)).astype(np.float32))
        self.background = grain + light

    def __len__(self) -> int:
        return len(self.all)

    def batches(self) -> Iterator[Opened]:
        for rows in torch.arange(len(self)).split(16):
            yield _Toys(self, rows)

    def see(self, image: Tensor) -> Seen:
        return Seen(image[:, :0], image.new_zeros((len(image), 0)))

    def draw(self, rows: Tensor, values: Tensor) -> Tensor:
        image = self.background[rows].clone()
        image[:, 0, 4:10, 4:10] += BRIGHT * values[:, 2, None, None]
        image[:, 0, 18:26, 20:30] += BRIGHT * values[:, 4, None, None]
        return rounded(image)


class _Toys(Opened):
    def __init__(self, source: Toy, rows: Tensor) -> None:
        self.source, self.rows, self.values = source, rows, source.all[rows]
        self.ids = [str(row) for row in rows.tolist()]
        self.patients = [str(row // source.images) for row in rows.tolist()]
        self.labels = {"sex": ["FM"[int(one)] for one in self.values[:, 0]]}
        self.image = self.null = source.draw(rows, self.values)

    def under(self, variable: str, value: float) -> Answered:
        after = self.values.clone()
        column = list(self.source.study.variables).index(variable)
        after[:, column] = value
        if variable == "sex":
            after[:, 4] += 0.5 * (value - self.values[:, 0])
        return Answered(self.source.draw(self.rows, after), after, after[:, 4].numpy() < 3)


class Mine:
    """A classifier made by hand."""

    def __init__(
        self, function: Callable[[Tensor], Tensor], names: Sequence[str] = ("it",), decides: bool = True
    ) -> None:
        self.function, self.names, self.decides = function, names, decides

    def __call__(self, x: Tensor, masks: Tensor) -> Tensor:
        found = self.function(x)
        return found if found.dim() == 2 else found[:, None]


def heart_reader(x: Tensor) -> Tensor:
    """Reads the square of the heart beside the image's whole brightness, which it does not answer to."""
    return torch.sigmoid(20 * (x[:, 0, 18:26, 20:30].mean(dim=(1, 2)) - x[:, 0, 12:17].mean(dim=(1, 2))))


def light_reader(x: Tensor) -> Tensor:
    """Reads how bright the image is as a whole, and so, a little, everything."""
    return torch.sigmoid(20 * x.mean(dim=(1, 2, 3)))


def chaos(x: Tensor) -> Tensor:
    """Answers to any change of any pixel, and to nothing in particular."""
    weights = torch.sin(torch.arange(x[0].numel()) * 12.9898) * 43758.5453
    return torch.frac((x.flatten(1) * weights).sum(dim=1).abs())


def constant(x: Tensor) -> Tensor:
    """Tells people apart by a pixel that nothing changes, and answers to nothing."""
    return 0.5 + x[:, 0, 0, 0]


@pytest.fixture(scope="module")
def toy_study(make_small_study: Callable[..., Study]) -> Study:
    return make_small_study({"image.size": [SIZE, SIZE]})


@pytest.fixture(scope="module")
def audit(toy_study: Study) -> Audit:
    readers = {"heart": heart_reader, "light": light_reader, "chaos": chaos, "constant": constant}
    both = Mine(lambda x: torch.stack([one(x) for one in readers.values()], dim=1), tuple(readers))
    return stress(Toy(toy_study), both, Settings(doses=3), origin={"classifier": "mine"})


def of(audit: Audit, output: str, variable: str) -> Effect:
    return next(one for one in audit.effects if (one.output, one.variable) == (output, variable))


def found(audit: Audit, output: str) -> set[str]:
    return {one.variable for one in audit.effects if one.output == output and one.found}


class TestWhatIsFound:
    def test_what_is_read_is_found_and_nothing_else(self, audit: Audit) -> None:
        assert found(audit, "heart") == {"heart_area", "sex"}  # the sex moves the heart
        assert found(audit, "light") == {EXPOSURE}
        assert found(audit, "chaos") == set()
        assert found(audit, "constant") <= {EXPOSURE}

    def test_an_effect_is_that_of_the_function(self, audit: Audit) -> None:
        heart = of(audit, "heart", "heart_area")
        assert heart.verdict == "rises"
        assert heart.low < heart.slope < heart.high
        assert 0 < heart.slope <= 20 * BRIGHT / 4  # the steepest slope of the logistic function, per standard deviation
        assert of(audit, "heart", "left_lung_area").slope == pytest.approx(0, abs=1e-6)

    def test_an_answer_to_any_change_is_told_from_one_to_this(self, audit: Audit) -> None:
        light = of(audit, "light", "heart_area")
        assert light.size == pytest.approx(light.sham, rel=0.1)
        assert of(audit, "chaos", "heart_area").verdict == "not told from shams"

    def test_decisions_flip(self, audit: Audit) -> None:
        heart = of(audit, "heart", "heart_area")
        assert heart.flips > heart.sham_flips
        assert of(audit, "constant", "heart_area").flips == 0

    def test_what_is_out_of_support_is_left_out_and_counted(self, audit: Audit, toy_study: Study) -> None:
        source = Toy(toy_study)
        source.people = source.all * torch.tensor([1, 1, 1, 1, 4.0])  # a range that goes beyond 3
        far = stress(source, Mine(heart_reader), Settings(("heart_area",), 3))
        assert far.effects[0].left_out > 0
        assert of(audit, "heart", "left_lung_area").left_out == 0
        assert min(point["patients"] for point in far.record()["curves"][0]["points"]) == 0

    def test_the_same_test_gives_the_same_numbers(self, toy_study: Study) -> None:
        settings = Settings(("sex", "heart_area"), 2)
        first, second = (stress(Toy(toy_study), Mine(heart_reader), settings).record() for _ in range(2))
        assert first == second

    def test_images_of_one_patient_count_as_one(self, toy_study: Study) -> None:
        several = stress(Toy(toy_study, people=20, images=3), Mine(heart_reader), Settings(("heart_area",), 3))
        assert (several.effects[0].images, several.effects[0].patients) == (60, 20)
        assert len(set(several.responses.patients.tolist())) == 20

    def test_of_few_people_nothing_is_said(self, toy_study: Study) -> None:
        few = stress(Toy(toy_study, people=4), Mine(heart_reader), Settings(("heart_area",), 3))
        assert few.effects[0].verdict == "too few people"
        assert not few.effects[0].found
        assert "null" not in json.dumps(few.record()["images"])

    def test_of_too_few_people_for_so_many_effects_nothing_is_said(self, toy_study: Study) -> None:
        few = stress(Toy(toy_study, people=6), Mine(heart_reader), Settings(doses=3))
        assert {one.verdict for one in few.effects} == {"too few people"}  # 6 effects, and 2 ** -6 is a 64th
        assert f"fewer than {fewest(6)} people" in " ".join(limits_of(few))
        alone = stress(Toy(toy_study, people=6), Mine(heart_reader), Settings(("heart_area",), 3)).effects[0]
        assert np.isfinite(alone.p_least)

    @pytest.mark.parametrize(
        ("keys", "field"),
        [
            ({"variables.sex.categories": ["M", "F"]}, "variables.sex.categories"),
            ({"variables.age.unit": "months"}, "variables.age.unit"),
            ({"image.size": [2 * SIZE, 2 * SIZE]}, "image.size"),
            ({"image.length_unit": "cm"}, "image.length_unit"),
        ],
    )
    def test_models_of_other_meanings_are_refused(
        self, make_small_study: Callable[..., Study], toy_study: Study, keys: dict[str, Any], field: str
    ) -> None:
        other = Toy(make_small_study({"image.size": [SIZE, SIZE]} | keys))
        with refused(RunError, Code.OTHER, f"--also: {field}"):
            stress(Toy(toy_study), Mine(heart_reader), Settings(("heart_area",), 3), [other])

    def test_models_are_compared_on_whom_all_answer_about(self, toy_study: Study) -> None:
        source, other = Toy(toy_study), Toy(toy_study)
        other.all = other.all[:20]
        found = stress(source, Mine(heart_reader), Settings(("heart_area",), 3), [other])
        one, known = found.effects[0], mean_slopes(among(found.responses, found.responses.ids[:20]))
        assert (one.images, found.common, one.models) == (PEOPLE, 20, 2)
        assert one.least == pytest.approx(one.most) == known["heart_area", "per sd", "it"]
        assert found.record()["also"] == [{"study": toy_study.name}]
        other.all = other.all[:0]
        with refused(DataError, Code.EMPTY, "--also"):
            stress(source, Mine(heart_reader), Settings(("heart_area",), 3), [other])

    def test_numbers_do_not_flip(self, toy_study: Study) -> None:
        area = Mine(lambda x: 1000 * x[:, 0, 18:26, 20:30].mean(dim=(1, 2)), decides=False)
        one = stress(Toy(toy_study), area, Settings(("heart_area",), 3)).effects[0]
        assert one.slope == pytest.approx(1000 * BRIGHT * float(Toy(toy_study).people[:, 4].std()), rel=0.1)
        assert np.isnan(one.flips)

    def test_groups_that_answer_otherwise_are_found(self, toy_study: Study) -> None:
        """Who is a man is read from the answer's own background: only men's hearts are read."""
        source = Toy(toy_study)
        source.background[:, 0, 0, 0] = torch.where(source.all[:, 0] == 1, 0.5, -0.5)
        men = Mine(lambda x: torch.where(x[:, 0, 0, 0] > 0, heart_reader(x), torch.full((len(x),), 0.5)))
        gaps = stress(source, men, Settings(("heart_area", "left_lung_area"), 3)).gaps
        assert [(one.variable, one.label) for one in gaps if one.found] == [("heart_area", "M")]
        assert gaps[0].slope > gaps[0].rest == pytest.approx(0, abs=1e-6)
        assert not any(one.found for one in stress(source, Mine(heart_reader), Settings(("heart_area",), 3)).gaps)

    def test_nobody_is_refused(self, toy_study: Study) -> None:
        source = Toy(toy_study)
        source.all = source.all[:0]
        with refused(DataError, Code.EMPTY, "--data"):
            stress(source, Mine(heart_reader))

    def test_what_is_no_variable_is_refused(self, toy_study: Study) -> None:
        with refused(InterventionError, Code.UNKNOWN, "heart"):
            stress(Toy(toy_study), Mine(heart_reader), Settings(("heart",)))


class TestStatistics:
    def test_signs_are_flipped(self) -> None:
        assert one_sided(np.ones(20)) == pytest.approx(1e-4)  # of all sets of signs none but that of the data
        assert one_sided(-np.ones(20)) == 1
        assert one_sided(np.zeros(20)) == 1

    def test_nothing_is_found_more_often_than_it_may(self) -> None:
        random = np.random.default_rng(0)
        p = [one_sided(random.standard_normal(15), flips=199, seed=k) for k in range(400)]
        # Of 400 tests at 5 %, 35 or more happen once in a thousand times; the draws are always the same.
        assert sum(one <= 0.05 for one in p) < 35

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
    def test_holm_is_between_p_and_bonferroni_and_keeps_the_order(self, p: list[float]) -> None:
        adjusted = holm(p)
        for own, one in zip(p, adjusted, strict=True):
            assert own <= one <= min(1.0, len(p) * own) + 1e-12
        order = np.argsort(p, kind="stable")
        assert (np.diff(np.array(adjusted)[order]) >= 0).all()

    def test_holm_by_hand(self) -> None:
        assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])

    def test_verdicts_go_by_adjusted_p_values(self) -> None:
        made: dict[str, Any] = dict.fromkeys((field.name for field in fields(Effect)), 0.0)
        none = float("nan")
        rows = [(0.001, 0.5), (0.03, 0.5), (0.9, 0.9), (0.001, 0.001), (0.001, none), (none, none)]
        found = adjust(
            [Effect(**made | {"p_least": least, "p_sham": sham, "low": 1.0, "adjusted": none}) for least, sham in rows]
        )
        said = ["not told from shams", "none seen", "none seen", "rises", "no control", "too few people"]
        assert [one.verdict for one in found] == said
        assert [one.found for one in found] == [one == "rises" for one in said]

    @given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12))
    def test_what_is_found_is_no_trifle_either(self, p: list[tuple[float, float]]) -> None:
        made: dict[str, Any] = dict.fromkeys((field.name for field in fields(Effect)), 0.0)
        for one in adjust([Effect(**made | {"p_least": least, "p_sham": sham}) for least, sham in p]):
            assert one.adjusted_least <= one.adjusted

    def test_enough_people_are_those_of_whom_p_can_be_small(self) -> None:
        assert fewest(1) == FEWEST
        for tests in (1, 10, 200):
            assert enough(fewest(tests), tests)
            assert not enough(fewest(tests) - 1, tests)
            assert tests * 2.0 ** -fewest(tests) <= LEVEL

    def test_gaps_are_found_no_more_often_than_they_may(self, audit: Audit) -> None:
        random, heart = np.random.default_rng(0), only_heart(audit.responses)
        found = replace(heart, outputs=heart.outputs[:1])
        labels = [np.array(["F", "M"])[random.permutation(PEOPLE) % 2] for _ in range(300)]
        p = [gaps(found, {"drawn": one}, seed)[0].p for seed, one in enumerate(labels)]
        assert sum(one <= 0.05 for one in p) < 29  # of 300 tests at 5 %, so many happen once in a thousand times
        assert min(p) >= 1 / (1 + MOST_SHUFFLES)
        assert max(p) <= 1


class TestShams:
    @given(arrays.arrays(np.float32, (2, 1, 12, 12), elements=st.floats(-0.25, 0.25, width=32)))
    def test_they_change_as_much_as_the_answer(self, drawn: np.ndarray) -> None:
        change = torch.from_numpy(drawn)
        null = rounded(torch.zeros_like(change))
        answer = rounded(null + change)
        energy = (answer - null).square().sum(dim=(1, 2, 3)).sqrt()
        for moved in (shams(null, answer, motions(null, [answer], 3)), boards(null, answer, 3)):
            image = moved.image
            assert moved.kept.shape == (2, 3)
            assert image.shape == (2, 3, 1, 12, 12)
            got = (image - null[:, None]).square().sum(dim=(2, 3, 4)).sqrt()
            # To half a grey level each pixel, twice.
            torch.testing.assert_close(got, energy[:, None].expand(-1, 3), rtol=0, atol=12 * 2 / 255)

    def test_a_change_is_moved_to_where_it_was_not(self) -> None:
        null = rounded(torch.zeros(1, 1, 16, 16))
        answer = null.clone()
        answer[..., 2:5, 3:6] = 0.5
        moved = shams(null, rounded(answer), motions(null, [rounded(answer)], 3))
        assert float(moved.overlap.max()) == 0
        assert float(moved.image[..., 2:5, 3:6].abs().max()) < 0.01
        torch.testing.assert_close(
            moved.image.sum(dim=(2, 3, 4)), rounded(answer).sum().expand(1, 3), rtol=0.01, atol=2
        )

    def test_a_change_of_everything_overlaps_with_itself(self) -> None:
        null = rounded(torch.zeros(1, 1, 16, 16))
        moved = shams(null, null + 0.2, motions(null, [null + 0.2], 2))
        assert float(moved.overlap.min()) == pytest.approx(1, abs=0.01)

    def test_what_black_cuts_off_is_made_up_for(self) -> None:
        null = rounded(torch.zeros(1, 1, 16, 16))
        null[..., 8:] = -1  # a black border, where it cannot become darker
        answer = null.clone()
        answer[..., 2:6, 1:7] -= 0.4
        energy = (answer - null).square().sum().sqrt()
        moved = shams(null, answer, motions(null, [answer], 2)).image
        torch.testing.assert_close(
            (moved - null[:, None]).square().sum(dim=(2, 3, 4)).sqrt(), energy.expand(1, 2), rtol=0.05, atol=0
        )

    def test_motions_are_those_of_all_doses(self) -> None:
        """What is darkened may go to where it is white, and what is brightened to where it is black: both may only go
        to where it is grey."""
        null = rounded(torch.zeros(1, 1, 16, 16))
        null[..., :8, 8:], null[..., 8:, :8] = 1, -1
        darker, brighter = null.clone(), null.clone()
        darker[..., 1:4, 2:4] -= 0.5
        brighter[..., 1:4, 2:4] += 0.5
        chosen = motions(null, [darker, brighter], 2)
        for answer in (darker, brighter):
            moved = shams(null, answer, chosen)
            assert moved.kept.all()
            changed = (moved.image != null[:, None]).nonzero()
            assert ((changed[:, 3] >= 8) == (changed[:, 4] >= 8)).all()  # in quarters that are grey
        first, second = (shams(null, answer, chosen).image != null[:, None] for answer in (darker, brighter))
        assert torch.equal(first, second)

    def test_responses_to_shams_sum_over_doses_as_those_to_answers(self, toy_study: Study) -> None:
        """A linear reader answers to each sham in proportion to the dose, whatever place it is at."""
        weights = torch.from_numpy(np.random.default_rng(1).standard_normal((SIZE, SIZE)).astype(np.float32))
        source = Toy(toy_study)
        grid = doses_of(toy_study.variables, source.people.numpy(), ["heart_area"], 5)
        found = respond(source, Mine(lambda x: (x[:, 0] * weights).sum(dim=(1, 2)), decides=False), grid)
        one = found.of["heart_area"]
        asked = (np.array(one.doses.values) - one.own[:, None])[:, :, None]
        gain = one.sham[..., 0] - found.null[:, :1, None]
        line = (asked * gain).sum(axis=1) / np.square(asked).sum(axis=1)
        assert np.abs(line).max() > 0.5
        np.testing.assert_allclose(gain, asked * line[:, None], atol=0.25)  # grey levels are rounded

    def test_one_of_much_less_energy_is_not_kept(self) -> None:
        null = torch.full((1, 1, 16, 16), -1.0)
        null[..., 2:5, 2:5] = 0.5
        answer = null.clone()
        answer[..., 2:5, 2:5] = -1  # all else is black and cannot become darker
        assert not shams(null, answer, motions(null, [answer], 2)).kept.any()
        answer[..., 2:5, 2:5] = 1
        assert shams(null, answer, motions(null, [answer], 2)).kept.all()

    def test_shams_that_are_not_kept_do_not_count(self, audit: Audit) -> None:
        whole = audit.responses
        response = whole.of["heart_area"]
        kept = response.kept.copy()
        kept[:, 1, 0] = False  # at one dose is at all doses
        part = effects(only_heart(whole, kept=kept))
        two = effects(only_heart(whole, kept=response.kept[..., 1:], sham=response.sham[..., 1:, :]))
        for one, other in zip(part, two, strict=True):
            for name in ("size", "sham", "controlled", "sham_flips", "p_sham", "adjusted"):
                assert getattr(one, name) == pytest.approx(getattr(other, name))

    def test_who_has_no_sham_has_no_control(self, audit: Audit) -> None:
        whole = audit.responses
        kept = whole.of["heart_area"].kept.copy()
        kept[10:] = False
        some = effects(only_heart(whole, kept=kept))[0]
        assert (some.patients, some.controlled) == (PEOPLE, 10)
        assert some.size > some.sham
        kept[3:] = False
        for one in effects(only_heart(whole, kept=kept)):
            assert one.controlled == 3
            assert one.verdict == "no control"
            assert np.isnan([one.p_sham, one.adjusted]).all()
            assert not one.found
        kept[:] = False
        assert np.isnan(effects(only_heart(whole, kept=kept))[0].sham)


def only_heart(found: Responses, **changed: Any) -> Responses:
    """The responses to the heart alone."""
    return replace(found, of={"heart_area": replace(found.of["heart_area"], **changed)})


class TestDoses:
    def test_they_are_within_the_training_range(self, toy_study: Study) -> None:
        people = Toy(toy_study).people.numpy()
        by_name = {one.variable: one for one in doses_of(toy_study.variables, people, ["sex", "age", EXPOSURE], 4)}
        assert by_name["sex"].values == (0, 1)
        assert by_name["sex"].contrasts() == [("M against F", -1)]
        assert people[:, 1].min() < by_name["age"].values[0] < by_name["age"].values[-1] < people[:, 1].max()
        assert len(by_name["age"].values) == 4
        assert by_name[EXPOSURE].acquired

    def test_of_several_categories_each_is_one(self, make_small_study: Callable[..., Study]) -> None:
        study = make_small_study({"variables.sex.categories": ["F", "M", "X"]})
        people = np.array([[0, 1, 1, 1, 1], [1, 2, 2, 2, 2], [2, 3, 3, 3, 3]], dtype=np.float32)
        (one,) = doses_of(study.variables, people, ["sex"], 3)
        assert one.contrasts() == [("to F", 0), ("to M", 1), ("to X", 2)]

    def test_exposure_brightens_all_but_black_and_white(self) -> None:
        x = torch.tensor([-1.0, -0.2, 0.4, 1.0]).reshape(1, 1, 2, 2)
        more, less = exposed(x, 0.3).flatten(), exposed(x, -0.3).flatten()
        assert (more[1:3] > x.flatten()[1:3]).all()
        assert (less[1:3] < x.flatten()[1:3]).all()
        torch.testing.assert_close(more[[0, 3]], x.flatten()[[0, 3]])


class TestPages:
    def test_the_table_and_the_page_have_every_effect(self, audit: Audit) -> None:
        text, page = render_audit(audit), render_page(audit)
        for one in audit.effects:
            assert one.output in text
            assert one.output in page
        assert "<script" not in page
        assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")

    def test_pictures_are_of_the_largest_responses(self, audit: Audit) -> None:
        own = [one for one in audit.responses.examples if (one.variable, one.output) == ("heart_area", "heart")]
        response = audit.responses.of["heart_area"]
        gains = np.abs(response.output[..., 0] - audit.responses.null[:, 0, None])
        largest = np.where(response.supported, gains, 0).max()
        assert max(abs(one.after - one.before) for one in own) == pytest.approx(largest)
        assert len({one.id for one in own}) == len(own)

    def test_files_hold_what_was_found(self, audit: Audit, tmp_path: Path) -> None:
        audit.write(tmp_path)
        record = json.loads((tmp_path / "stress.json").read_text(encoding="utf-8"))
        assert {one["variable"] for one in record["effects"] if one["found"] and one["output"] == "heart"} == found(
            audit, "heart"
        )
        with (tmp_path / "subjects.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        own = [abs(float(row["slope"])) for row in rows if (row["variable"], row["output"]) == ("heart_area", "heart")]
        assert own == sorted(own, reverse=True)
        assert len(own) == of(audit, "heart", "heart_area").images
        with (tmp_path / "answers.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        own = [row for row in rows if (row["variable"], row["output"]) == ("age", "heart")]
        response = audit.responses.of["age"]
        assert {float(row["dose"]) for row in own} == set(response.doses.values)
        assert {float(row["own"]) for row in own} == set(response.own.tolist())
        assert {row["unit"] for row in own} == {response.doses.unit}
        assert {row["dose"] for row in rows if row["variable"] == "sex"} == {"F", "M"}


class Weighted(nn.Module):
    """A network of one weight, for safetensors: the mean grey level times ``gain``, and plus 1."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(1, 2, 3))[:, None] * self.gain


PYTHON = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(outputs))

    def forward(self, x):
        return x.mean(dim=(1, 2, 3))[:, None] * self.gain


def grey(x):
    return x.mean(dim=(1, 2, 3)).numpy()


def words(x):
    return "none"


nothing = 3
"""


@pytest.fixture
def card(tmp_path: Path) -> Callable[..., Path]:
    """``card(network=..., outputs=...)``: the description of a classifier, beside Python that may be named in it."""
    (tmp_path / "theirs.py").write_text(PYTHON, encoding="utf-8")

    def make(**keys: Any) -> Path:
        path = tmp_path / "theirs.yaml"
        path.write_text(yaml.safe_dump({"outputs": {"it": 0}} | keys), encoding="utf-8")
        return path

    return make


class TestClassifiers:
    def test_python_torchscript_and_weights_say_the_same(
        self, card: Callable[..., Path], tmp_path: Path, small_study: Study
    ) -> None:
        x = torch.rand(3, 1, *small_study.image.size) * 2 - 1
        network = Weighted()
        torch.jit.trace(network, x).save(str(tmp_path / "net.pt"))
        save_file(network.state_dict(), tmp_path / "net.safetensors")
        weights = {"network": "net.safetensors", "code": "theirs.py:Net", "arguments": {"outputs": 2}}
        for keys in ({"code": "theirs.py:grey"}, {"network": "net.pt"}, weights):
            read = load_audited(card(gives="numbers", **keys), small_study)(x, x[:, :0])
            torch.testing.assert_close(read, (x.mean(dim=(1, 2, 3))[:, None] + 1) / 2)  # black is 0 and white is 1

    def test_what_it_expects_is_what_it_gets(self) -> None:
        seen = []

        def network(x: Tensor) -> Tensor:
            seen.append(x)
            return x.new_zeros(len(x), 3)

        spec = Outputs(outputs={"b": 2, "a": 0}, range=(10, -10), size=(8, 12), channels=3, gives="classes")
        read = Classifier(network, spec)(torch.ones(2, 1, 16, 16), torch.zeros(2, 0, 16, 16))
        assert seen[0].shape == (2, 3, 8, 12)
        torch.testing.assert_close(seen[0], torch.full((2, 3, 8, 12), -10.0))
        torch.testing.assert_close(read, torch.full((2, 2), 1 / 3))

    @pytest.mark.parametrize(
        ("keys", "error", "code"),
        [
            ({}, StudyError, Code.INVALID),
            ({"network": "net.safetensors"}, StudyError, Code.INVALID),
            ({"network": "net.pt", "code": "theirs.py:grey"}, StudyError, Code.INVALID),
            ({"code": "theirs.py"}, StudyError, Code.INVALID),
            ({"code": "theirs.py:grey", "arguments": {"a": 1}}, StudyError, Code.INVALID),
            ({"code": "theirs.py:grey", "outputs": {}}, StudyError, Code.INVALID),
            ({"code": "theirs.py:grey", "gives": "masks"}, StudyError, Code.INVALID),
            ({"network": "net.pt"}, RunError, Code.MISSING),
            ({"code": "theirs.py:other"}, RunError, Code.MISSING),
            ({"code": "theirs.py:nothing"}, RunError, Code.MISSING),
            ({"code": "nowhere.py:grey"}, RunError, Code.UNREADABLE),
            ({"code": "theirs.py:words"}, RunError, Code.UNREADABLE),
            ({"code": "theirs.py:grey", "outputs": {"it": 1}}, RunError, Code.INVALID),
            ({"code": "theirs.py:grey", "gives": "probabilities", "range": [-3, 1]}, RunError, Code.INVALID),
        ],
    )
    def test_what_is_none_is_refused(
        self, card: Callable[..., Path], small_study: Study, keys: dict[str, Any], error: type[SegcftError], code: Code
    ) -> None:
        with refused(error, code):
            load_audited(card(**keys), small_study)

    def test_weights_of_another_network_are_refused(
        self, card: Callable[..., Path], tmp_path: Path, small_study: Study
    ) -> None:
        save_file({"gain": torch.ones(3)}, tmp_path / "net.safetensors")
        with refused(RunError, Code.UNREADABLE, "net.safetensors"):
            load_audited(card(network="net.safetensors", code="theirs.py:Net", arguments={"outputs": 2}), small_study)

    def test_a_segmentor_is_held_against_the_judge(self, small_run: Run) -> None:
        judge = small_run.load("judge")
        overlap = Overlap(judge, small_run.study)
        x = torch.rand(2, 1, *small_run.study.image.size) * 2 - 1
        masks = judge.masks(x).detach()
        assert list(overlap.names) == [f"Dice of {name}" for name in small_run.study.masked]
        torch.testing.assert_close(overlap(x, masks), torch.ones(2, len(overlap.names)))
        assert float(overlap(x, 1 - masks).max()) < 1


class TestPeople:
    def test_a_folder_a_table_and_a_study_folder_have_the_same_people(self, small_run: Run, tmp_path: Path) -> None:
        (tmp_path / "images").mkdir()
        random = np.random.default_rng(0)
        for name in "ab":
            Image.fromarray(random.integers(0, 255, (32, 32), dtype=np.uint8)).save(tmp_path / "images" / f"{name}.png")
        rows = "id,patient,sex,age,site\na,7,F,50,x\nb,7,M,,y\n"
        people, _ = read_people(tmp_path / "images", small_run.study)
        assert [(one.id, one.patient) for one in people] == [("a", "a"), ("b", "b")]
        (tmp_path / "metadata.csv").write_text(rows, encoding="utf-8")
        people, passed = read_people(tmp_path, small_run.study, ["site"])
        assert [(one.id, one.patient, one.labels) for one in people] == [
            ("a", "7", {"site": "x"}),
            ("b", "7", {"site": "y"}),
        ]
        assert [list(one.known) for one in people] == [["sex=F", "age=50.0"], ["sex=M"]]
        assert passed == []
        table = tmp_path / "table.csv"
        table.write_text(rows.replace("id", "image", 1).replace("a,7", "images/a.png,7"), encoding="utf-8")
        first, passed = read_people(table, small_run.study)
        assert first[0].image == tmp_path / "images/a.png"
        assert [one.name for one in passed] == ["site"]
        with refused(DataError, Code.MISSING, "view"):
            read_people(table, small_run.study, ["view"])
        with refused(DataError, Code.MISSING):
            read_people(tmp_path / "images", small_run.study, ["view"])

    def test_cells_between_semicolons_are_read_as_the_questions_are(self, small_run: Run, tmp_path: Path) -> None:
        (tmp_path / "images").mkdir()
        rows = "id;patient;sex;age\na;7;F;50,5\nb;7;M;60,25\nc;9;M;\n"
        (tmp_path / "metadata.csv").write_text(rows, encoding="utf-8")
        people, _ = read_people(tmp_path, small_run.study)
        assert [(one.id, one.patient) for one in people] == [("a", "7"), ("b", "7"), ("c", "9")]
        assert [list(one.known) for one in people] == [["sex=F", "age=50.5"], ["sex=M", "age=60.25"], ["sex=M"]]

    def test_a_column_of_patients_may_have_another_name(self, small_run: Run, tmp_path: Path) -> None:
        table = tmp_path / "table.csv"
        table.write_text("image,Subject ID\na.png,1\nb.png,1\nc.png,2\nd.png,3\n", encoding="utf-8")
        people, passed = read_people(table, small_run.study)
        assert [one.patient for one in people] == ["1", "1", "2", "3"]
        assert passed == []

    def test_some_are_chosen_in_their_order(self, small_run: Run) -> None:
        store = small_run.store()
        people = people_of_store(store, store.indices("test"), small_run.study)
        some = chosen(people, 5, 0)
        assert [one.id for one in some] == [one.id for one in people if one in some]
        assert len(some) == 5
        assert set(people[0].known) == {"sex", "age"}
        with refused(DataError, Code.EMPTY):
            chosen([], 5, 0)


@pytest.fixture(scope="module")
def source(small_run: Run) -> ModelSource:
    store = small_run.store()
    return ModelSource(Model(small_run), people_of_store(store, store.indices("test")[:6], small_run.study))


class TestModels:
    def test_the_answer_to_no_question_is_the_image(self, source: ModelSource) -> None:
        opened = next(source.batches())
        torch.testing.assert_close(opened.null, opened.image, rtol=0, atol=1.01 * 2 / 255)
        assert set(opened.labels) == {"sex", "age"}

    def test_what_a_variable_causes_moves_or_is_held(self, small_run: Run, source: ModelSource) -> None:
        held = ModelSource(source.model, source.persons, held=True)
        age = float(source.people[:, 1].median())
        for one, same in ((source, False), (held, True)):
            opened = next(one.batches())
            after = opened.under("age", age).values
            assert (after[:, 1] == age).all()
            assert torch.equal(after[:, 2:], opened.values[:, 2:]) is same

    def test_answers_are_those_of_the_api(self, small_run: Run, source: ModelSource) -> None:
        opened = next(source.batches())
        person = next(one for one in source.persons if one.id == opened.ids[0])
        value = float(source.people[:, 4].median())
        answer = source.model.counterfactual(person.image, person.known, {"heart_area": value}, draws=0)
        grey = (opened.under("heart_area", value).image[0] + 1) * 255 / 2
        assert np.abs(grey.numpy() - answer.image).max() <= 1

    def test_what_is_out_of_support_is_not_drawn(self, source: ModelSource) -> None:
        opened = next(source.batches())
        far = opened.under("heart_area", 2 * float(source.people[:, 4].max()))
        assert not far.supported.any()
        torch.testing.assert_close(far.image, opened.null, rtol=0, atol=1.01 * 2 / 255)

    def test_an_image_that_cannot_be_read_is_left_out(self, source: ModelSource) -> None:
        broken = ModelSource(source.model, [replace(source.persons[0], image="nowhere.png")])
        assert list(broken.batches()) == []
        assert [one.id for one in broken.left_out] == [source.persons[0].id]

    @pytest.mark.parametrize(("part", "taught"), [("train", 2), ("validation", 2), ("test", 0)])
    def test_it_knows_whether_people_taught_the_model(
        self, small_run: Run, source: ModelSource, part: str, taught: int
    ) -> None:
        store = small_run.store()
        people = people_of_store(store, store.indices(part)[:2], small_run.study)
        asked = ModelSource(source.model, people)
        assert asked.taught == 0  # nobody was asked about yet
        list(asked.batches())
        assert asked.taught == taught
        person = replace(people[0], known={**people[0].known, "age": 500.0})  # and is not asked about
        other = ModelSource(source.model, [person, people[1]])
        asked_about = sum(len(one.ids) for one in other.batches())
        assert other.taught == min(taught, asked_about)

    def test_the_judge_reads_what_was_obtained(self, small_run: Run, source: ModelSource) -> None:
        doses = doses_of(small_run.study.variables, source.people.numpy(), ["heart_area", "age"], 2)
        responses = respond(source, Mine(light_reader), doses, count=1).of
        assert np.isfinite(responses["heart_area"].obtained).all()
        assert np.isnan(responses["age"].obtained).all()

    def test_several_models_give_a_range(self, small_run: Run, source: ModelSource) -> None:
        other = ModelSource(source.model, source.persons, method="none")
        found = stress(source, Mine(light_reader), Settings(("heart_area",), 2), [other])
        one = found.effects[0]
        assert one.models == 2
        assert one.least <= one.slope <= one.most
        assert "by models" in render_audit(found)
        assert found.record()["also"] == [
            {"study": source.study.name, "model": source.model.run.folder.name, "method": "none"}
            | {"images that taught it": "0"}
        ]


class TestCommand:
    def test_it_writes_page_table_and_numbers(
        self, small_run: Run, card: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        described = card(code="theirs.py:grey")
        words = ["stress", str(small_run.folder), "--classifier", str(described), "--device", "cpu", "--doses", "2"]
        words += ["--variables", "sex", "heart_area", "--out", str(tmp_path / "out")]
        assert main(words) == 0
        assert capsys.readouterr().out.strip() == (tmp_path / "out/stress.md").read_text(encoding="utf-8").strip()
        record = json.loads((tmp_path / "out/stress.json").read_text(encoding="utf-8"))
        assert [one["variable"] for one in record["effects"]] == ["sex", "heart_area"]
        assert record["images"] + len(record["left out"]) == len(small_run.store().indices("test"))
        assert "<h1>theirs.yaml</h1>" in (tmp_path / "out/stress.html").read_text(encoding="utf-8")
        assert main([*words, "--json"]) == 0  # again, into the same folder
        assert json.loads(capsys.readouterr().out) == record

    @pytest.mark.parametrize(
        "words",
        [
            ["--doses", "1"],
            ["--data", "nowhere", "--seed", "3"],
            ["--data", "nowhere"],
            ["--variables", "heart"],
            ["--seed", "3"],  # the study's own
        ],
    )
    def test_what_makes_no_sense_is_told(
        self, small_run: Run, card: Callable[..., Path], tmp_path: Path, words: list[str]
    ) -> None:
        asked = ["stress", str(small_run.folder), "--classifier", str(card(code="theirs.py:grey")), "--device", "cpu"]
        assert main([*asked, "--out", str(tmp_path / "out"), *words]) == 1


class TestTruth:
    def test_people_are_drawn_again(self, small_study: Study) -> None:
        simulator = make_simulator(small_study)
        people = TrueSource(small_study, simulator, range(20), range(100, 140))
        opened = next(people.batches())
        heart = float(people.people[:, 4].median())
        answered = opened.under("heart_area", heart)
        attributes = simulator.attributes(0, {"heart_area": heart})
        image, _ = simulator.render(0, attributes)
        np.testing.assert_allclose((answered.image[0, 0].numpy() + 1) * 255 / 2, image, atol=1e-3)
        assert answered.supported[0] == bool(
            ((answered.values[0].numpy() >= people.low) & (answered.values[0].numpy() <= people.high)).all()
        )
        assert float(answered.values[0, 4]) == heart
        assert not opened.under("heart_area", 100 * heart).supported.any()  # it would leave the thorax

    @pytest.mark.slow
    def test_the_benchmark_tells_what_is_there_from_what_is_not(self, tmp_path: Path) -> None:
        few = ["--classifiers", "3", "--people", "6", "--others", "6", "--taught", "4", "--steps", "1", "--doses", "2"]
        benchmark.main([*few, "--page", str(tmp_path / "page.md")])
        text = (tmp_path / "page.md").read_text(encoding="utf-8")
        for kind, variable in benchmark.PLANTED.items():
            assert kind in text
            assert f"{variable.replace('_', ' ')} (planted)" in text

    def test_what_is_there_is_large_and_not_as_to_shams(self) -> None:
        made = dict.fromkeys((field.name for field in fields(Effect)), 0.0) | {"sd": 1.0}
        cases = [(0.5, 0.1, True), (0.5, 0.4, False), (0.05, 0.0, False), (0.2, 0.05, None), (0.5, 0.3, None)]
        for size, sham, there in cases:
            assert benchmark.is_there(Effect(**made | {"size": size, "sham": sham})) is there
