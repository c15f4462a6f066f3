"""Models by their names on the Hugging Face Hub, from a small hub of our own on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

import segcft
from refused import refused
from segcft.errors import Code, DataError, RunError
from segcft.export.hub import write_for_hub
from segcft.pipeline.publish import publish
from segcft.pipeline.run import Run
from tests.conftest import MakeOnce

NAME, COMMIT = "somebody/small-chest", "1234567890" * 4
MODELS = Path(__file__).parents[1] / "models"


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of a hub: what is in a model, and its files."""

    def __init__(self, folder: Path, *given: object) -> None:
        self.folder = folder
        super().__init__(*given)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        resolve = f"/{NAME}/resolve/{COMMIT}/"
        headers = {"X-Repo-Commit": COMMIT}
        if path.startswith(f"/api/models/{NAME}"):
            names = [one.relative_to(self.folder).as_posix() for one in sorted(self.folder.rglob("*")) if one.is_file()]
            names.append("pickled.pt")  # which nobody is to ask for
            said: object = [{"type": "file", "path": name, "size": 1, "oid": name} for name in names]
            if "/tree/" not in path:
                said = {"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            self._send(200, json.dumps(said).encode(), {"Content-Type": "application/json"}, with_body)
        elif path.startswith(resolve) and (file := self.folder / path.removeprefix(resolve)).is_file():
            body = file.read_bytes()
            self._send(200, body, headers | {"ETag": f'"{hashlib.sha1(body).hexdigest()}"'}, with_body)
        else:
            self._send(404, b"", headers | {"X-Error-Code": "RepoNotFound"}, with_body)

    def _send(self, code: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@pytest.fixture(scope="module")
def published(small_run: Run, made_once: MakeOnce) -> Path:
    return made_once("for-hub", lambda folder: publish(small_run, folder, card="Simulated people."))


@pytest.fixture
def environment(published: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Of a process whose hub is ours, which has ``published``."""
    write_for_hub(Run(published), tmp_path / "layout", NAME, "apache-2.0")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, tmp_path / "layout"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    own = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "cache")}
    yield {**os.environ, **own, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    server.shutdown()
    server.server_close()


def asked(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    said = [sys.executable, "-m", "segcft", *command]
    return subprocess.run(said, env=environment, capture_output=True, text=True, check=False)


def test_a_model_answers_by_its_name(environment: dict[str, str], published: Path, tmp_path: Path) -> None:
    """As it does from its folder; and again when the hub is gone, as it is in the cache then."""
    image = next((published / "examples").glob("*.png"))
    area = Run(published).study.measured[0]
    out = tmp_path / "answer.json"
    for more in ({}, {"HF_HUB_OFFLINE": "1"}):
        out.unlink(missing_ok=True)
        done = asked(
            environment | more, "counterfactual", f"hf://{NAME}", str(image), "--do", f"{area}=+5%", "--out", str(out)
        )
        assert done.returncode == 0, done.stderr
        own = segcft.load(published).counterfactual(image, do={area: "+5%"})
        assert json.loads(out.read_text())["variables"][area]["after"] == own.record["variables"][area]["after"]
    assert not list(tmp_path.glob("cache/**/pickled.pt"))


def test_a_model_that_is_not_there_is_an_error(environment: dict[str, str]) -> None:
    code = """\
import segcft
from segcft.errors import DataError

try:
    segcft.load("hf://somebody/else")
except DataError as error:
    print(error.code)
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == Code.MISSING
    assert asked(environment, "counterfactual", "hf://somebody/else", "x.png", "--do", "a=1").returncode == 1


@pytest.mark.parametrize("name", ["hf://", "hf://model", "hf://user/a/b", "hf://../etc", "hf://user/mo del"])
def test_names_that_cannot_be_are_refused(name: str) -> None:
    with refused(DataError, Code.INVALID, name):
        segcft.load(name)


def test_a_card_begins_with_what_the_hub_reads(published: Path, tmp_path: Path) -> None:
    write_for_hub(Run(published), tmp_path / "layout", NAME, "cc-by-sa-4.0")
    text = (tmp_path / "layout" / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert (head["license"], head["library_name"]) == ("cc-by-sa-4.0", "segcft")
    assert f'segcft.load("hf://{NAME}")' in text
    assert "FOLDER" not in text
    again = tmp_path / "layout"
    write_for_hub(Run(again), again, NAME, "other")  # in its place
    assert (again / "README.md").read_text().count("---\n") == text.count("---\n")
    segcft.load(again)


def test_every_model_that_comes_along_can_be_handed_on(tmp_path: Path) -> None:
    for model in sorted(MODELS.iterdir()):
        write_for_hub(Run(model), tmp_path / model.name, f"segcft/{model.name}", "other")
        assert "FOLDER" not in (tmp_path / model.name / "README.md").read_text()


def test_a_run_is_no_model_of_the_hub(small_run: Run, published: Path, tmp_path: Path) -> None:
    with refused(RunError, Code.INVALID, small_run.folder):
        write_for_hub(small_run, tmp_path / "layout", NAME, "other")
    with refused(RunError, Code.MISSING, "--licence"):
        write_for_hub(Run(published), tmp_path / "layout", NAME, "")
    with refused(RunError, Code.INVALID, "--hub"):
        write_for_hub(Run(published), tmp_path / "layout", "no-owner", "other")
    assert not (tmp_path / "layout").exists()
