"""Credentials from a function: asked at each connection, told by their errors' class alone, never shown."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from redis import CredentialProvider

from hive.redis import credentials
from hive.redis import probe as redis_probe
from hive.redis.client import connect, connection_options
from hive.redis.credentials import HookProvider
from hive.redis.errors import ConnectError, describe
from hive.settings import Settings, SettingsError
from tests.support.redis_servers import PASSWORD, RedisServer, redis_server

SPEC = "passwords_of_tests:ask"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The operator's module; tests put what they like into it."""
    made = ModuleType("passwords_of_tests")
    monkeypatch.setitem(sys.modules, "passwords_of_tests", made)
    return made


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path, password=PASSWORD) as made:
        yield made


class Provider(CredentialProvider):
    def get_credentials(self) -> tuple[str, str]:
        return "u", "p"


@pytest.mark.parametrize(
    ("ask", "username", "given"),
    [
        (lambda: "p", None, ("p",)),
        (lambda: "p", "from-url", ("from-url", "p")),
        (lambda: ("u", "p"), "from-url", ("u", "p")),
        (lambda: ["p"], None, ("p",)),
        (Provider(), None, ("u", "p")),
        (Provider, None, ("u", "p")),
        (lambda: Provider(), None, ("u", "p")),
    ],
)
def test_what_it_may_give(module: ModuleType, ask: Any, username: str | None, given: tuple[str, ...]) -> None:
    module.ask = ask  # type: ignore[attr-defined]
    assert HookProvider(SPEC, username).get_credentials() == given


def fail() -> str:
    raise ValueError(f"the token {PASSWORD} has expired")


@pytest.mark.parametrize(
    "ask", [fail, lambda: None, lambda: "", lambda: b"p", lambda: ("u", ""), lambda: ("a", "b", "c"), 7, lambda x: x]
)
def test_what_it_must_not_give_is_refused_and_not_shown(module: ModuleType, ask: Any) -> None:
    module.ask = ask  # type: ignore[attr-defined]
    with pytest.raises(ConnectError) as refused:
        HookProvider(SPEC).get_credentials()
    assert PASSWORD not in str(refused.value)
    assert refused.value.__cause__ is None
    assert "HIVE_REDIS_CREDENTIALS" in describe(refused.value)
    assert describe(refused.value).endswith("(CREDENTIALS).")


def test_one_that_does_not_answer_ends_the_start(
    module: ModuleType, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A metadata service that cannot be reached: nobody would know what is waited for."""
    hangs = threading.Event()
    module.ask = hangs.wait  # type: ignore[attr-defined]
    monkeypatch.setattr(credentials, "HOOK_TIMEOUT_S", 0.1)
    settings = Settings.from_env({"REDIS_URL": f"redis://localhost:{server.port}", "HIVE_REDIS_CREDENTIALS": SPEC})
    try:
        with pytest.raises(SettingsError, match=r"has not answered for 0\.1 s \(CREDENTIALS\)"):
            redis_probe.report(settings)
    finally:
        hangs.set()


@pytest.mark.parametrize("spec", ["no.such.module:x", "passwords_of_tests:missing", "os", "os:", "os:path..x", "a b:c"])
def test_what_cannot_be_loaded_ends_the_start(module: ModuleType, server: RedisServer, spec: str) -> None:
    settings = Settings.from_env(
        {"REDIS_URL": f"redis://localhost:{server.port}", "HIVE_REDIS_CREDENTIALS": spec, "HOME": "/nonexistent"}
    )
    with pytest.raises(SettingsError, match=r"\(CREDENTIALS\)"):
        redis_probe.report(settings)


def test_it_is_asked_for_each_connection_and_never_shown(module: ModuleType, server: RedisServer) -> None:
    passwords = [PASSWORD]
    asked = []

    def ask() -> str:
        asked.append(passwords[-1])
        return passwords[-1]

    module.ask = ask  # type: ignore[attr-defined]
    settings = Settings.from_env({"REDIS_URL": f"redis://localhost:{server.port}", "HIVE_REDIS_CREDENTIALS": SPEC})
    redis_probe.report(settings)
    address = settings.redis_address
    assert address is not None
    with connect(address) as client, server.client() as admin:
        assert client.ping()
        before = len(asked)
        assert client.ping()
        assert len(asked) == before, "a connection that is there stays"
        passwords.append("another")
        admin.config_set("requirepass", "another")
        assert client.ping()
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal")
        assert client.ping()
        assert asked[before:] == ["another"]
        for text in (repr(client), repr(client.connection_pool), repr(address), repr(settings)):
            assert "another" not in text
            assert PASSWORD not in text
    assert PASSWORD not in repr(connection_options(address))


def test_a_password_in_the_url_beside_it_is_refused() -> None:
    with pytest.raises(SettingsError, match="only one of them counts") as refused:
        Settings.from_env({"REDIS_URL": "redis://:secret@host", "HIVE_REDIS_CREDENTIALS": SPEC})
    assert "secret" not in str(refused.value)
