"""The page of a blinded study in a real browser: answers are given, changed, kept, and saved as a table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from segcft.cli import main
from segcft.pipeline.blinded import read_ratings
from segcft.pipeline.run import Run
from tests.conftest import MakeOnce
from tests.test_app_browser import CHROMIUM, FLAGS, PATIENCE

CASES = 12

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt install chromium)"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def study(made_once: MakeOnce, small_run: Run) -> Path:
    return made_once(
        "blinded", lambda folder: main(["readers", str(small_run.folder), str(folder), "--cases", str(CASES)])
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, study: Path) -> Iterator[Page]:
    """The file itself. It must not complain, nor ask anybody for anything."""
    page = browser.new_page(accept_downloads=True)
    page.set_default_timeout(PATIENCE)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    address = (study / "index.html").as_uri()
    page.on(
        "request",
        lambda one: complaints.append(one.url) if not one.url.startswith((address, "data:", "blob:")) else None,
    )
    page.goto(address)
    yield page
    page.close()
    assert not complaints


def begin(page: Page, name: str) -> None:
    page.fill("#reader", name)
    page.click("#begin")


def shown(page: Page) -> str:
    (code,) = page.eval_on_selector_all("#cases img:not([hidden])", "all => all.map(one => one.dataset.code)")
    return str(code)


def test_a_reader_answers_all_and_what_is_saved_is_read(page: Page, small_run: Run, tmp_path: Path) -> None:
    assert page.is_hidden("#cases")  # before there is a name
    page.click("#begin")
    assert page.is_hidden("#cases")
    begin(page, "Dr. A, radiology")
    said = {}
    for number in range(CASES):
        said[shown(page)] = number % 4
        if number % 2:
            page.keyboard.press(str(number % 4 + 1))
        else:
            page.click(f"#levels button:nth-child({number % 4 + 1})")
    assert page.is_visible("#done")
    page.click("#back")
    said[shown(page)] = 0
    page.keyboard.press("1")  # another mind
    page.reload()  # nothing is lost, and another reader sees nothing of it
    begin(page, "Dr. B")
    assert page.text_content("#place") == f"Image 1 of {CASES}"
    page.reload()
    begin(page, "Dr. A, radiology")
    assert page.is_visible("#done")
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "answers.csv")
    ratings, counts = read_ratings(small_run, [tmp_path / "answers.csv"])
    assert ratings.readers == ("Dr. A, radiology",)
    assert sum(counts.values()) == CASES
    (key,) = (small_run.folder / "readers").iterdir()
    codes = [case["code"] for case in json.loads(key.read_text())["cases"]]
    assert ratings.levels[0].tolist() == [said[code] for code in codes]


def test_nobody_goes_on_without_an_answer(page: Page) -> None:
    begin(page, "Dr. C")
    assert page.is_disabled("#back")
    assert page.is_disabled("#next")
    first = shown(page)
    page.keyboard.press("ArrowRight")
    assert shown(page) == first
    page.keyboard.press("2")
    assert shown(page) != first
    page.keyboard.press("ArrowLeft")
    assert shown(page) == first
    assert page.get_attribute("#levels button:nth-child(2)", "aria-pressed") == "true"
    assert page.is_enabled("#next")
