"""The web page in a real browser: Chromium, driven as a reader would use it."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, Route, expect, sync_playwright

from segcft.io.provenance import SYNTHETIC, inspect
from tests.conftest import MODELS
from tests.servers import served_by_command

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
PATIENCE = 30_000  # ms: how long something may take before it is called broken

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt install chromium)"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a server started by the command line."""
    models = [MODELS / name for name in ("chest-sim", "coronary-quickstart", "jsrt", "coronary-thirds", "retina-sim")]
    with served_by_command(*models) as server:
        yield server.address
    assert "Jane" not in server.said  # who is in the name of an uploaded file
    assert "/api/" not in server.said


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page, with an example and its answer there. It must not complain, nor ask anybody but its server."""
    page = browser.new_page(viewport={"width": 1440, "height": 900}, accept_downloads=True)
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    complaints: list[str] = []
    requests: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        # The browser itself reports answers of status 400, which broken uploads have.
        if message.type in ("error", "warning") and "status of 400" not in message.text:
            complaints.append(message.text)

    page.on("console", listen)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    expect(page.locator("[data-node=heart_area] .value")).to_have_text(re.compile(r"\d"))
    yield page
    assert complaints == []
    assert len(requests) > 10
    assert [url for url in requests if not url.startswith((address, f"blob:{address}"))] == []
    page.close()


def obtained(page: Page, variable: str) -> float:
    text = page.locator(f"[data-variable={variable}] .obtained").inner_text()
    return float(text.replace("\N{MINUS SIGN}", "-").split()[0])


def pane(page: Page, kind: str) -> np.ndarray:
    """Pixels of a pane as they are on the screen, (H, W, 3)."""
    shot = page.locator(f"[data-pane={kind}]").screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def hide_outlines(page: Page) -> None:
    page.uncheck("#outline-before")
    page.uncheck("#outline-after")


def set_value(page: Page, variable: str, value: str) -> None:
    """Type a value, and wait for its answer."""
    row = page.locator(f"[data-variable={variable}]")
    with page.expect_response("**/api/question"):
        row.locator("input[type=number]").last.fill(value)
        page.keyboard.press("Enter")
    expect(page.locator(f"[data-node={variable}]")).to_have_class(re.compile(r"\bset\b"))
    expect(row.locator(".state")).to_contain_text("set")


def choose_mode(page: Page, mode: str) -> None:
    page.locator(f"[name=mode][value={mode}]").check()


def test_what_is_always_there(page: Page) -> None:
    banner = page.get_by_text("For research only, not for clinical use.")
    expect(banner).to_be_visible()
    expect(page.locator("footer")).to_contain_text("Every image made here is synthetic")
    assert page.locator("footer").bounding_box()["y"] < 900  # type: ignore[index]
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.click("#theme")
    assert page.locator("html").get_attribute("data-theme") == "light"
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, select, canvas[role], [role=slider]')].filter((e) =>"
        " !e.labels?.length && !e.getAttribute('aria-label') && !e.getAttribute('aria-labelledby')"
        " && !e.textContent.trim()).map((e) => e.outerHTML)"
    )
    assert unnamed == []


def test_a_slider_changes_picture_numbers_and_graph(page: Page) -> None:
    hide_outlines(page)
    before, area = pane(page, "after"), obtained(page, "heart_area")
    assert (before == pane(page, "before")).all()
    expect(page.locator("#reset")).to_be_disabled()
    slider = page.locator("[data-variable=heart_area] input[type=range]")
    slider.focus()
    with page.expect_response("**/api/question"):
        slider.press("PageUp")
        slider.press("PageUp")
    row = page.locator("[data-variable=heart_area]")
    expect(row.locator(".state")).to_contain_text("set, +")
    expect(page.locator("#draws canvas")).to_have_count(5)  # this model is from before there were bands
    expect(row.locator(".obtained")).to_contain_text("\N{PLUS-MINUS SIGN}")  # of the draws
    assert obtained(page, "heart_area") > area + 50
    assert abs(pane(page, "after") - before).max() > 20
    assert (pane(page, "before") == before).all()
    # Its incoming arrows are cut, all others are there.
    assert page.locator(".edge.severed").evaluate_all("(all) => all.map((one) => one.dataset.edge).sort()") == [
        "age>heart_area",
        "sex>heart_area",
    ]
    expect(page.locator("[data-edge='age>heart_area'] .cut")).to_be_visible()
    expect(page.locator("[data-edge='age>left_lung_area'] .cut")).to_be_hidden()
    expect(page.locator("#graph title")).to_contain_text("Cut: sex to heart area, age to heart area.")
    expect(page.locator("#said")).to_contain_text("heart area: asked")  # what is read aloud
    page.click("#reset")
    expect(page.locator(".edge.severed")).to_have_count(0)
    expect(row.locator(".state")).to_have_text("")
    expect(page.locator("#draws canvas")).to_have_count(0)
    assert (pane(page, "after") == before).all()


def test_what_is_confounded_is_drawn_and_cut_where_it_is_set(page: Page) -> None:
    expect(page.locator("#tied")).to_be_hidden()
    with page.expect_response("**/api/question"):
        page.select_option("#model", "coronary-thirds")
    expect(page.locator(".edge.tie")).to_have_count(3)
    expect(page.locator("#tied")).to_be_visible()
    expect(page.locator("#graph title")).to_contain_text("causes in common")
    with page.expect_response("**/api/question"):
        page.locator("[data-variable=middle_lumen] input[type=range]").press("PageUp")
    expect(page.locator(".edge.tie.severed")).to_have_count(2)
    expect(page.locator("[data-tie='proximal_lumen-distal_lumen']")).not_to_contain_class("severed")
    picture = page.locator("#graph svg")
    natural = float((picture.get_attribute("viewBox") or "").split()[2])
    for mode in ("side", "swipe"):  # it can be read: nearly as large as it was laid out
        page.locator(f"[name=mode][value={mode}]").check(force=True)
        box = picture.bounding_box()
        assert box is not None
        assert box["width"] > 0.8 * natural


def test_descendants_follow_and_can_be_held(page: Page) -> None:
    node = page.locator("[data-node=left_lung_area]")
    before = node.locator(".value").text_content() or ""
    slider = page.locator("[data-variable=left_lung_area] input[type=range]")
    place = float(slider.input_value())
    set_value(page, "age", "85")
    expect(node).to_have_class(re.compile(r"\bfollows\b"))
    expect(node.locator(".value")).not_to_have_text(before)
    assert float(slider.input_value()) != place
    set_value(page, "left_lung_area", "2500")
    expect(node).not_to_have_class(re.compile(r"\bfollows\b"))
    expect(node.locator(".value")).to_contain_text("2500")
    page.click("[data-variable=left_lung_area] .release")
    expect(node).to_have_class(re.compile(r"\bfollows\b"))
    page.locator("[data-variable=sex] [type=radio][value=F]").check()
    expect(page.locator("[data-node=sex]")).to_have_class(re.compile(r"\bset\b"))
    expect(page.locator("[data-node=sex] .value")).to_have_text("F")


def test_what_is_known_can_be_told(page: Page) -> None:
    age = page.get_by_label("Observed age")
    age.fill("40")
    age.press("Enter")
    expect(page.locator("[data-node=age] .value")).to_contain_text("40.0")
    expect(page.locator("[data-variable=age] .source")).to_have_text("given")
    age.fill("")
    age.press("Enter")
    expect(page.locator("[data-variable=age] .source")).to_contain_text("inferred \N{PLUS-MINUS SIGN}")


def test_warnings_are_at_their_variable(page: Page) -> None:
    set_value(page, "heart_area", "2600")
    expect(page.locator("[data-variable=heart_area] .warning").first).to_contain_text("not in the training range")
    expect(page.locator("#count")).to_contain_text("warning")
    expect(page.locator("[data-variable=heart_area]")).to_have_class(re.compile(r"\bbeyond\b"))


def test_a_refused_value_is_explained(page: Page) -> None:
    row = page.locator("[data-variable=heart_area] input[type=number]")
    row.fill("-5")
    row.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("an area cannot be -5")
    page.click("#reset")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_outlines_can_be_hidden(page: Page) -> None:
    def coloured() -> int:
        return int((np.ptp(pane(page, "before"), axis=2) > 40).sum())

    everything = coloured()
    page.uncheck("[data-structure=heart]")
    without_heart = coloured()
    assert 0 < without_heart < everything
    page.uncheck("#outline-before")
    assert coloured() == 0


def test_a_slider_is_dragged_by_its_handle(page: Page) -> None:
    box = page.locator(".mark.got").last.bounding_box()  # the heart's, which lies over the handle
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    slider = page.locator("input[type=range]").last
    before = float(slider.input_value())
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y, steps=4)
    page.mouse.up()
    assert float(slider.input_value()) > before + 50


def test_swipe(page: Page) -> None:
    hide_outlines(page)
    set_value(page, "heart_area", "2000")
    choose_mode(page, "swipe")
    divider = page.get_by_role("slider", name=re.compile("Divider"))
    divider.press("Home")
    after = pane(page, "swipe")
    divider.press("End")
    expect(divider).to_have_attribute("aria-valuenow", "100")
    before = pane(page, "swipe")
    assert abs(before - after).max() > 20
    box = page.locator("[data-pane=swipe]").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 5, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50)
    page.mouse.up()
    expect(divider).to_have_attribute("aria-valuenow", "50")
    both, middle = pane(page, "swipe"), before.shape[1] // 2
    assert (both[:, : middle - 30] == before[:, : middle - 30]).all()
    assert (both[:, middle + 30 :] == after[:, middle + 30 :]).all()


def test_flicker(page: Page) -> None:
    set_value(page, "heart_area", "2000")
    choose_mode(page, "flicker")
    canvas = page.locator("[data-pane=flicker]")
    for shown in ("before", "after", "before"):
        expect(canvas).to_have_attribute("data-shown", shown)
    page.click("#play")
    expect(page.locator("#play")).to_have_text("Play")
    still = canvas.get_attribute("data-shown")
    page.wait_for_timeout(1500)
    assert canvas.get_attribute("data-shown") == still
    canvas.click()  # turns by hand
    assert canvas.get_attribute("data-shown") != still


def test_difference(page: Page) -> None:
    hide_outlines(page)
    choose_mode(page, "difference")
    assert np.ptp(pane(page, "difference"), axis=2).max() < 20  # nothing has changed: no colour
    set_value(page, "heart_area", "2000")
    colours = pane(page, "difference")
    assert (colours[..., 0] - colours[..., 2]).max() > 80  # brighter is red
    expect(page.locator(".scale").first).to_have_text(re.compile("^\N{MINUS SIGN}\\d+\\s*\\+\\d+ grey levels$"))


def test_uploads(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "Jane Doe.png"
    broken.write_bytes((MODELS / "chest-sim/examples/2.png").read_bytes()[:2000])
    values = page.locator("[data-node=heart_area] .value")
    first = values.text_content() or ""
    page.set_input_files("#file", broken)
    expect(page.get_by_role("alert")).to_contain_text("the uploaded file: cannot read this image")
    assert values.text_content() == first  # the page goes on with what it had
    good = tmp_path / "Jane Doe 2.png"
    shutil.copy(MODELS / "chest-sim/examples/2.png", good)
    with page.expect_request("**/api/upload**") as sent:
        page.set_input_files("#file", good)
    expect(values).not_to_have_text(first)
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.locator("[data-variable=sex] .source")).to_contain_text("inferred")
    assert "Jane" not in sent.value.url + json.dumps(sent.value.all_headers())


def test_a_file_that_arrives_after_another_choice_is_not_shown(page: Page) -> None:
    held: list[Route] = []
    page.route("**/api/upload**", lambda route: held.append(route))
    with page.expect_request("**/api/upload**"):
        page.set_input_files("#file", MODELS / "chest-sim/examples/2.png")
    chosen = page.locator(".example").nth(2)
    with page.expect_response("**/api/question"):
        chosen.click()
    with page.expect_response("**/api/upload**"):
        held[0].continue_()
    set_value(page, "heart_area", "1900")
    expect(chosen).to_have_attribute("aria-pressed", "true")
    expect(page.locator("[data-variable=sex] .source")).to_contain_text("example")


def test_an_opened_image_stays_when_the_model_is_changed(page: Page) -> None:
    values = page.locator("[data-node=heart_area] .value")
    page.set_input_files("#file", MODELS / "chest-sim/examples/2.png")
    expect(page.locator("[data-variable=sex] .source")).to_contain_text("inferred")
    mine = values.text_content() or ""
    with page.expect_response("**/api/upload?model=jsrt"):
        page.select_option("#model", "jsrt")
    expect(page.locator("[data-pane=before]")).to_be_visible()
    expect(page.locator("#invitation")).to_be_hidden()
    with page.expect_response("**/api/upload?model=chest-sim"):
        page.select_option("#model", "chest-sim")
    expect(values).to_have_text(mine)
    expect(page.locator(".example[aria-pressed=true]")).to_have_count(0)
    page.locator(".example").first.click()  # and now it is gone
    page.select_option("#model", "jsrt")
    expect(page.locator("#invitation")).to_be_visible()


def test_an_opened_image_that_another_model_cannot_read_is_told_of(page: Page) -> None:
    page.set_input_files("#file", MODELS / "chest-sim/examples/2.png")
    expect(page.locator("[data-variable=sex] .source")).to_contain_text("inferred")
    refused = {"status": 400, "json": {"error": "the uploaded file: constant image"}}
    page.route("**/api/upload?model=coronary-quickstart", lambda route: route.fulfill(**refused))  # type: ignore[arg-type]
    page.select_option("#model", "coronary-quickstart")
    expect(page.get_by_role("alert")).to_contain_text("the uploaded file: constant image")
    expect(page.locator("#viewer")).to_be_hidden()
    page.locator(".example").first.click()
    expect(page.locator("[data-node=lumen_area] .value")).to_contain_text("mm")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_nothing_is_saved_before_there_is_an_answer(page: Page) -> None:
    buttons = page.locator("[data-format]:not([hidden])")

    def enabled() -> list[bool]:
        return [button.is_enabled() for button in buttons.all()]

    assert enabled() == [False] * 3
    set_value(page, "heart_area", "1900")
    expect(buttons.first).to_be_enabled()
    expect(page.locator("#draws canvas")).to_have_count(5)  # no question is under way
    held: list[Route] = []
    page.route("**/api/question", lambda route: held.append(route))
    with page.expect_request("**/api/question"):
        page.locator(".example").nth(1).click()
    assert enabled() == [False] * 3
    first = page.locator("[data-node=heart_area] .value").text_content() or ""
    held[0].continue_()
    page.unroute("**/api/question")
    expect(page.locator("[data-node=heart_area] .value")).not_to_have_text(first)
    set_value(page, "heart_area", "1900")
    expect(buttons.first).to_be_enabled()
    page.select_option("#model", "coronary-quickstart")
    expect(page.locator("[data-node=lumen_area] .value")).to_contain_text("mm")
    assert enabled() == [False] * 3


def test_draws(page: Page) -> None:
    set_value(page, "heart_area", "1900")
    expect(page.locator("#draws canvas")).to_have_count(5)  # this model is from before there were bands
    expect(page.locator("#draws")).not_to_have_class(re.compile("old"))
    assert page.locator("#draws canvas").last.get_attribute("aria-label") == "Spread (SD)"
    page.uncheck("#with-draws")
    expect(page.locator("#draws canvas")).to_have_count(0)


def test_downloads(page: Page, tmp_path: Path) -> None:
    set_value(page, "heart_area", "1900")
    files: dict[str, Any] = {}
    for format in ("png", "dcm", "json"):
        with page.expect_download() as download:
            page.click(f"[data-format={format}]")
        assert download.value.suggested_filename == f"counterfactual.{format}"
        files[format] = tmp_path / f"counterfactual.{format}"
        download.value.save_as(files[format])
    record = json.loads(files["json"].read_text())
    assert record["do"] == ["heart_area=1900.0"]
    assert round(record["variables"]["heart_area"]["obtained"]) == obtained(page, "heart_area")
    with Image.open(files["png"]) as file:
        assert file.info["Description"] == SYNTHETIC
    assert inspect(files["png"]) == inspect(files["dcm"]) == record


def test_other_models(page: Page) -> None:
    page.select_option("#model", "coronary-quickstart")
    expect(page.locator("[data-node=lumen_area] .value")).to_contain_text("mm")
    boxes = [page.locator(f"[data-pane={kind}]").bounding_box() for kind in ("before", "after", "difference")]
    tops = [box["y"] for box in boxes if box]
    assert tops == sorted(set(tops))  # wide images are stacked
    set_value(page, "calcified_plaque_area", "0")
    expect(page.locator("[data-node=calcified_plaque_area] .value")).to_contain_text("0.0")
    page.select_option("#model", "jsrt")
    expect(page.locator("#invitation")).to_be_visible()
    page.set_input_files("#file", MODELS / "chest-sim/examples/1.png")
    expect(page.locator("[data-node=heart_area] .value")).to_contain_text("px")


def test_models_changed_in_a_hurry(page: Page) -> None:
    set_value(page, "heart_area", "1900")
    for name in ("coronary-quickstart", "chest-sim", "coronary-quickstart"):
        page.select_option("#model", name)
    expect(page.locator("[data-node=lumen_area] .value")).to_contain_text("mm")
    page.wait_for_timeout(1000)  # for late answers of the first model, which would complain
    expect(page.locator("[data-pane=after]")).to_be_visible()
    assert page.locator("[data-node]").count() == 3


WIDER = """
[...document.querySelectorAll("main, main *")].filter(
  (one) => ["auto", "scroll"].includes(getComputedStyle(one).overflowX) && one.scrollWidth > one.clientWidth,
).map((one) => one.id || one.className)
"""
"""What has to be moved to the side to be seen."""


def test_nothing_is_wider_than_its_place(page: Page) -> None:
    for name, node in (("retina-sim", "cup_area"), ("coronary-thirds", "lumen_area"), ("chest-sim", "heart_area")):
        page.select_option("#model", name)
        expect(page.locator(f"[data-node={node}] .value")).to_have_text(re.compile(r"\d"))
        assert page.evaluate(WIDER) == []


def test_on_a_telephone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("[data-variable=heart_area] input[type=range]").scroll_into_view_if_needed()
    box = page.locator("[data-pane=after]").bounding_box()
    assert box is not None
    assert 0 <= box["y"] < 844  # the picture stays in sight
