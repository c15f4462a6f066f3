"""The document of the server's interface: it holds what the server does, and nothing else."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from starlette.routing import Route
from starlette.testclient import TestClient

import segcft.app
from segcft.app import openapi
from segcft.app.catalogue import Catalogue
from segcft.app.server import make_app
from tests.conftest import MODELS
from tests.test_app import OCTETS, picture

PAGE = {"/", "/static/{name}"}
"""What is for browsers alone."""
LEFT = 499
"""The status of what nobody is there any more to read."""


@pytest.fixture
def document(client: TestClient) -> dict[str, Any]:
    return dict(client.get(openapi.PLACE).json())


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def resolved(document: dict[str, Any], node: Any) -> Any:
    """``node`` with what it refers to in its place."""
    if isinstance(node, list):
        return [resolved(document, one) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        found: Any = document
        for key in node["$ref"].removeprefix("#/").split("/"):
            found = found[key]
        return resolved(document, found)
    return {key: resolved(document, one) for key, one in node.items()}


def check(document: dict[str, Any], path: str, method: str, response: Any) -> None:
    """Check that what was answered is as the document says of its operation."""
    told = resolved(document, document["paths"][path][method]["responses"])
    assert str(response.status_code) in told, f"{path}: {response.status_code}"
    content = told[str(response.status_code)]["content"]
    kind = response.headers["content-type"].partition(";")[0]
    assert kind in content
    schema = content[kind]["schema"]
    if kind == "application/json" and schema.get("format") != "binary":
        Draft202012Validator(schema).validate(response.json())


def test_it_has_every_route_and_no_other(catalogue: Catalogue, document: dict[str, Any]) -> None:
    routes = [route for route in make_app(catalogue).routes if isinstance(route, Route)]
    served = {(route.path, method.lower()) for route in routes for method in (route.methods or ()) if method != "HEAD"}
    told = {(path, method) for path, method, _ in operations(document)}
    assert told == {(path, method) for path, method in served if path not in PAGE}
    assert {path for path, _ in served} >= PAGE


def test_it_is_whole(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    resolved(document, document["paths"])  # or a reference leads nowhere
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for path, _, operation in operations(document):
        places = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
        assert places == {part[1:-1] for part in path.split("/") if part.startswith("{")}


def test_the_table_of_the_server_is_in_step(document: dict[str, Any]) -> None:
    table = " ".join(str(ast.get_docstring(ast.parse(source("server.py")))).split())
    for path, method, operation in operations(document):
        for parameter in operation["parameters"]:
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", parameter["name"].upper())
        assert f"``{method.upper()} {path}" in table


def source(name: str) -> str:
    return (Path(str(segcft.app.__file__)).parent / name).read_text(encoding="utf-8")


def test_its_examples_are_answered_as_it_says(client: TestClient, document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        values = {one["name"]: one["example"] for one in operation["parameters"]}
        query = {one["name"]: one["example"] for one in operation["parameters"] if one["in"] == "query"}
        place, content = path.format(**values), operation.get("requestBody", {}).get("content", {})
        if "application/json" in content:
            example = content["application/json"]["example"]
            Draft202012Validator(resolved(document, content["application/json"]["schema"])).validate(example)
            response = client.post(place, json=example)
        elif content:
            response = client.post(place, params=query, content=picture(), headers=OCTETS)
        else:
            response = client.get(place)
        assert response.status_code == 200, response.text
        check(document, path, method, response)


def test_answers_of_every_model_are_as_it_says(
    client: TestClient, document: dict[str, Any], question: dict[str, Any]
) -> None:
    for name in ("chest-sim", "coronary-quickstart", "jsrt"):
        check(document, "/api/models/{name}", "get", client.get(f"/api/models/{name}"))
    for asked in (question, question | {"draws": 2}, question | {"do": {}}):
        check(document, "/api/question", "post", client.post("/api/question", json=asked))


def test_an_example_of_every_model_is_answered() -> None:
    for name in ("coronary-quickstart", "chest-sim-borders", "hippocampus"):
        client = TestClient(make_app(Catalogue([MODELS / name])), base_url="http://127.0.0.1:8000")
        paths = client.get(openapi.PLACE).json()["paths"]
        file = next((MODELS / name / "examples").glob("1.*")).read_bytes()
        query = {one["name"]: one["example"] for one in paths["/api/upload"]["post"]["parameters"]}
        assert client.post("/api/upload", params=query, content=file, headers=OCTETS).status_code == 200
        content = paths["/api/full"]["post"]["requestBody"]["content"]
        assert client.post("/api/full", json=content["application/json"]["example"]).status_code == 200


@pytest.mark.parametrize(
    ("path", "asked", "status"),
    [
        ("/api/question", {"do": {"hart_area": 1}}, 400),
        ("/api/question", {"model": "other"}, 404),
        ("/api/question", {"path": "/etc/passwd"}, 422),
        ("/api/file/{format}", {"do": {}}, 422),
        ("/api/full", {"file": "no base64!"}, 422),
        ("/api/full", {"file": "AAAA"}, 400),
        ("/api/full", {"millimetres": [1.0]}, 400),
        ("/api/full", {"millimetres": [1.0, 1.0, 1.0]}, 400),
        ("/api/full/{format}", {"model": "other"}, 404),
        ("/api/full/{format}", {"do": {}}, 422),
    ],
)
def test_what_is_refused_is_told(
    client: TestClient, document: dict[str, Any], path: str, asked: dict[str, Any], status: int
) -> None:
    example = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
    response = client.post(path.format(format="png"), json=example | asked)
    assert response.status_code == status, response.text
    check(document, path, "post", response)


def test_lengths_that_are_none_are_told(client: TestClient, document: dict[str, Any]) -> None:
    query = {"model": "chest-sim", "millimetres": "0.7,wide"}
    response = client.post("/api/upload", params=query, content=picture(), headers=OCTETS)
    assert response.status_code == 422
    check(document, "/api/upload", "post", response)


def test_what_is_no_question_is_told(client: TestClient, document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        place = path.format(**{one["name"]: "other" for one in operation["parameters"]})
        refused = [client.request(method, place, headers={"Origin": "http://evil.example"})]
        if method == "post":
            refused += [client.post(place, content=b"x", headers={"Content-Type": "text/plain"})]
            kind = next(iter(operation["requestBody"]["content"]))
            headers = {"Content-Type": kind, "Content-Length": str(10**9)}
            refused += [client.post(place, content=b"x", headers=headers)]
            refused += [client.post(place, content=b"{}", headers={"Content-Type": kind})]
        for response in refused:
            assert response.status_code >= 400
            check(document, path, method, response)


def test_every_status_of_the_code_is_told(document: dict[str, Any]) -> None:
    given = set()
    for file in Path(str(segcft.app.__file__)).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "RefusedError"
            if named and isinstance(node.args[0], ast.Constant):
                given.add(str(node.args[0].value))
    told = {status for _, _, operation in operations(document) for status in operation["responses"]}
    assert {*given, "403", "500", "400"} == told - {"200"}
    assert str(LEFT) in told


def test_a_program_may_ask_without_an_origin(client: TestClient, question: dict[str, Any]) -> None:
    headers = {"User-Agent": "Python-urllib/3", "Content-Type": "application/json"}
    assert client.post("/api/question", content=json.dumps(question), headers=headers).status_code == 200
