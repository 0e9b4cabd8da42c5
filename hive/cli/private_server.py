"""A private hive for one `hive pull`, where no server answers: `hive up` as a child, on a free port, with the same
HIVE_HOME.

Problem: somebody who only wants a model should not have to run a service first. The easy way, to download in this
process, would be a second downloader that shares no locks with the first. So the whole stack runs for as long as the
pull takes. What is under way lies in HIVE_HOME and in the store, so an interrupted pull goes on from there, in a
private stack or in `hive up`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Generator
from typing import IO

from hive.cli.errors import CliError
from hive.cli.server import Server
from hive.processes.children import bound_to_us, python_module, signal_group
from hive.processes.instance_lock import holder_of
from hive.processes.log_file import open_log, tail
from hive.settings import Settings

#: Workers of a private stack: one pull is one download.
WORKERS = 1
#: Seconds until it must be ready; under 2 is usual.
START_TIMEOUT_S = 40.0
#: Seconds until it must have ended: the server's drain, the workers' and Redis's, each with a limit of its own.
STOP_TIMEOUT_S = 25.0
#: Its log in HIVE_HOME.
LOG_NAME = "private.log"
#: Lines of its log in an error.
LOG_TAIL_LINES = 6


class HomeTaken(CliError):
    """Another hive, such as that of a pull that began at the same time, was faster: there is a server to use now."""


@contextlib.contextmanager
def private_stack(settings: Settings) -> Generator[Server]:
    """A server for the time of the block.

    Raises:
        HomeTaken: when another hive has taken the home meanwhile.
        CliError: when it does not start; with the end of its log.
    """
    settings.home_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    log_path = settings.home_dir / LOG_NAME
    with open_log(log_path) as log:
        log_start = log.tell()
        command = python_module("hive.cli", "up", "--port", "0", "--workers", str(WORKERS), "--private")
        # A group of its own: Ctrl-C reaches the pull only, which then ends the stack in order.
        process = subprocess.Popen(
            bound_to_us(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, process_group=0
        )
    try:
        yield Server(_read_address(process, settings, log_start), private=True)
    finally:
        _stop(process)


def _read_address(process: subprocess.Popen[bytes], settings: Settings, log_start: int) -> str:
    """The address: the first line that `hive up --private` writes, when it is ready."""
    assert process.stdout is not None
    line = _first_line(process.stdout, START_TIMEOUT_S)
    if line.startswith("http://"):
        return line
    if holder_of(settings.home_dir) is not None:
        raise HomeTaken("Another hive took the home first.", code="HOME_IN_USE")
    log_path = settings.home_dir / LOG_NAME
    said = tail(log_path, LOG_TAIL_LINES, since=log_start)
    raise CliError("hive could not start what a pull needs.", *said, f"the whole log is in {log_path}")


def _first_line(pipe: IO[bytes], timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    line = b""
    while not line.endswith(b"\n"):
        readable, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        chunk = os.read(pipe.fileno(), 256) if readable else b""
        if not chunk:
            return ""
        line += chunk
    return line.decode().strip()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the stack in order; a second Ctrl-C ends it at once."""
    try:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        # Its children are bound to it and go with it.
        signal_group(process.pid, signal.SIGKILL)
        process.wait()
    finally:
        if process.stdout is not None:
            process.stdout.close()
