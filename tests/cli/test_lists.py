"""`hive ps`, `ls`, `show`, `rm`, `cancel` and `version`, with a server and without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hive.cli import server as finding
from hive.cli.table import Column, fitted
from hive.processes.instance_lock import InstanceLock
from tests.support.cli import COMMAND_TIMEOUT_S, Hive, command
from tests.support.pty import Terminal
from tests.support.standin_server import ID, OTHER_ID, StandIn, complete, download, failed, model

COMMIT = "c" * 40


@pytest.fixture
def no_server(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing answers at the default address, whatever else runs on this machine."""
    monkeypatch.setattr(finding, "DEFAULT_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("HIVE_HOST", "127.0.0.1:1")


@pytest.fixture
def store(env: dict[str, str]) -> Path:
    """A store with one model in the layout of the Hub's cache."""
    store = Path(env["HIVE_STORE"])
    repo = store / "hub" / "models--org--name"
    (repo / "blobs").mkdir(parents=True)
    (repo / "blobs" / ("b" * 64)).write_bytes(b"GGUF" + bytes(996))
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "model-Q4_K_M.gguf").symlink_to(f"../../blobs/{'b' * 64}")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    return store


def test_ps_is_a_table_with_aligned_columns(server: StandIn, hive: Hive) -> None:
    server.downloads.append(download(OTHER_ID, "complete", complete()))
    server.downloads.append(download(OTHER_ID, "failed", failed(bytes_downloaded=10, bytes_total=1000)))
    result = hive("ps", "--all")
    lines = result.out.splitlines()
    assert lines[0].split() == ["ID", "MODEL", "STATUS", "DONE", "SIZE", "SPEED", "LEFT", "STARTED"]
    assert lines[1].split()[:8] == ["11111111", "org/name", "downloading", "42.0%", "1.0", "kB", "2.0", "MB/s"]
    assert lines[2].split()[:6] == ["11119999", "org/name", "complete", "100%", "1.0", "kB"]
    assert lines[3].split()[2:4] == ["failed", "1.0%"]
    assert len({line.index("org/name") for line in lines[1:]} | {lines[0].index("MODEL")}) == 1
    assert result.code == 0


def test_ps_asks_for_what_is_wanted(server: StandIn, hive: Hive) -> None:
    assert hive("ps", "-q").out == f"{ID}\n"
    listed = json.loads(hive("ps", "--json").out)
    assert listed[0]["id"] == ID
    assert listed[0]["progress"]["stage"] == "downloading"


def test_an_empty_ps_has_its_headings_only(server: StandIn, hive: Hive) -> None:
    server.downloads = []
    assert len(hive("ps").out.splitlines()) == 1
    assert hive("ps", "--json").out == "[]\n"


@pytest.mark.parametrize("args", [("retry", ID), ("priority", ID, "high"), ("limit",)])
def test_without_a_server_a_command_says_how_to_start_one(no_server: None, hive: Hive, args: tuple[str, ...]) -> None:
    result = hive(*args)
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines()[0].endswith("[SERVER_UNREACHABLE]")
    assert "hint: hive up" in result.err.splitlines()


def test_the_server_of_the_home_is_found_on_whatever_port(
    server: StandIn, no_server: None, home: Path, hive: Hive
) -> None:
    lock = InstanceLock(home)
    lock.acquire()
    lock.announce(server.url)
    assert hive("ps", "-q").out == f"{ID}\n"
    lock.release()
    assert hive("ps", "-q").out == ""


def test_something_else_at_the_default_address_is_not_taken_for_hive(
    server: StandIn, hive: Hive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "DEFAULT_ADDRESS", server.address)
    server.errors["/v1/health"] = (200, "<html>")
    assert "[SERVER_UNREACHABLE]" in hive("limit").err


def test_cancel_ends_a_download(server: StandIn, hive: Hive) -> None:
    result = hive("cancel", ID[:8])
    assert (result.code, result.out) == (0, "")
    assert "hf:org/name" in result.err
    assert ("DELETE", f"/v1/downloads/{ID}", None) in server.requests


def test_ls_lists_the_models_of_the_server(server: StandIn, hive: Hive) -> None:
    lines = hive("ls").out.splitlines()
    assert lines[0].split() == ["MODEL", "SIZE", "FILES", "MODIFIED"]
    assert lines[1].split()[:4] == ["org/name:Q4_K_M", "4.1", "GB", "1"]
    assert hive("ls", "-q").out == "org/name:Q4_K_M\n"
    assert json.loads(hive("ls", "--json").out)[0]["size"] == 4_100_000_000


def test_ls_reads_the_disk_where_there_is_no_server(no_server: None, store: Path, hive: Hive) -> None:
    result = hive("ls")
    assert result.out.splitlines()[1].split()[:4] == ["org/name:Q4_K_M", "1.0", "kB", "1"]
    assert json.loads(hive("ls", "--json").out)[0]["revision"] == COMMIT


def test_ls_of_no_store_is_empty(no_server: None, hive: Hive) -> None:
    result = hive("ls", "--json")
    assert (result.code, result.out) == (0, "[]\n")


@pytest.mark.parametrize("name", ["org/name:Q4_K_M", "hf:org/name:Q4_K_M", "org/name"])
def test_show_tells_all_of_a_model(no_server: None, store: Path, hive: Hive, name: str) -> None:
    fields = dict(line.split(maxsplit=1) for line in hive("show", name).out.splitlines())
    assert fields["model"] == "org/name:Q4_K_M"
    assert fields["path"] == str(store / "hub/models--org--name/snapshots" / COMMIT / "model-Q4_K_M.gguf")
    assert fields["revision"] == f"{COMMIT} (main)"
    assert json.loads(hive("show", name, "--json").out)["variant"] == "Q4_K_M"


def test_show_tells_all_of_a_download(server: StandIn, hive: Hive) -> None:
    server.downloads = [download(ID, "failed", failed()), download(OTHER_ID, "complete", complete())]
    first = hive("show", ID).out
    assert "There is no room. [DISK_FULL]" in first
    assert "/store/model.gguf" in hive("show", OTHER_ID[:8]).out
    assert json.loads(hive("show", ID, "--json").out)["status"] == "failed"


def test_a_model_that_is_not_there_is_an_error_that_helps(server: StandIn, hive: Hive) -> None:
    result = hive("show", "org/name:Q8_0")
    assert result.code == 1
    assert result.err.splitlines() == [
        "error: 'org/name:Q8_0' is not on disk. [MODEL_NOT_ON_DISK]",
        "hint: hive show org/name:Q4_K_M",
    ]
    assert "hive ls" in hive("rm", "other/name", "-y").err


def test_rm_deletes_on_the_server(server: StandIn, hive: Hive) -> None:
    result = hive("rm", "org/name:Q4_K_M", "--yes")
    assert (result.code, result.out, result.err) == (0, "", "Deleted org/name:Q4_K_M, 4.1 GB freed\n")
    assert ("DELETE", "/v1/models/org/name:Q4_K_M", None) in server.requests


def test_rm_deletes_on_the_disk_where_there_is_no_server(no_server: None, store: Path, hive: Hive) -> None:
    assert "1.0 kB freed" in hive("rm", "org/name:Q4_K_M", "-y").err
    assert not (store / "hub/models--org--name/blobs" / ("b" * 64)).exists()
    assert hive("ls", "-q").out == ""


def test_rm_says_what_the_server_refuses(server: StandIn, hive: Hive) -> None:
    in_use = {"code": "MODEL_IN_USE", "message": "A download is using it.", "details": {}}
    server.errors["/v1/models/org/name:Q4_K_M"] = (409, in_use)
    result = hive("rm", "org/name:Q4_K_M", "--yes")
    assert (result.code, result.err) == (1, "error: A download is using it. [MODEL_IN_USE]\n")


def test_rm_asks_nobody_where_nobody_is(server: StandIn, hive_process: Hive) -> None:
    result = hive_process("rm", "org/name:Q4_K_M")
    assert result.code == 2
    assert "--yes" in result.err
    assert not [path for method, path, _ in server.requests if method == "DELETE"]


@pytest.mark.parametrize(("answer", "code", "deleted"), [(b"y\r", 0, True), (b"n\r", 1, False), (b"", 130, False)])
def test_rm_asks_a_person(server: StandIn, env: dict[str, str], answer: bytes, code: int, deleted: bool) -> None:
    with Terminal(command("rm", "org/name:Q4_K_M"), env) as terminal:
        terminal.wait_for_text("Delete org/name:Q4_K_M (4.1 GB, /store/hub/model.gguf)? [y/N]")
        terminal.write(answer)
        assert (terminal.wait(COMMAND_TIMEOUT_S) if answer else terminal.interrupt(COMMAND_TIMEOUT_S)) == code
    assert bool([path for method, path, _ in server.requests if method == "DELETE"]) is deleted


def test_a_narrow_terminal_shortens_the_names_only(server: StandIn, env: dict[str, str]) -> None:
    server.models = [model("org/" + "a-long-name-" * 12 + "end", 7)]
    with Terminal(command("ls"), env) as terminal:
        assert terminal.wait(COMMAND_TIMEOUT_S) == 0
    line = terminal.text.splitlines()[1]
    assert len(line) <= 120
    assert "…" in line
    assert "7 B" in line
    assert line.rstrip().endswith("ago")


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_ps_can_be_read_in_every_terminal(server: StandIn, env: dict[str, str], columns: int) -> None:
    server.downloads.append(download(OTHER_ID, "complete", complete()))
    with Terminal(command("ps", "--all"), env, columns=columns) as terminal:
        assert terminal.wait(COMMAND_TIMEOUT_S) == 0
    head, *rows = [line.rstrip() for line in terminal.text.splitlines() if line.strip()]
    assert max(map(len, [head, *rows])) <= columns
    assert ["…" in head, "STARTED" in head, "DONE" in head] == [False, columns > 40, True]
    assert [row.split()[:3] for row in rows] == [
        ["11111111", "org/name", "downloading"],
        ["11119999", "org/name", "complete"],
    ]


def test_what_can_be_missed_is_left_away_before_a_name_is_cut() -> None:
    columns = [Column("ID"), Column("MODEL", shrinks="middle"), Column("SIZE", drops=1), Column("STARTED", drops=2)]
    assert fitted(columns, [8, 30, 7, 9], 80) == {0: 8, 1: 30, 2: 7, 3: 9}
    assert fitted(columns, [8, 30, 7, 9], 40) == {0: 8, 1: 10, 2: 7, 3: 9}
    assert fitted(columns, [8, 30, 7, 9], 30) == {0: 8, 1: 11, 2: 7}
    assert fitted(columns, [8, 30, 7, 9], 20) == {0: 8, 1: 10}
    assert fitted([Column("MODEL", shrinks="middle"), Column("STATUS", shrinks="end")], [30, 24], 36) == {0: 16, 1: 18}
    assert fitted([Column("MODEL", shrinks="middle"), Column("STATUS", shrinks="end")], [30, 24], 20) == {0: 10, 1: 8}


def test_names_with_brackets_and_escapes_are_shown_as_they_are(server: StandIn, env: dict[str, str]) -> None:
    server.models = [model("org/[bold]\x1b[31mname"), model("org/[/nonsense]")]
    with Terminal(command("ls"), env) as terminal:
        assert terminal.wait(COMMAND_TIMEOUT_S) == 0
    assert "org/[bold] [31mname" in terminal.text
    assert "org/[/nonsense]" in terminal.text


def test_version_tells_the_servers_too(server: StandIn, hive: Hive) -> None:
    fields = dict(line.split(maxsplit=1) for line in hive("version").out.splitlines())
    assert fields["server"] == f"9.9 at {server.address}"


def test_version_works_without_a_server(no_server: None, hive: Hive) -> None:
    assert "none answers" in hive("version").out


def test_a_server_that_is_named_and_away_does_not_hide_the_version(hive_process: Hive) -> None:
    result = hive_process("version", HIVE_HOST="127.0.0.1:1")
    assert result.code == 0
    assert "127.0.0.1:1" in result.out
