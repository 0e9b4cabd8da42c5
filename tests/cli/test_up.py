"""`hive up`, `serve` and `worker`: real processes on a real Redis."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hive.cli.errors import CliError
from hive.cli.up import ListenAddress, _check_publication, _check_reach, listen_address, serve
from hive.cli.up import up as up_command
from hive.client import Client
from hive.processes.instance_lock import holder_of
from hive.settings import Settings
from tests.support.child import Child
from tests.support.cli import COMMAND_TIMEOUT_S, Hive, command
from tests.support.processes import is_alive
from tests.support.up import running_up
from tests.support.waiting import AT_ONCE_S, wait_for

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_up_is_ready_serves_and_stops_in_order(env: dict[str, str], home: Path, tmp_path: Path) -> None:
    with running_up(env, tmp_path / "log", "--workers", "2") as up:
        assert up.ready_line == f"hive is ready at {up.address}, store {env['HIVE_STORE']}, 2 workers"
        with Client(up.address) as client:
            assert client.health().status == "alive"
            assert client.downloads() == []
            assert len(client.workers()) == 2
        assert (home / "secret.key").stat().st_mode & 0o777 == 0o600
        assert holder_of(home) == (up.process.pid, up.address, False)
        children = up.children()
        assert set(children) == {"server", "workers", "redis"}
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(COMMAND_TIMEOUT_S) == 0
        wait_for(lambda: not any(map(is_alive, children.values())), "a child is left")
    assert holder_of(home) is None
    log = (tmp_path / "log").read_text()
    assert "server  | " in log
    assert "Traceback" not in log
    assert "killed" not in log


def test_a_second_up_on_the_same_home_says_who_runs(env: dict[str, str], tmp_path: Path, hive_process: Hive) -> None:
    with running_up(env, tmp_path / "log", "--workers", "1") as up:
        result = hive_process("up", "--port", "0")
        assert result.code == 1
        assert up.address in result.err
        assert f"pid {up.process.pid}" in result.err
        assert "[HOME_IN_USE]" in result.err
        assert hive_process("ps").code == 0


@linux_only
def test_nothing_survives_a_killed_up(env: dict[str, str], tmp_path: Path) -> None:
    with running_up(env, tmp_path / "log", "--workers", "1") as up:
        children = up.children()
        up.process.kill()
        wait_for(lambda: not any(map(is_alive, children.values())), "a child is left")
    with running_up(env, tmp_path / "log2", "--workers", "1") as again:
        assert not set(again.children().values()) & set(children.values())


@linux_only
def test_whatever_dies_comes_back(env: dict[str, str], tmp_path: Path) -> None:
    with running_up(env, tmp_path / "log", "--workers", "1") as up, Client(up.address) as client:
        before = up.children()
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)

        def works_again() -> bool:
            with contextlib.suppress(Exception):
                return bool(client.workers()) and client.downloads() == []
            return False

        wait_for(works_again, "it does not come back")
        wait_for(lambda: set(up.children()) >= set(before), "a child is missing")
        assert not set(up.children().values()) & set(before.values())
    log = (tmp_path / "log").read_text()
    for name in ("server", "workers", "redis"):
        assert f"hive    | {name}" in log


@linux_only
def test_a_part_is_forked_at_first_and_a_program_when_it_starts_again(env: dict[str, str], tmp_path: Path) -> None:
    def is_program(pid: int) -> bool:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(os.fsencode(sys.executable))
        return False

    with running_up(env, tmp_path / "log", "--workers", "1") as up:
        before = up.children()
        assert [is_program(before[name]) for name in ("server", "workers")] == [False, False]
        os.kill(before["server"], signal.SIGKILL)
        wait_for(lambda: up.children().get("server", before["server"]) != before["server"], "no server")
        wait_for(lambda: is_program(up.children()["server"]), "it is forked again")
        assert up.children()["workers"] == before["workers"]


@linux_only
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_start_ends_it_in_order(env: dict[str, str], tmp_path: Path, sig: signal.Signals) -> None:
    with (tmp_path / "log").open("w") as err:
        process = Child(command("up", "--port", "0"), env=env, stdout=subprocess.PIPE, stderr=err)
    with process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_for(children.read_text, "nothing is started")
        process.send_signal(sig)
        family = [int(pid) for pid in children.read_text().split()]
        assert process.wait(COMMAND_TIMEOUT_S) == 0
        wait_for(lambda: not any(map(is_alive, family)), "a child is left")
    assert "stopping" in (tmp_path / "log").read_text()


@linux_only
def test_what_nohup_starts_goes_on_when_the_terminal_closes(env: dict[str, str], tmp_path: Path) -> None:
    with running_up(env, tmp_path / "log", under=["nohup"]) as up:
        family = up.children()
        for pid in (up.process.pid, *family.values()):
            os.kill(pid, signal.SIGHUP)
        for _ in range(3):
            with Client(up.address) as client:
                assert client.health().status == "alive"
        assert up.children() == family
        assert "stopping" not in up.log.read_text()


@linux_only
def test_no_address_of_redis_is_in_an_argument(env: dict[str, str], tmp_path: Path) -> None:
    with running_up(env, tmp_path / "log", "--workers", "1") as up:
        for pid in up.children().values():
            assert b"unix://" not in Path(f"/proc/{pid}/cmdline").read_bytes()


@linux_only
def test_a_second_ctrl_c_ends_it_at_once(env: dict[str, str], tmp_path: Path) -> None:
    """Its server is frozen, and the first one waits for that a minute and more."""
    with running_up(env | {"HIVE_DRAIN_S": "60"}, tmp_path / "log", "--workers", "1") as up:
        children = up.children()
        os.kill(children["server"], signal.SIGSTOP)
        up.process.send_signal(signal.SIGINT)
        wait_for(lambda: "stopping" in up.log.read_text(), "the signal is not seen")
        started = time.monotonic()
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(COMMAND_TIMEOUT_S) == 130
        assert time.monotonic() - started < AT_ONCE_S
        wait_for(lambda: not any(map(is_alive, children.values())), "a child is left")


def test_a_taken_port_is_said_at_once(env: dict[str, str], home: Path, hive_process: Hive) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        result = hive_process("up", "--port", str(listener.getsockname()[1]))
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: Cannot listen on 127.0.0.1:")
    assert "in use" in result.err
    assert holder_of(home) is None


def test_a_log_in_json_stays_json(env: dict[str, str], tmp_path: Path) -> None:
    with running_up(env | {"HIVE_LOG_FORMAT": "json"}, tmp_path / "log", "--workers", "1"):
        pass
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {"hive.server", "hive.processes.stack"} <= {line["logger"] for line in lines}


@pytest.mark.parametrize("command", ["up", "serve"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "hive.example"])
def test_neither_up_nor_serve_listens_where_strangers_can_reach_it(
    hive: Hive, monkeypatch: pytest.MonkeyPatch, command: str, host: str
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    result = hive(command, "--host", host)
    assert result.code == 2
    assert "no API key" in result.err
    assert "hive key new" in result.err
    assert "--allow-unauthenticated" in result.err


def test_keys_lift_the_refusal_and_so_does_a_word_old_or_new() -> None:
    beyond = ListenAddress("192.0.2.1", 8080)
    _check_reach(beyond, keys_on=True, allow_unauthenticated=False)
    _check_reach(beyond, keys_on=False, allow_unauthenticated=True)
    with pytest.raises(CliError):
        _check_reach(beyond, keys_on=False, allow_unauthenticated=False)
    for each in (up_command, serve):
        (option,) = [option for option in each.params if option.name == "allow_unauthenticated"]
        assert {"--allow-remote", "--allow-unauthenticated"} <= set(option.opts)


def test_in_a_container_it_counts_where_the_port_is_published(hive: Hive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("HIVE_PUBLISHED_AT", "0.0.0.0")
    result = hive("serve", "--host", "0.0.0.0")
    assert result.code == 2
    assert "does not serve at 0.0.0.0" in result.err
    assert "docker compose run --rm api key new" in result.err
    everywhere = ListenAddress("0.0.0.0", 8080)
    for address, keys_on, word in (("127.0.0.1", False, False), ("0.0.0.0", True, False), ("0.0.0.0", False, True)):
        _check_publication(Settings(published_at=address), everywhere, keys_on=keys_on, allow_unauthenticated=word)
    with pytest.raises(CliError):
        _check_publication(Settings(), everywhere, keys_on=False, allow_unauthenticated=False)


@pytest.mark.parametrize("name", ["serve", "worker"])
def test_a_part_alone_needs_a_redis(hive: Hive, name: str) -> None:
    result = hive(name)
    assert result.code == 2
    assert "REDIS_URL" in result.err.splitlines()[0]
    assert "hive up" in result.err.splitlines()[1]


@pytest.mark.parametrize(
    ("named", "host", "port", "address"),
    [
        (None, None, None, ("127.0.0.1", 8080)),
        ("0.0.0.0:9000", None, None, ("0.0.0.0", 9000)),
        ("[::1]:9000", None, 0, ("::1", 0)),
        ("127.0.0.2", "127.0.0.3", None, ("127.0.0.3", 8080)),
        ("https://hive.example/x", "127.0.0.1", 1, ("127.0.0.1", 1)),
        ("http://127.0.0.1:9988", None, None, ("127.0.0.1", 9988)),
        ("http://127.0.0.1:9988/", None, None, ("127.0.0.1", 9988)),
        ("myserver", None, None, ("myserver", 8080)),
        ("::1", None, None, ("::1", 8080)),
    ],
)
def test_where_to_listen(named: str | None, host: str | None, port: int | None, address: tuple[str, int]) -> None:
    settings = Settings.from_env({"HIVE_HOST": named} if named else {})
    assert listen_address(settings, host, port) == address


@pytest.mark.parametrize("named", ["https://hive.example", "127.0.0.1:notaport", ":8080"])
def test_what_cannot_be_listened_on_is_refused(named: str) -> None:
    with pytest.raises(CliError, match="HIVE_HOST"):
        listen_address(Settings.from_env({"HIVE_HOST": named}), None, None)


def test_up_does_not_go_on_with_a_stopped_pull_unasked(env: dict[str, str], settings: Settings, tmp_path: Path) -> None:
    from hive.downloads.local import LocalDownloads
    from hive.wire.refs import parse_ref
    from hive.wire.spec import DownloadSpec

    run = LocalDownloads(settings).begin(DownloadSpec(ref=parse_ref("org/name")))
    assert run is not None
    run.note(bytes_done=4000, bytes_total=10_000, partials=())
    with (
        running_up(env | {"HF_ENDPOINT": "http://127.0.0.1:1"}, tmp_path / "log", "--workers", "1") as up,
        Client(up.address) as client,
    ):
        # While a command has it in hand, it is no business of a server.
        assert client.downloads() == []
        run.set_aside()
        wait_for(lambda: client.downloads(), "the server does not list it")
        [download] = client.downloads()
        assert (download.id, download.status) == (run.id, "paused")
        client.cancel(run.id)
