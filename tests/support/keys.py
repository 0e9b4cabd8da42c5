"""Servers with API keys, and requests that show one."""

from __future__ import annotations

import http.client
import itertools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from hive.auth.keys import KeyFile
from hive.auth.scopes import Scope
from tests.support.waiting import DEADLINE_S, wait_for

#: Addresses of the loopback, one for each request: a limit by address is not what most tests are about.
_SOURCES = itertools.count(1)


class Served(Protocol):
    """A server at an address."""

    url: str


class Answer(NamedTuple):
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The error's code, in hive's own form or that of Ollama's clients; "" where it is none."""
        try:
            said = json.loads(self.body)
            return str((said if isinstance(said["error"], str) else said["error"])["code"])
        except (ValueError, KeyError, TypeError):
            return ""

    @property
    def message(self) -> str:
        """What the error says, in either form."""
        said = json.loads(self.body)["error"]
        return said if isinstance(said, str) else str(said["message"])

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    server: Served,
    method: str,
    path: str,
    key: str | None = None,
    *,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    source: str | None = None,
    timeout_s: float = DEADLINE_S,
) -> Answer:
    """One request, from an address of its own unless `source` says another."""
    number = next(_SOURCES)
    source = source or f"127.1.{number // 250 % 250}.{number % 250 + 1}"
    connection = http.client.HTTPConnection(
        "127.0.0.1", int(server.url.rpartition(":")[2]), timeout=timeout_s, source_address=(source, 0)
    )
    sent = {**({"Authorization": f"Bearer {key}"} if key is not None else {}), **(headers or {})}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), sent)
        answer = connection.getresponse()
        # A stream has no end: its head is what was asked for.
        is_stream = answer.headers.get("content-type") == "text/event-stream"
        data = b"" if is_stream else answer.read()
        return Answer(answer.status, {name.lower(): value for name, value in answer.headers.items()}, data)
    finally:
        connection.close()


def make(file: KeyFile, *scopes: Scope, owner: str = "", expires_in_s: float | None = None) -> str:
    """A new key."""
    return file.add("a test", scopes or ("read",), owner=owner, expires_in_s=expires_in_s).text


def wait_until_taken(server: Served, key: str) -> None:
    """Until the server knows this key."""
    wait_for(lambda: ask(server, "GET", "/v1/models", key).status in (200, 403), "the key is not taken")


def download(server: Served, key: str, name: str = "org/name") -> str:
    """The id of a download that waits for a worker; there is none."""
    answer = ask(server, "POST", "/v1/models/download", key, body={"model_ref": f"hf:{name}"})
    assert answer.status == 202, answer
    return str(answer.json["download_id"])
