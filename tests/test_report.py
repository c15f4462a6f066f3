"""The report: one page that needs nothing else, says what the run's files say, and refuses what is not so."""

from __future__ import annotations

import itertools
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from refused import refused
from segcft.app.catalogue import GRAPH, IMAGE_NODE, NODE
from segcft.causal.layout import IMAGE, Box, Layout, lay_out, with_image
from segcft.cli import main
from segcft.config.graph import Graph
from segcft.config.loader import parse_study
from segcft.config.study import Study
from segcft.config.variable import Variable
from segcft.errors import Code, RunError
from segcft.pipeline.publish import publish
from segcft.pipeline.run import Run
from segcft.report import charts
from segcft.report.facts import left_out
from segcft.report.failures import _contrasts
from segcft.report.graph import draw_graph, graph_svg
from segcft.report.page import render_report, write_report
from segcft.report.tables import tables
from segcft.training import artefact
from tests.conftest import small_mapping

CPU = torch.device("cpu")
VOID = {"meta", "img", "br"}
SHAPES = {"line", "rect", "path"}  # of SVG, closed in themselves


class Reader(HTMLParser):
    """Every element with its attributes, the ones open around each, the tables' cells and the text of sections."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.text: dict[str, str] = {}
        self._open: list[str] = []
        self._section = ""
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "section":
            self._section = str(dict(attrs)["id"])
        rows = self.tables.setdefault(self._section, [])
        if tag == "table":
            rows.append([])
        elif tag == "tr":
            rows[-1].append([])
        elif tag in ("td", "th"):
            rows[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SHAPES
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text[self._section] = self.text.get(self._section, "") + data
        if "td" in self._open or "th" in self._open:
            self.tables[self._section][-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(small_run: Run) -> str:
    return render_report(small_run, CPU)


@pytest.fixture
def copy(small_run: Run, tmp_path: Path) -> Run:
    """The small run, to be changed."""
    shutil.copytree(small_run.folder, tmp_path / "run")
    return Run(tmp_path / "run")


def change_study(run: Run, change: Callable[[dict], None]) -> Run:
    path = run.folder / "study.yaml"
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(raw)
    path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
    return Run(run.folder)


# --- the page ---


def test_the_page_needs_nothing_else(page: str) -> None:
    reader = Reader(page)
    assert not {tag for tag, _ in reader.elements} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    ids = [a["id"] for _, a in reader.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in reader.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href"):
                assert value is not None
                assert value.startswith("data:image/png;base64,") or value.removeprefix("#") in ids
    assert not re.search(r"@import|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_the_page_is_for_everybody_to_read(page: str) -> None:
    reader = Reader(page)
    assert reader.all("html")[0]["lang"] == "en"
    assert all(picture["alt"] for picture in reader.all("img"))
    assert all(d.get("aria-label") or d.get("aria-hidden") for d in reader.all("svg"))
    levels = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert "not for clinical use" in page


def test_the_tables_are_those_of_the_evaluation(small_run: Run, page: str) -> None:
    text = (small_run.evaluation / "table.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("| --")]
    wanted = [[cell.strip().replace("**", "") for cell in line.strip("|").split("|")] for line in lines]
    found = [row for table in Reader(page).tables["evaluation"] for row in table]
    assert found == wanted


def test_the_page_says_what_the_files_say(small_run: Run, page: str) -> None:
    reader, store = Reader(page), small_run.store()
    assert store.fingerprint in reader.text["study"]
    for split, count in small_run.samples().items():
        assert re.search(rf"(?<!\d){count} {'training' if split == 'train' else split}\b", reader.text["study"])
    for part in ("segmentor", "judge", "regressor", "scm", "hvae", "cft-regressor", "cft-segmentor"):
        assert artefact.read_meta(small_run.path(part))["key"] in reader.text["parts"]
        assert f"{sum(p.numel() for p in small_run.build(part).parameters()):,}" in reader.text["parts"]
        assert part in reader.text["training"]
    settings = "name:" + reader.text["settings"].partition("name:")[2]
    assert yaml.safe_load(settings) == yaml.safe_load((small_run.folder / "study.yaml").read_text(encoding="utf-8"))
    assert torch.__version__ in reader.text["environment"]
    assert f"judge.seed{small_run.study.judge.seed}\n" in reader.text["guards"]
    assert "does not hold" not in reader.text["guards"]
    drawn = len(list((small_run.evaluation / "figures").glob("*.png")))
    assert len([a for a in reader.all("figure") if a.get("class") == "large"]) == drawn > 0


def test_failures_are_the_worst_tenth(small_run: Run, page: str) -> None:
    reader, study = Reader(page), small_run.study
    scores = pd.read_parquet(small_run.evaluation / "scores.parquet")
    own = scores[(scores["method"] == "segmentor") & (scores["metric"] == "mape") & scores["intervened"]]
    said = " ".join(reader.text["failures"].split())
    assert len(reader.tables["failures"]) == len(study.structures)
    for structure in study.structures:
        errors = own[own["structure"] == structure].set_index("id")["value"].sort_values(ascending=False)
        worst = errors[: math.ceil(0.1 * len(errors))]
        assert f"{len(worst)} of {len(errors)} samples, with errors of {charts.number(worst.min())} %" in said
        assert ", ".join(worst.index) in said
        for id, error in worst[:4].items():
            assert re.search(rf"{id} [^;]*; error {re.escape(charts.number(error))} %\.", said)
    pictures = [a for a in reader.all("figure") if a.get("class") == "shown"]
    assert len(pictures) >= 3 * len(study.structures)


def test_a_study_with_absent_structures(plaque_run: Run) -> None:
    reader = Reader(render_report(plaque_run, CPU))
    assert re.search(r"absent \d+ %", reader.text["variables"])
    assert "does not have the structure, %" in reader.text["failures"]
    assert "px" in reader.text["failures"]
    assert "share this page only as the licence of the data allows" in reader.text[""]
    assert "simulator" not in reader.text["failures"]


def test_the_command_line_writes_it(copy: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(copy.folder), "--device", "cpu"]) == 0
    assert str(copy.folder / "report.html") in capsys.readouterr().err
    assert "<!DOCTYPE html>" in (copy.folder / "report.html").read_text(encoding="utf-8")
    with refused(RunError, Code.INVALID, copy.folder):
        write_report(copy, copy.folder, CPU)


# --- what comes from files is text ---

NASTY = (
    'a <script>alert("1")</script> & <img src=x onerror=y> ![p](http://example.org/p.png) [l](http://example.org) '
    "<http://example.org>"
)


def test_what_files_say_is_text(copy: Run) -> None:
    table = copy.evaluation / "table.md"
    run = change_study(copy, lambda raw: raw.update(description=NASTY))
    table.write_text(table.read_text(encoding="utf-8").replace("\n\n±", f"\n\nwas: {NASTY}\n\n±", 1), encoding="utf-8")
    rejected = pd.DataFrame({"id": ["p1", "p2"], "reason": [f"/data/{p}.png: {NASTY}" for p in ("p1", "p2")]})
    rejected.to_csv(run.folder / "store" / "rejected.csv", index=False)
    page = render_report(run, CPU)
    test_the_page_needs_nothing_else(page)
    reader = Reader(page)
    assert NASTY in reader.text[""]
    assert NASTY in reader.text["evaluation"]
    assert reader.tables["guards"][0][1:] == [["2", f"ID.png: {NASTY}"]]
    assert NASTY not in page


@given(st.text(max_size=80))
def test_a_table_is_text_and_tables_only(text: str) -> None:
    allowed = {"h3", "p", "ul", "ol", "li", "strong", "em", "code", "br", "hr", "blockquote", "div", "span"}
    allowed |= {"table", "thead", "tbody", "tr", "th", "td"}
    seen: set[str] = set()

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.add(tag)
            assert {name for name, _ in attrs} <= {"class", "style", "start"}

    Tags().feed(str(tables(f"# title\n\n{text}\n\n| a | b |\n| - | - |\n| {text} | 1 |\n", "")))
    assert seen <= allowed


# --- what is missing, and what is refused ---


def test_what_is_missing_is_said(copy: Run) -> None:
    shutil.rmtree(copy.evaluation / "figures")
    shutil.rmtree(copy.training)
    (copy.evaluation / "scores.parquet").unlink()
    copy.path("regressor").unlink()
    reader = Reader(render_report(copy, CPU))
    assert "has no figures" in reader.text["figures"]
    assert "training/hvae.jsonl" in reader.text["training"]
    assert "scores.parquet is missing" in reader.text["failures"]
    assert "regressor is not trained" in reader.text["parts"]


def test_a_run_without_fine_tuning(copy: Run) -> None:
    for guide in ("regressor", "segmentor"):
        copy.path(f"cft-{guide}").unlink()
    run = change_study(copy, lambda raw: raw["finetune"].update(guides=[]))
    reader = Reader(render_report(run, CPU))
    assert "this study fine-tunes nothing" in reader.text["study"]
    assert "Failure cases of No CFT" in reader.text["failures"]


def test_a_method_that_is_not_evaluated_yet_is_named(copy: Run) -> None:
    path = copy.evaluation / "table.json"
    rows = [row for row in pd.read_json(path).to_dict("records") if row["method"] != "segmentor"]
    pd.DataFrame(rows).to_json(path, orient="records")
    reader = Reader(render_report(copy, CPU))
    assert "Seg-CFT is trained, and not evaluated yet." in reader.text["study"]
    assert "Failure cases of Reg-CFT" in reader.text["failures"]


def test_an_evaluation_of_other_models_is_refused(copy: Run) -> None:
    path = copy.path("cft-segmentor")
    network, meta = copy.load("cft-segmentor"), artefact.read_meta(path)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)
    artefact.save(path, network, meta)
    with refused(RunError, Code.OTHER, copy.folder):
        render_report(copy, CPU)


def test_an_evaluation_of_other_people_is_refused(copy: Run) -> None:
    path = copy.evaluation / "scores.parquet"
    scores = pd.read_parquet(path)
    scores[scores["id"] != scores["id"].iloc[0]].to_parquet(path)
    with refused(RunError, Code.OTHER, "scores.parquet"):
        render_report(copy, CPU)


def test_an_evaluation_of_other_interventions_is_refused(copy: Run) -> None:
    run = change_study(copy, lambda raw: raw["evaluation"].update(interventions=["age"]))
    with refused(RunError, Code.OTHER, "evaluation.interventions"):
        render_report(run, CPU)


def test_what_has_no_report(copy: Run, tmp_path: Path) -> None:
    publish(copy, tmp_path / "model")
    with refused(RunError, Code.MISSING, tmp_path / "model"):
        render_report(Run(tmp_path / "model"), CPU)
    log = copy.training / "hvae.jsonl"
    log.write_text(log.read_text() + "{broken\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"hvae\.jsonl: line \d+: "):
        render_report(copy, CPU)
    (copy.evaluation / "scores.parquet").write_bytes(b"nothing")
    with refused(RunError, Code.INVALID, "scores.parquet"):
        render_report(copy, CPU)
    (copy.evaluation / "table.json").unlink()
    with refused(RunError, Code.INVALID, "table.json"):
        render_report(copy, CPU)


def test_an_evaluation_by_another_metric_is_refused(copy: Run) -> None:
    """The page would be in pixels by its words and in per cent by its numbers."""
    study = copy.folder / "study.yaml"
    study.write_text(study.read_text(encoding="utf-8").replace("metric: mape", "metric: mae"), encoding="utf-8")
    with refused(RunError, Code.MISSING, "table.json"):
        render_report(Run(copy.folder), CPU)


def test_a_part_of_earlier_parts_does_not_pass(copy: Run) -> None:
    path = copy.path("cft-regressor")
    meta = artefact.read_meta(path)
    artefact.save(path, copy.load("cft-regressor"), meta | {"made_from": meta["made_from"] | {"regressor": "another"}})
    guards = Reader(render_report(copy, CPU)).text["guards"]
    assert re.search(
        r"does not hold\s+All parts were made from the parts that the run has, except cft-regressor", guards
    )


def test_a_judge_that_does_not_say_its_seed_is_told(copy: Run) -> None:
    path = copy.path("judge")
    meta = artefact.read_meta(path)
    artefact.save(path, copy.load("judge"), meta | {"study": {"judge": {}}})
    with refused(RunError, Code.MISSING, "judge.safetensors"):
        render_report(copy, CPU)


# --- the pieces ---


def test_contrasts_by_hand() -> None:
    table = pd.DataFrame({"a": [1.0, 2.0, 3.0, 6.0], "b": [5.0, 5.0, 5.0, 5.0], "c": [0.0, np.nan, 0.0, 1.0]})
    rows = _contrasts(table, np.array([False, False, False, True]))
    assert [row.quantity for row in rows] == ["a", "c", "b"]
    a = rows[0]
    assert (a.worst, a.rest) == (6, 2)
    assert a.standardised == pytest.approx(4 / np.std([1, 2, 3, 6]))
    assert math.isnan(rows[2].standardised)


def test_reasons_are_counted_without_what_is_of_one_sample_only() -> None:
    rejected = pd.DataFrame(
        [
            ("p1", "/my data/masks/p1.png: the mask of heart is empty"),
            ("p2", "/my data/masks/p2.png: the mask of heart is empty"),
            ("p3", "data/table.csv: line 4: column 'age': 'x' is not a number"),
            ("p4", "data/table.csv: line 5: column 'age': 'x' is not a number"),
            ("p5", "data/table.csv: line 6: column 'sex': no"),
        ],
        columns=["id", "reason"],
    )
    assert left_out(rejected) == [
        ("ID.png: the mask of heart is empty", 2),
        ("table.csv: line …: column 'age': 'x' is not a number", 2),
        ("table.csv: line …: column 'sex': no", 1),
    ]


def graph_study(parents: list[list[int]]) -> Study:
    """The small study with more attributes, whose parents are earlier ones."""
    raw = small_mapping()
    more = {f"v{k}": {"kind": "continuous", "parents": [f"v{p}" for p in causes]} for k, causes in enumerate(parents)}
    raw["variables"] = more | raw["variables"]
    return parse_study(raw)


@given(
    st.integers(0, 6).flatmap(
        lambda n: st.tuples(*(st.sets(st.integers(0, k - 1)) if k else st.just(set()) for k in range(n)))
    )
)
def test_a_graph_is_drawn_whole_and_without_overlap(parents: tuple[set[int], ...]) -> None:
    study = graph_study([sorted(causes) for causes in parents])
    for layout in (draw_graph(study).layout, downwards(study)):
        check_layout(study, layout)


def downwards(study: Study) -> Layout:
    """The graph as the page has it, turned: from left to right."""
    parents = with_image({name: variable.parents for name, variable in study.variables.items()})
    laid = lay_out(parents, dict.fromkeys(parents, NODE) | {IMAGE: IMAGE_NODE}, GRAPH)
    boxes = tuple(Box(box.name, box.y, box.x, box.height, box.width) for box in laid.boxes)
    turned = [re.sub(r"([\d.]+),([\d.]+)", r"\2,\1", arrow.path).replace("V", "H") for arrow in laid.arrows]
    arrows = tuple(replace(arrow, path=path) for arrow, path in zip(laid.arrows, turned, strict=True))
    return Layout(laid.height, laid.width, boxes, arrows, ())


def check_layout(study: Study, layout: Layout) -> None:
    wanted = {(cause, name) for name, variable in study.variables.items() for cause in variable.parents}
    wanted |= {(name, IMAGE) for name in study.variables}
    assert {(arrow.cause, arrow.effect) for arrow in layout.arrows} == wanted
    assert len(layout.arrows) == len(wanted)
    where = {box.name: box for box in layout.boxes}
    assert len(where) == len(study.variables) + 1
    for one in layout.boxes:
        assert 0 <= one.x - one.width / 2 < one.x + one.width / 2 <= layout.width
        assert 0 <= one.y - one.height / 2 < one.y + one.height / 2 <= layout.height
        for other in layout.boxes:
            apart = abs(one.x - other.x) >= (one.width + other.width) / 2 or abs(one.y - other.y) >= one.height
            assert one is other or apart
    for arrow in layout.arrows:
        assert where[arrow.cause].x < where[arrow.effect].x
        passed = re.findall(r" ([\d.]+),([\d.]+) H([\d.]+)", arrow.path)
        assert sorted(passed, key=lambda one: float(one[0])) == passed
        assert len(set(passed)) == len(passed)
        # Where an arrow runs level beside boxes it touches none of them.
        for x, y, end in passed:
            for box in layout.boxes:
                beside = box.x + box.width / 2 <= float(x) or box.x - box.width / 2 >= float(end)
                assert beside or abs(box.y - float(y)) > box.height / 2


def on(path: str) -> np.ndarray:
    """Points (N, 2) along a path of an SVG, two pixels from each other."""
    found: list[np.ndarray] = []
    here = np.zeros(2)
    t = np.linspace(0, 1, 60)[:, None]
    for kind, text in re.findall(r"([MLQCHV])([^MLQCHV]*)", path):
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", text)]
        if kind == "H":
            numbers = [numbers[0], here[1]]
        if kind == "V":
            numbers = [here[0], numbers[0]]
        points = [here, *np.reshape(numbers, (-1, 2))]
        while kind != "M" and len(points) > 1:  # de Casteljau
            points = [(1 - t) * a + t * b for a, b in itertools.pairwise(points)]
        found.append(np.reshape(points[-1], (-1, 2)))
        here = found[-1][-1]
    points = np.concatenate(found)
    way = np.append(0, np.hypot(*np.diff(points, axis=0).T).cumsum())
    return np.stack([np.interp(np.arange(0, way[-1], 2), way, axis) for axis in points.T], axis=1)


PAIRS = [f"v{a}-v{b}" for b in range(7) for a in range(b)]


@given(
    st.lists(st.sampled_from([[], [0], [1], [0, 1]]), min_size=5, max_size=5),
    st.sets(st.sampled_from(PAIRS), max_size=8),
)
def test_what_is_confounded_is_drawn_beside_all_boxes(parents: list[list[int]], chosen: set[str]) -> None:
    raw = graph_study([[], [], *parents])
    below = Graph.of(raw.variables).descendants
    pairs = [(a, b) for a, b in (pair.split("-") for pair in sorted(chosen)) if b not in below([a])]
    study = raw.model_copy(update={"confounded": tuple(pairs)})
    assert draw_graph(study).text.count("causes in common") == len(pairs)
    assert str(graph_svg(study)).count('class="tie"') == len(pairs)
    parents_of = with_image({name: variable.parents for name, variable in study.variables.items()})
    sizes = dict.fromkeys(parents_of, NODE) | {IMAGE: IMAGE_NODE}
    for layout in (draw_graph(study).layout, lay_out(parents_of, sizes, GRAPH, study.confounded)):
        assert {frozenset((tie.first, tie.second)) for tie in layout.ties} == set(map(frozenset, pairs))
        curves = [on(tie.path) for tie in layout.ties]
        for curve in curves:
            assert (curve >= 0).all()
            assert (curve <= (layout.width, layout.height)).all()
            for box in layout.boxes:
                inside = abs(curve - (box.x, box.y)) < (box.width / 2 - 0.1, box.height / 2 - 0.1)
                assert not inside.all(axis=1).any()
        brackets = [on(tie.path) for tie in layout.ties if tie.ends[0][2] == tie.ends[1][2]]
        for one, other in itertools.combinations(brackets, 2):  # they may cross, and are never one line
            near = np.sqrt(((one[:, None] - other) ** 2).sum(axis=-1)).min(axis=1) < 3
            assert near.mean() < 0.3


numbers = st.floats(-1e6, 1e6, allow_nan=False) | st.just(math.nan)


@given(st.lists(numbers, min_size=1, max_size=300))
def test_a_curve_stays_on_its_chart(values: list[float]) -> None:
    chart = charts.curve("loss", np.arange(1.0, len(values) + 1), np.array(values))
    if all(math.isnan(value) for value in values):
        assert chart is None
        return
    assert chart is not None
    for path in (chart.line, chart.band):
        for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path):
            assert charts.LEFT - 0.1 <= float(x) <= charts.WIDTH - charts.RIGHT + 0.1
            assert charts.TOP - 0.1 <= float(y) <= charts.HEIGHT - charts.BOTTOM + 0.1
    assert all(charts.LEFT - 0.1 <= tick.place <= charts.WIDTH for tick in chart.x_ticks)
    assert all(0 <= tick.place <= charts.HEIGHT for tick in chart.y_ticks)


def test_a_marginal_says_who_is_missing_and_who_lacks_it() -> None:
    area = Variable(kind="continuous", scale="log", zero_inflated=True, unit="mm²")
    chart = charts.marginal("plaque_area", area, np.array([0, 0, 0, 1, 2, 3, np.nan, 4], dtype=np.float32))
    assert chart.title == "plaque area, mm²"
    assert "7 known, 1 missing, absent 43 %, median 2.5" in chart.text
    sex = charts.marginal(
        "sex", Variable(kind="categorical", categories=("F", "M")), np.array([0, 1, 1, 1], np.float32)
    )
    assert "F 25 %, M 75 %" in sex.text
    assert sex.bars[0].height == pytest.approx(sex.bars[1].height / 3)
    nobody = charts.marginal("age", Variable(kind="continuous"), np.array([np.nan], dtype=np.float32))
    assert "0 known, 1 missing" in nobody.text
