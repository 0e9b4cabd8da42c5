"""A Docker engine: the one that answers, or one of our own with its own data, sockets and end.

Problem: the test needs an engine, and the machine may have one that runs somebody's containers, none, or only the
program. The easy way, to start the machine's service, leaves it running and keeps what it made. So where none answers,
`dockerd` is started with all that it writes in one temporary folder, is ended by its pid, and the folder goes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

#: Seconds until an engine of ours answers, and until it has ended.
START_S: Final = 60.0
STOP_S: Final = 60.0
#: Seconds between two looks at it.
LOOK_S: Final = 0.1
#: Lines of its log that are shown where it does not start.
TAIL_LINES: Final = 15


class NoEngine(RuntimeError):
    """No engine answers and none can be started here; the text says why."""


@contextmanager
def running_engine() -> Iterator[str]:
    """The address of an engine, for DOCKER_HOST.

    Raises:
        NoEngine: none answers, and none can be started.
    """
    given = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if _answers(given):
        yield given
        return
    if shutil.which("dockerd") is None:
        raise NoEngine("no Docker engine answers, and dockerd is not installed")
    if os.geteuid() != 0:
        raise NoEngine("no Docker engine answers, and only root can start one")
    # Not below TMPDIR, which may be long: the path of a socket has 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="hive-engine-", dir="/tmp"))
    try:
        with _own_engine(folder) as address:
            yield address
    finally:
        _remove(folder)


@contextmanager
def _own_engine(folder: Path) -> Iterator[str]:
    address = f"unix://{folder}/docker.sock"
    command = ["dockerd", "--host", address, "--bridge", "none", "--pidfile", f"{folder}/docker.pid"]
    command += ["--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--shutdown-timeout", "10"]
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        end_s = time.monotonic() + START_S
        while not _answers(address):
            if daemon.poll() is not None or time.monotonic() > end_s:
                tail = "\n".join((folder / "log").read_text(errors="replace").splitlines()[-TAIL_LINES:])
                raise NoEngine(f"dockerd does not run here:\n{tail}")
            time.sleep(LOOK_S)
        yield address
    finally:
        daemon.terminate()
        try:
            daemon.wait(STOP_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def see_that_it_runs_containers(image: str) -> None:
    """An engine may answer and still be able to run nothing: no cgroups, no networks.

    Raises:
        NoEngine: so it is.
    """
    name = "hive-stack-test-try"
    try:
        for command in (
            ["docker", "network", "create", name],
            ["docker", "run", "--rm", "--network", name, "--memory", "64m", "--entrypoint", "true", image],
        ):
            done = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
            if done.returncode:
                raise NoEngine(f"the Docker engine can run no container here: {done.stderr.strip()[-500:]}")
    except subprocess.TimeoutExpired:
        raise NoEngine("the Docker engine runs no container within a minute") from None
    finally:
        subprocess.run(["docker", "network", "rm", name], capture_output=True, check=False)


def _answers(address: str) -> bool:
    with suppress(OSError, subprocess.TimeoutExpired):
        command = ["docker", "--host", address, "version", "--format", "{{.Server.Version}}"]
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    return False


def _remove(folder: Path) -> None:
    """The folder, without following into what is still mounted in it."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False)
    shutil.rmtree(folder, ignore_errors=True)
