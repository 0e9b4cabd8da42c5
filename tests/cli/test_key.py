"""`hive key`, and which key a command sends to whom."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import requests

from hive.auth.keys import KEY, KeyFile
from hive.auth.local_key import ensure_local_key, read_local_key
from hive.cli import server as cli_server
from hive.client import AsyncClient, Client, HiveError, ServerUnreachable, api_key
from hive.settings import Settings
from tests.support.cli import Hive
from tests.support.standin_server import ID, StandIn, download, failed
from tests.support.up import running_up
from tests.support.waiting import wait_for

CANARY = "hive_canary00_" + "C" * 43


@pytest.fixture
def file(settings: Settings) -> KeyFile:
    return KeyFile(settings.api_keys_path)


def test_new_prints_nothing_but_the_key_to_standard_output(hive: Hive, file: KeyFile) -> None:
    result = hive("key", "new", "--name", "ci", "--scopes", "read, pull", "--owner", "team", "--expires", "90d")

    assert result.code == 0
    assert KEY.fullmatch(result.out.removesuffix("\n"))
    assert "Keys are on now" in result.err
    assert result.out.strip() not in result.err
    (key,) = file.read().keys
    assert (key.id, key.name, key.scopes, key.owner) == (result.out[5:13], "ci", ("read", "pull"), "team")
    assert key.expires_s == pytest.approx(key.created_s + 90 * 86_400)
    assert "Keys are on now" not in hive("key", "new", "--name", "two", "--scopes", "admin").err


def test_a_key_in_the_form_of_the_hub_is_printed_and_a_slip_with_it_is_told_with_its_id(
    hive: Hive, file: KeyFile
) -> None:
    result = hive("key", "new", "--name", "llama.cpp", "--scopes", "pull", "--hub-form")
    made = result.out.strip()
    (key,) = file.read().keys
    assert made.startswith(f"hf_hive{key.id}")
    refused = hive("key", "revoke", made)
    assert refused.code == 2
    assert f"hive key revoke {key.id}" in refused.err
    assert made not in refused.err


@pytest.mark.parametrize("to_file", [True, False])
def test_a_key_that_is_made_or_revoked_leaves_a_line_of_the_audit_log(
    hive: Hive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, to_file: bool
) -> None:
    path = tmp_path / "audit.log"
    if to_file:
        monkeypatch.setenv("HIVE_AUDIT_LOG", str(path))
    made = hive("key", "new", "--name", "canary-name", "--scopes", "read,pull", "--owner", "canary-owner")
    key_id = made.out[5:13]
    revoked = hive("key", "revoke", key_id)
    assert hive("key", "revoke", "zzzzzzzz").code != 0
    text = path.read_text() if to_file else made.err + revoked.err
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert [(line["logger"], line["command"], line["id"], line["scopes"]) for line in lines] == [
        ("hive.audit", "key new", key_id, "read,pull"),
        ("hive.audit", "key revoke", key_id, "read,pull"),
    ]
    assert {line["user"] for line in lines} == {f"uid:{os.getuid()}"}
    assert "canary" not in "".join(map(str, lines))
    assert made.out.strip() not in text
    assert not to_file or path.stat().st_mode & 0o777 == 0o600


def test_an_audit_log_that_cannot_be_written_is_told_and_the_key_is_made(
    hive: Hive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setenv("HIVE_AUDIT_LOG", str(tmp_path / "pipe"))
    made = hive("key", "new", "--name", "ci", "--scopes", "read")
    assert made.code == 0
    assert "HIVE_AUDIT_LOG cannot be written" in made.err
    assert '"command": "key new"' in made.err


def test_ls_lists_what_there_is_and_nothing_secret(hive: Hive, file: KeyFile) -> None:
    made = file.add("ci", ["read"], expires_in_s=3600)
    dead = file.add("old", ["admin"])
    file.revoke(dead.key.id)

    shown, listed = hive("key", "ls"), json.loads(hive("key", "ls", "--json").out)

    assert [line.split()[:2] for line in shown.out.splitlines()] == [
        ["ID", "NAME"],
        [made.key.id, "ci"],
        [dead.key.id, "old"],
    ]
    assert [(key["id"], key["state"], key["scopes"]) for key in listed] == [
        (made.key.id, "active", ["read"]),
        (dead.key.id, "revoked", ["admin"]),
    ]
    for text in (shown.out, json.dumps(listed)):
        assert made.key.sha256 not in text
        assert made.text[14:] not in text


def test_revoke_ends_a_key_by_its_id_and_by_what_logs_call_it(hive: Hive, file: KeyFile) -> None:
    ids = [file.add(f"n{n}", ["read"]).key.id for n in range(2)]
    assert hive("key", "revoke", ids[0]).code == 0
    assert hive("key", "revoke", f"key:{ids[1]}").code == 0
    assert all(key.revoked_s for key in file.read().keys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("revoke", CANARY), "hive key revoke canary00"),
        (("revoke", "nothing!"), "no id"),
        (("revoke", "zzzzzzzz"), "make a key with `hive key new`"),
        (("new", "--name", "n", "--scopes", "root"), "Scopes are read, pull, run, admin"),
        (("new", "--name", "n", "--scopes", ""), "Scopes are"),
        (("new", "--name", "n", "--scopes", "read", "--expires", "soon"), "no duration"),
        (("new", "--name", "\x1b[2J", "--scopes", "read"), "printable"),
    ],
)
def test_what_cannot_be_is_said_and_changes_nothing(
    hive: Hive, file: KeyFile, arguments: tuple[str, ...], said: str
) -> None:
    result = hive("key", *arguments)
    assert result.code in (1, 2)
    assert said in result.err
    assert result.out == ""
    assert CANARY not in result.err
    assert not file.read().keys


def test_a_key_file_that_others_can_read_is_refused_by_every_command(hive: Hive, file: KeyFile, env: object) -> None:
    file.add("ci", ["read"])
    file.path.chmod(0o644)
    for arguments in (("key", "ls"), ("key", "new", "--name", "n", "--scopes", "read"), ("up",)):
        result = hive(*arguments)
        assert result.code == 1
        assert f"chmod 600 {file.path}" in result.err
        assert "[KEY_FILE_UNUSABLE]" in result.err


# -- up and its own key ----------------------------------------------------------------------------------------------


def test_a_person_with_keys_on_one_machine_notices_nothing(
    env: dict[str, str], file: KeyFile, settings: Settings, tmp_path: Path, hive_process: Hive
) -> None:
    guest = file.add("guest", ["read"])
    with running_up(env, tmp_path / "log", "--workers", "1") as up:
        assert "1 worker" in up.ready_line
        assert "starting" not in up.ready_line
        for command in (("ps",), ("ls",), ("limit",), ("version",)):
            assert hive_process(*command).code == 0
        own = read_local_key(settings.local_key_path)
        assert own is not None
        assert settings.local_key_path.stat().st_mode & 0o777 == 0o600
        assert requests.get(f"{up.address}/v1/downloads", timeout=60).status_code == 401

        # A guest has a key, and says whose server it is for.
        as_guest = hive_process("ps", HIVE_HOST=up.address, HIVE_API_KEY=guest.text)
        assert as_guest.code == 0
        denied = hive_process("limit", HIVE_HOST=up.address, HIVE_API_KEY=guest.text)
        assert denied.code == 1
        assert "[INSUFFICIENT_SCOPE]" in denied.err
        assert "'admin'" in denied.err

        # The child processes have no key in their arguments or environment.
        for pid in (up.process.pid, *up.children().values()):
            assert own.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
            assert own.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    assert own not in (tmp_path / "log").read_text()
    names = [key.name for key in file.read().keys]
    assert names == ["guest", "hive up"]


def test_keys_that_come_while_up_runs_leave_its_command_line_working(
    env: dict[str, str], tmp_path: Path, hive_process: Hive
) -> None:
    with running_up(env, tmp_path / "log", "--workers", "1") as up:
        made = hive_process("key", "new", "--name", "first", "--scopes", "read")
        assert made.code == 0

        def is_closed() -> bool:
            return requests.get(f"{up.address}/v1/downloads", timeout=60).status_code == 401

        wait_for(is_closed, "the server takes no notice")
        assert hive_process("ps").code == 0
        # Also by the name of the host, because it proves that it is this home's.
        assert hive_process("ps", HIVE_HOST=up.address).code == 0


def test_a_server_that_starts_again_without_its_key_file_stays_closed(
    env: dict[str, str], file: KeyFile, tmp_path: Path
) -> None:
    file.add("ci", ["read"])
    with running_up(env, tmp_path / "log", "--workers", "1") as up:
        file.path.unlink()
        before = up.children()["server"]
        os.kill(before, signal.SIGKILL)

        def status() -> int:
            try:
                return requests.get(
                    f"{up.address}/v1/models", headers={"Authorization": "Bearer x"}, timeout=60
                ).status_code
            except requests.ConnectionError:
                return 0

        wait_for(lambda: up.children().get("server", before) != before, "the server does not come back")
        wait_for(lambda: status() != 0, "the server does not answer")
        assert status() == 503
        assert requests.get(f"{up.address}/healthz", timeout=60).status_code == 200


def test_the_local_key_is_kept_while_it_is_good_and_made_anew_when_it_is_not(file: KeyFile, settings: Settings) -> None:
    path = settings.local_key_path
    assert ensure_local_key(path, file) is None
    assert not path.exists()
    file.add("ci", ["read"])
    first = ensure_local_key(path, file)
    assert first == ensure_local_key(path, file) == read_local_key(path)
    assert first is not None
    file.revoke(first[5:13])
    second = ensure_local_key(path, file)
    assert second != first
    assert second == read_local_key(path)
    path.chmod(0o640)
    assert read_local_key(path) is None


# -- to whom a key goes ----------------------------------------------------------------------------------------------


def test_a_key_goes_to_the_server_that_hive_host_names(
    server: StandIn, hive: Hive, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = b""  # a container's, which proves nothing
    monkeypatch.setenv("HIVE_API_KEY", f" {CANARY}\n")
    assert hive("ps").code == 0
    assert server.authorizations[-1] == f"Bearer {CANARY}"
    assert server.authorizations[0] is None  # whether it is hive at all is asked without


def test_a_key_does_not_go_to_a_strangers_server_at_the_default_address(
    server: StandIn, hive: Hive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_server, "DEFAULT_ADDRESS", server.address)
    monkeypatch.setattr(api_key, "is_host_named", lambda: False)
    monkeypatch.setenv("HIVE_API_KEY", CANARY)
    server.key = b"another"

    found = cli_server.find_server(Settings.from_env())

    assert found is not None
    assert found.api_key == ""
    shown = hive("ps")
    assert shown.code == 0
    assert "The API key is not sent" in shown.err
    assert server.requests
    assert set(server.authorizations) == {None}

    monkeypatch.setattr(api_key, "is_host_named", lambda: True)  # it is the default one, and was named
    assert hive("ps").code == 0
    assert server.authorizations[-1] == f"Bearer {CANARY}"


def test_the_key_of_the_home_goes_to_a_server_that_proves_the_home(
    server: StandIn, hive: Hive, settings: Settings, file: KeyFile
) -> None:
    file.add("ci", ["read"])
    own = ensure_local_key(settings.local_key_path, file)
    assert hive("ps").code == 0
    assert [sent for sent in server.authorizations if sent] == [f"Bearer {own}"], "beside the proofs, which carry none"
    server.authorizations.clear()
    server.key = b"another"
    assert hive("ps").code == 0
    assert set(server.authorizations) == {None}


def test_a_server_that_takes_the_port_of_a_proven_one_is_not_sent_the_key(
    server: StandIn, settings: Settings, file: KeyFile
) -> None:
    file.add("ci", ["read"])
    own = ensure_local_key(settings.local_key_path, file)
    found = cli_server.find_server(settings)
    assert found is not None
    assert found.api_key == own
    assert own not in repr(found)
    with found.client() as client:
        client.models()
        assert server.authorizations[-1] == f"Bearer {own}"
        server.authorizations.clear()
        server.key = b"another"  # as if another user's had taken its place
        with pytest.raises(ServerUnreachable, match="not sent the key"):
            client.models()
    assert set(server.authorizations) == {None}


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o440, 0o604, 0o666])
def test_a_file_with_a_key_that_others_can_read_is_not_used(
    server: StandIn, hive: Hive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "key"
    path.write_text(CANARY)
    path.chmod(mode)
    monkeypatch.setenv("HIVE_API_KEY_FILE", str(path))

    result = hive("ps")

    assert result.code == 2
    assert f"chmod 600 {path}" in result.err
    assert CANARY not in result.err
    assert set(server.authorizations) <= {None}
    if os.geteuid() == 0 and mode == 0o440:
        os.chown(path, 12345, -1)  # as an orchestrator mounts it
    else:
        path.chmod(0o600)
    assert hive("ps").code == 0
    assert server.authorizations[-1] == f"Bearer {CANARY}"


@pytest.mark.parametrize("text", ["two words", "k\u00e9y", "x" * 513, "new\nline"])
def test_what_is_no_key_is_not_sent_and_not_shown(
    server: StandIn, hive: Hive, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("HIVE_API_KEY", text)
    result = hive("ps")
    assert result.code == 2
    assert "HIVE_API_KEY holds no API key" in result.err
    assert text not in result.err


@pytest.mark.parametrize("code", ["MISSING_API_KEY", "INVALID_API_KEY", "INSUFFICIENT_SCOPE"])
def test_a_refusal_says_what_to_do(server: StandIn, hive: Hive, code: str) -> None:
    status = 403 if code == "INSUFFICIENT_SCOPE" else 401
    server.errors["/v1/downloads"] = (status, {"code": code, "message": "No.", "details": {}})
    result = hive("ps")
    assert result.code == 1
    assert f"error: No. [{code}]" in result.err
    assert "hint: export HIVE_API_KEY_FILE=" in result.err
    assert "hint: hive key new" in result.err


# -- the clients -----------------------------------------------------------------------------------------------------


@pytest.fixture
def other() -> object:
    with StandIn() as found:
        yield found


def sent(server: StandIn, address: str | None, **more: str) -> str | None:
    with Client(address, **more) as client:  # type: ignore[arg-type]
        client.models()
    return server.authorizations[-1]


def test_a_client_sends_the_key_that_it_was_given(server: StandIn) -> None:
    assert sent(server, server.url, api_key=CANARY) == f"Bearer {CANARY}"
    with Client(server.url, api_key=CANARY) as client:
        list(client.watch("11111111-2222-4333-8444-555555555555"))
        assert server.stream_headers[-1]["authorization"] == f"Bearer {CANARY}"
        assert CANARY not in repr(client)


def test_a_client_sends_the_key_of_the_environment_to_the_server_of_hive_host_alone(
    server: StandIn, other: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVE_API_KEY", CANARY)
    assert sent(server, server.url) == f"Bearer {CANARY}"
    assert sent(server, server.address) == f"Bearer {CANARY}"
    assert sent(server, server.url, api_key="") is None
    assert sent(other, other.url) is None

    monkeypatch.delenv("HIVE_HOST")
    assert sent(other, other.url) == f"Bearer {CANARY}"  # the program names it


def test_a_client_says_why_a_key_was_kept_from_a_server(
    server: StandIn, other: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVE_API_KEY", CANARY)
    other.errors["/v1/models"] = (401, {"code": "MISSING_API_KEY", "message": "A key.", "details": {}})
    with Client(other.url) as client, pytest.raises(HiveError, match="HIVE_HOST alone") as refused:
        client.models()
    assert CANARY not in str(refused.value)


@pytest.mark.anyio
async def test_the_client_with_await_does_the_same(
    server: StandIn, other: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIVE_API_KEY", CANARY)
    for address, expected in ((server.url, f"Bearer {CANARY}"), (other.url, None)):
        client = AsyncClient(address)
        await client.models()
        await client.close()
        asked = server if address == server.url else other
        assert asked.authorizations[-1] == expected


def test_a_key_and_a_password_of_a_proxy_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="only one"):
        Client("http://me:secret@127.0.0.1:1", api_key=CANARY)


# -- to whom the token of the Hub goes -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("ls",), ("show", "org/name")])
def test_the_token_of_the_hub_shows_restricted_models_where_the_server_is_proven_and_has_keys(
    server: StandIn, hive: Hive, settings: Settings, file: KeyFile, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    assert hive(*command).code == 0
    assert set(server.hub_tokens) == {None}, "where there are no keys nobody is asked for it"

    file.add("ci", ["read"])
    ensure_local_key(settings.local_key_path, file)
    assert hive(*command).code == 0
    assert [token for token in server.hub_tokens if token] == ["hf_canary"]

    server.hub_tokens.clear()
    server.key = b"a container's"
    monkeypatch.setenv("HIVE_API_KEY", CANARY)  # which is for the server that HIVE_HOST names
    shown = hive(*command)
    assert shown.code == 0
    assert "HF_TOKEN" not in shown.err
    assert server.authorizations[-1] == f"Bearer {CANARY}"
    assert set(server.hub_tokens) == {None}


def test_a_retry_brings_the_token_that_was_not_kept_to_a_proven_server(
    server: StandIn, hive: Hive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    for key, expected in ((server.key, {"hf_token": "hf_canary"}), (b"another", None)):
        server.key = key
        server.downloads = [download(status="failed", event=failed())]
        hive("retry", ID)
        method, path, body = server.requests[-1]
        assert (method, path, body) == ("POST", f"/v1/downloads/{ID}/retry", expected)


def test_a_plan_does_not_show_the_token_to_whatever_listens(
    server: StandIn, hive: Hive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    server.key = b"another"
    hive("pull", "--dry-run", "hf:org/name")
    assert server.requests
    assert "canary" not in str(server.requests)
