"""The route table: each route names the scope that it needs, and asks for it before its handler runs."""

from __future__ import annotations

import json

import pytest
from starlette.types import Message

from hive.api import llm, progress
from hive.api.app import ROUTES
from hive.api.routes import ApiRoute, StreamRoute
from hive.auth.principal import NOBODY, PRINCIPAL, Principal
from hive.auth.scopes import SCOPES, with_implied
from hive.errors import InsufficientScope

pytestmark = pytest.mark.anyio

#: What may be asked by everybody: said here once more, so that a slip in the table is noticed. A session is ended by
#: its cookie, a dead one too.
OPEN = {
    *(
        ("GET", path)
        for path in (
            "/v1/health",
            "/healthz",
            "/readyz",
            "/openapi.json",
            "/docs",
            "/",
            "/page/{name}",
        )
    ),
    ("DELETE", "/v1/session"),
}
#: What only hands on to a stream or a page what its key may do.
HANDS_ON = {("POST", "/v1/tickets"), ("POST", "/v1/session")}
#: What only reads, and says by its body what.
READS_BY_BODY = {("POST", "/api/show")}
#: Every method and path with the scope that it needs.
NEEDS = {(method, route.path): route.needs for route in ROUTES for method in (route.methods or set()) - {"HEAD"}}


def test_every_route_names_its_scope_and_only_the_known_ones_are_open() -> None:
    assert {route for route, needs in NEEDS.items() if needs is None} == OPEN
    assert all(needs in SCOPES for route, needs in NEEDS.items() if route not in OPEN)


def test_whatever_changes_something_needs_more_than_read() -> None:
    changing = {
        route: needs
        for route, needs in NEEDS.items()
        if route[0] != "GET" and route not in OPEN | HANDS_ON | READS_BY_BODY
    }
    assert len(changing) >= 10
    assert set(changing.values()) <= {"pull", "run", "admin"}


def test_the_streams_are_in_the_table() -> None:
    streams = {route.answer: route.needs for route in ROUTES if isinstance(route, StreamRoute)}
    assert streams == {
        progress.progress: "read",
        progress.progress_of_many: "read",
        llm.loading: "read",
        llm.infer: "run",
        **dict.fromkeys(llm.OPENAI.values(), "run"),
    }


@pytest.mark.parametrize(
    "route",
    [route for route in ROUTES if isinstance(route, ApiRoute)],
    ids=lambda route: f"{sorted(route.methods)[-1]} {route.path}",
)
async def test_no_handler_runs_for_a_principal_without_the_scope(route: ApiRoute) -> None:
    lacking = [Principal("k", "o", with_implied(set(SCOPES) - {"admin", route.needs})), NOBODY]
    for principal in lacking if route.needs is not None else []:
        with pytest.raises(InsufficientScope) as refused:
            await route.handle({"type": "http", PRINCIPAL: principal}, _nothing, _never)
        assert refused.value.details["needs"] == route.needs


async def _nothing() -> Message:
    raise AssertionError("nothing is read")


async def _never(message: Message) -> None:
    raise AssertionError(f"nothing is sent: {json.dumps(message, default=str)}")
