"""The OpenAPI document says all that the server answers, and nothing else; the page at /docs shows it."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import requests
from jsonschema import ValidationError
from openapi_spec_validator import validate as validate_document

import hive.api
from hive import errors
from hive.api import reference
from hive.api.app import ROUTES
from hive.api.openapi.document import Entry, entries, errors_of, openapi
from hive.api.openapi.field_notes import NOTES
from hive.api.openapi.operation_table import OPERATIONS
from hive.api.openapi.schemas import wire_types
from hive.api.routes import ApiRoute
from hive.error_codes import all_errors
from hive.errors import HiveError
from tests.support.openapi import check_answer, document, operation_at, validate

#: What the client says, or a process at its start, or the server about an address that it does not have, or a worker of
#: a model, whose answers are passed on.
NOT_OF_A_ROUTE = {
    *(errors.HiveError, errors.ServerUnreachable, errors.CannotListen, errors.MethodNotAllowed, errors.InvalidFields),
}
#: An answer of several lines goes on until the next request.
RECORDED = re.split(r"\n(?=[A-Z]+ /)", Path(__file__).with_name("samples.txt").read_text().rstrip("\n"))
ENTRIES = entries(ROUTES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.key)
def test_every_route_is_in_the_document_and_says_what_it_takes_and_gives(entry: Entry) -> None:
    operation = document()["paths"][entry.path][entry.method.lower()]
    assert entry.key in OPERATIONS, (
        f"Add {entry.key!r} to OPERATIONS in hive/api/openapi/operation_table.py: a summary, its answers by status, "
        "its body, its parameters, and the errors that it may end with."
    )
    assert operation["summary"] == OPERATIONS[entry.key].summary
    named = set(re.findall(r"{(\w+)}", entry.path))
    assert named == {found["name"] for found in operation.get("parameters", []) if found["in"] == "path"}


def test_nothing_is_described_that_is_no_route() -> None:
    assert set(OPERATIONS) == {entry.key for entry in ENTRIES}


def test_a_route_that_nobody_described_is_in_the_document_all_the_same() -> None:
    async def handler(request: Any) -> Any:
        """`GET /v1/new/{name}`: what is new."""

    made = openapi([ApiRoute("GET", "/v1/new/{name}", handler, "read")])
    operation = made["paths"]["/v1/new/{name}"]["get"]
    assert operation["description"] == "What is new."
    assert [found["name"] for found in operation["parameters"]] == ["name"]
    assert operation["security"] == [{"bearer": ["read"]}, {"session": ["read"]}]
    validate_document(made)


def test_it_is_valid_openapi_and_what_is_not_would_be_found() -> None:
    found = document()
    validate_document(found)
    assert found["openapi"].startswith("3.1.")
    with pytest.raises(ValidationError):
        validate_document({**found, "paths": {"/v1/new": {"get": {"responses": "all"}}}})


def test_every_route_has_its_scope_in_it() -> None:
    for entry in ENTRIES:
        operation = document()["paths"][entry.path][entry.method.lower()]
        scopes = {scope for found in operation.get("security", []) for named in found.values() for scope in named}
        assert scopes == ({entry.needs} if entry.needs else set()), entry.key


@pytest.mark.parametrize("name", sorted(wire_types()))
def test_every_field_of_the_wire_types_is_in_it(name: str) -> None:
    kind = wire_types()[name]
    found = [
        schema
        for component, schema in document()["components"]["schemas"].items()
        if component == name or schema.get("title", "").startswith(f"{name}[")
    ]
    assert found, f"{name} is in no route's body or answer: name it in hive/api/openapi/operation_table.py"
    for schema in found:
        assert set(kind.__struct_encode_fields__) <= set(schema["properties"])


def test_fields_that_are_explained_exist() -> None:
    for name, notes in NOTES.items():
        assert set(notes) <= set(wire_types()[name].__struct_encode_fields__), name


def test_every_error_code_is_some_routes_and_has_its_status() -> None:
    said = {error for entry in ENTRIES for error in errors_of(entry, OPERATIONS[entry.key])}
    assert said | NOT_OF_A_ROUTE == set(all_errors()), "name it where it may end a route, in OPERATIONS"
    by_code: dict[str, type[HiveError]] = {kind.code: kind for kind in reversed(all_errors()[1:])}
    for name, response in document()["components"]["responses"].items():
        status, *codes = name.removesuffix(".text").split(".")
        assert {by_code[code].status for code in codes} == {int(status)}
        assert all(f"`{code}`: {by_code[code]().message}" in response["description"] for code in codes)


def test_every_word_that_a_handler_reads_from_the_query_is_in_it() -> None:
    sources = [path.read_text() for path in Path(hive.api.__file__).parent.glob("*.py")]
    read = {
        word
        for source in sources
        for word in re.findall(r'(?:query|query_params)(?:\.get\(|\[)"(\w+)"|_read_flag\(request, "(\w+)"', source)
    }
    schemes = document()["components"]["securitySchemes"].values()
    named = {scheme["name"] for scheme in schemes if scheme.get("in") == "query"} | {
        parameter["name"]
        for methods in document()["paths"].values()
        for operation in methods.values()
        for parameter in operation.get("parameters", [])
    }
    assert {first or second for first, second in read} <= named
    assert ("", "purge") in read


@pytest.mark.parametrize("answer", RECORDED, ids=lambda answer: " ".join(answer.split(" ", 2)[:2]))
def test_every_recorded_answer_is_as_its_schema_says(answer: str) -> None:
    method, address, status, media_type, body = answer.split(" ", 4)
    check_answer(operation_at(method, address.partition("?")[0]), int(status), media_type, body)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("Started", {"download_id": "x", "local_path": None}),
        ("Started", {"download_id": 7, "local_path": None, "joined": False}),
        ("Started", {"download_id": "x", "local_path": None, "joined": False, "more": 1}),
        ("Event", {"stage": "queued"}),
        ("Event", {"stage": "complete"}),
        ("DownloadRequest", {"model_ref": ""}),
        ("DownloadRequest", {"model_ref": "hf:a/b", "modelref": "x"}),
        ("DownloadPage", {"object": "list", "data": [{}], "next_cursor": None}),
    ],
)
def test_what_is_not_as_the_schema_says_is_noticed(name: str, wrong: object) -> None:
    with pytest.raises(ValidationError):
        validate({"$ref": f"#/components/schemas/{name}"}, wrong)


# -- as they are served ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "media_type"), [("/openapi.json", "application/json"), ("/docs", "text/html; charset=utf-8")]
)
def test_both_are_served_with_an_etag_that_spares_the_body(api: str, path: str, media_type: str) -> None:
    whole = requests.get(api + path, timeout=60)
    assert (whole.status_code, whole.headers["content-type"]) == (200, media_type)
    assert whole.headers["cache-control"] == "no-cache"
    assert 0 < len(whole.content) <= reference.MAX_BYTES
    for tags in (whole.headers["etag"], f'"other", W/{whole.headers["etag"]}', "*"):
        again = requests.get(api + path, headers={"If-None-Match": tags}, timeout=60)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", whole.headers["etag"])
    other = requests.get(api + path, headers={"If-None-Match": '"other"'}, timeout=60)
    assert (other.status_code, other.content) == (200, whole.content)
    head = requests.head(api + path, timeout=60)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", whole.headers["etag"])


def test_the_document_that_is_served_is_that_of_the_route_table(api: str) -> None:
    assert requests.get(f"{api}/openapi.json", timeout=60).json() == document()


def test_nothing_of_it_is_imported_before_it_is_asked_for() -> None:
    program = (
        "import sys, hive.server, hive.cli.up; print([m for m in sys.modules if m.startswith('hive.api.openapi')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


class Page(HTMLParser):
    """What stands in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "id" and value is not None:
                self.ids.append(value)
            if name == "href" and value is not None:
                self.links.add(value)


def test_the_page_shows_every_operation_and_schema_and_leads_nowhere_else(api: str) -> None:
    answer = requests.get(f"{api}/docs", timeout=60)
    page = Page(answer.text)
    operations = {
        operation["operationId"] for methods in document()["paths"].values() for operation in methods.values()
    }
    assert operations | set(document()["components"]["schemas"]) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert {link for link in page.links if not link.startswith("#")} == {"openapi.json"}
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_the_page_may_load_and_run_nothing(api: str) -> None:
    answer = requests.get(f"{api}/docs", timeout=60)
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["style-src"].startswith("'sha256-")
    assert answer.headers["x-content-type-options"] == "nosniff"
    page = Page(answer.text)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "form", "base"}
    assert not {name for name in page.attributes if name.startswith("on") or name in ("style", "src")}


def test_what_the_page_shows_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    from hive.api.openapi.reference_page import render

    made = openapi(ROUTES)
    made["info"]["description"] = "<img src=x onerror=alert(1)> `<b>`"
    made["components"]["schemas"]["Room"]["properties"]["<i>"] = {"type": "string", "description": "<script>"}
    page = Page(render(made)[0].decode())
    assert not page.tags & {"img", "script", "i"}


def test_handlers_say_what_they_do() -> None:
    for entry in ENTRIES:
        assert inspect.getdoc(entry.answer), entry.key
