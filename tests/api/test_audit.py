"""The audit log: a request that changes something leaves one line, with who, from where, what and what came of it."""

from __future__ import annotations

import itertools
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

from hive.api import audit
from hive.api.app import ROUTES
from hive.api.routes import ApiRoute
from hive.auth.keys import KeyFile
from hive.processes.embedded_redis import EmbeddedRedis
from hive.processes.log_file import RotatedFile
from tests.support.processes import HiveProcess, Server, environment, stopping
from tests.support.waiting import wait_for

#: Of every changing route: the method and the address with an id in it.
CHANGING = sorted(
    (method, route.path)
    for route in ROUTES
    if isinstance(route, ApiRoute)
    for method in (route.methods or set()) - audit.READS
)
#: What must not be in any line.
CANARY = "canary-0123456789abcdef"
AN_ID = "0157ae14-8f03-41b1-bfc0-e465369dcd4d"


_addresses = (f"198.51.{at // 250}.{at % 250 + 1}" for at in itertools.count())


class Audited(NamedTuple):
    """A server with keys and an audit log."""

    server: Server
    log: Path
    #: The texts and public ids of a key that may all, and one that may read.
    admin: tuple[str, str]
    reader: tuple[str, str]

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def ask(self, method: str, path: str, key: str = "", **more: Any) -> tuple[requests.Response, dict[str, Any]]:
        """Ask from an address of its own, so that no limit of refusals is reached, and the one line that this left."""
        before = len(self.lines())
        address = next(_addresses)
        headers = {"x-forwarded-for": address, **({"authorization": f"Bearer {key}"} if key else {})}
        answer = requests.request(method, self.server.url + path, headers=headers, timeout=60, **more)
        wait_for(lambda: len(self.lines()) > before, "a line of the audit log")
        (line,) = self.lines()[before:]
        assert line["address"] == address
        return answer, line


@pytest.fixture(scope="module")
def audited(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    folder = tmp_path_factory.mktemp("audited")
    env = environment(
        redis_server.url,
        folder,
        HIVE_AUDIT_LOG=str(folder / "audit.log"),
        HIVE_TRUSTED_PROXIES="127.0.0.1",
        HIVE_WEBHOOK_SECRET="whsec_" + "c2VjcmV0" * 4,
    )
    keys = KeyFile(Path(env["HIVE_HOME"]) / "keys.json")
    keys.path.parent.mkdir(parents=True, exist_ok=True)
    admin, reader = keys.add("boss", ["admin"]), keys.add("eye", ["read"])
    server = Server(env)
    with stopping(server):
        server.wait_until_ready()
        log = folder / "audit.log"
        yield Audited(server, log, (admin.text, admin.key.id), (reader.text, reader.key.id))


def body_of(path: str) -> dict[str, Any]:
    secrets = {"hf_token": f"hf_{CANARY}", "webhook_url": f"https://hooks.example.org/?t={CANARY}"}
    return {"model_ref": "org/name", **secrets} if path.endswith("download") else {"priority": "high"}


def test_reading_leaves_no_line(audited: Audited) -> None:
    before = len(audited.lines())
    for method, path in [
        ("GET", "/v1/downloads"),
        ("HEAD", "/v1/models"),
        ("GET", "/v1/nothing"),
        ("OPTIONS", "/v1/gc"),
    ]:
        requests.request(method, audited.server.url + path, timeout=60)
    audited.ask("POST", "/v1/gc", audited.reader[0])
    assert len(audited.lines()) == before + 1


def test_the_file_is_its_owners_alone_and_the_log_has_no_audit_lines(audited: Audited) -> None:
    audited.ask("POST", "/v1/gc", audited.reader[0])
    assert stat.S_IMODE(audited.log.stat().st_mode) == 0o600
    assert "hive.audit" not in audited.server.output


def test_without_a_file_the_lines_stand_in_the_log_whatever_its_level(
    redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    env = environment(redis_server.url, tmp_path)
    server = Server(env)
    with stopping(server):
        server.wait_until_ready()
        requests.post(f"{server.url}/v1/nothing", timeout=60)
        line = server.wait_for_log("refused")
    assert (line["logger"], line["code"], "route" in line) == ("hive.audit", "NOT_FOUND", False)


@pytest.mark.parametrize("target", ["missing/audit.log", "a-folder"])
def test_a_server_that_cannot_write_it_does_not_start(redis_server: EmbeddedRedis, tmp_path: Path, target: str) -> None:
    (tmp_path / "a-folder").mkdir()
    env = environment(redis_server.url, tmp_path, HIVE_AUDIT_LOG=str(tmp_path / target))
    with stopping(HiveProcess("hive.cli", "serve", "--port", "0", env=env)) as process:
        assert process.wait() != 0
    assert "HIVE_AUDIT_LOG cannot be written" in process.output


def test_refusals_are_told_up_to_a_limit_and_the_rest_is_counted() -> None:
    now = 0.0
    refusals = audit.Refusals(lambda: now)
    assert sum(refusals.is_told("10.0.0.1") for _ in range(1000)) == audit.REFUSED_PER_ADDRESS
    assert refusals.is_told("10.0.0.2")
    assert refusals.take_untold() == 1000 - audit.REFUSED_PER_ADDRESS
    assert refusals.take_untold() == 0
    told = sum(refusals.is_told(f"10.1.{at // 250}.{at % 250}") for at in range(20_000))
    assert told <= audit.REFUSED_IN_ALL
    assert len(refusals._counts) <= audit.MAX_ADDRESSES + 1
    now = audit.WINDOW_S
    assert refusals.is_told("10.0.0.1")


def test_a_flood_of_refusals_does_not_fill_the_file(audited: Audited) -> None:
    before = len(audited.lines())
    with requests.Session() as session:
        for _ in range(100):
            session.post(f"{audited.server.url}/v1/nothing", timeout=60)
    _, line = audited.ask("POST", "/v1/models/download", audited.admin[0], json=body_of("download"))
    assert len(audited.lines()) - before <= audit.REFUSED_PER_ADDRESS + 1
    assert line["message"] == "allowed"
    assert line["refused_untold"] >= 100 - audit.REFUSED_PER_ADDRESS


def test_a_grown_file_is_moved_aside_once_by_whoever_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    one, other = RotatedFile(path, max_bytes=100), RotatedFile(path, max_bytes=100)
    os.write(one.descriptor(), b"a" * 101)
    os.write(one.descriptor(), b"b")
    os.write(other.descriptor(), b"c")
    assert path.read_bytes() == b"bc"
    assert (tmp_path / "audit.log.1").read_bytes() == b"a" * 101
    path.rename(tmp_path / "moved-by-logrotate")
    os.write(other.descriptor(), b"d")
    assert path.read_bytes() == b"d"


def test_a_file_that_cannot_be_opened_again_leaves_its_lines_to_standard_error(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    file = RotatedFile(folder / "audit.log")
    (folder / "audit.log").unlink()
    folder.rmdir()
    assert file.descriptor() == 2


def test_a_device_or_a_link_is_no_audit_log(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    mode = os.stat("/dev/null").st_mode
    for path in (Path("/dev/null"), tmp_path / "link", tmp_path):
        with pytest.raises(OSError, match=r".+"):
            RotatedFile(path)
    assert os.stat("/dev/null").st_mode == mode


@pytest.mark.parametrize(("method", "path"), CHANGING)
def test_every_changing_route_leaves_one_line_without_a_secret(audited: Audited, method: str, path: str) -> None:
    address = re.sub(r"{id(:path)?}", AN_ID, path)
    text, key_id = audited.admin
    answer, line = audited.ask(method, f"{address}?token={CANARY}", text, json=body_of(path), cookies={"hive": CANARY})
    assert (line["logger"], line["method"], line["route"]) == ("hive.audit", method, path)
    is_open = any(route.path == path and route.needs is None for route in ROUTES if method in (route.methods or ()))
    assert line.get("key") == (None if is_open else f"key:{key_id}")
    assert (line["status"], line["request_id"]) == (answer.status_code, answer.headers["x-request-id"])
    assert line["message"] == ("allowed" if answer.ok else "refused")
    if not answer.ok:
        error = answer.json()["error"]
        assert line["code"] == (error["code"] if isinstance(error, dict) else answer.json()["code"])
    assert CANARY not in json.dumps(line)
    assert text.split("_", 2)[2] not in audited.log.read_text()


def test_a_new_download_is_told_by_its_id(audited: Audited) -> None:
    answer, line = audited.ask("POST", "/v1/models/download", audited.admin[0], json=body_of("download"))
    assert answer.status_code == 202
    assert line["id"] == answer.json()["download_id"]


def test_who_may_not_is_told_with_the_reason(audited: Audited) -> None:
    answer, line = audited.ask("DELETE", f"/v1/downloads/{AN_ID}", audited.reader[0])
    assert answer.status_code == 403
    assert (line["message"], line["code"]) == ("refused", answer.json()["error"]["code"])
    assert (line["key"], line["id"]) == (f"key:{audited.reader[1]}", AN_ID)
    answer, line = audited.ask("POST", "/v1/gc", "hive_00000000_" + "x" * 43)
    assert (answer.status_code, line["status"], "key" in line) == (401, 401, False)
    answer, line = audited.ask("POST", "/v1/gc")
    assert (line["status"], line["code"], line["route"]) == (401, "MISSING_API_KEY", "/v1/gc")


def test_an_id_that_somebody_typed_is_not_repeated(audited: Audited) -> None:
    answer, line = audited.ask("DELETE", f"/v1/models/hf_{CANARY}", audited.admin[0])
    assert not answer.ok
    assert "id" not in line
