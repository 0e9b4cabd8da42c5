"""The log never makes anybody wait, and does not say the same thing for ever."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import pytest
import urllib3

from hive import log_writer, logs
from hive.log_writer import MAX_LINES, MAX_TROUBLES, REPEAT_S, LineWriter, RepeatFilter
from tests.support.tiny_server import LocalServer, send_head
from tests.support.waiting import DEADLINE_S


@pytest.fixture
def kept_logging() -> Iterator[None]:
    """`logs.setup` is undone after the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_end, write_end = os.pipe()
    yield read_end, write_end
    for end in (read_end, write_end):
        os.close(end)


def read_until(read_end: int, last: bytes) -> bytes:
    data = b""
    while last not in data:
        data += os.read(read_end, 1 << 16)
    return data


def test_lines_come_in_order_and_whole(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1], "{} lost".format)
    for n in range(300):
        writer.write(f"line {n} é" + "x" * 3000 if n % 2 else f"line {n}")
    lines = read_until(pipe[0], b"line 299").decode().splitlines()
    assert [int(line.split()[1]) for line in lines] == list(range(300))
    assert writer.flush()
    assert writer.lost == 0


def test_nobody_waits_for_a_reader_and_what_is_lost_is_counted(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1], "{} were lost".format)
    began = time.monotonic()
    for n in range(3 * MAX_LINES):
        writer.write(f"line {n} " + "x" * 100)
    assert time.monotonic() - began < 30
    assert not writer.flush(0.05), "the pipe is full"
    assert writer.lost >= MAX_LINES
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_until, pipe[0], b"and on it goes\n")
        assert writer.flush(20), "somebody reads now"
        writer.write("and on it goes")
        lines = reading.result(20).decode().splitlines()
    # Told once when nobody read, or more often where the pipe took a line meanwhile.
    told = [int(line.split()[0]) for line in lines if line.endswith(" were lost")]
    assert sum(told) == writer.lost
    assert len(lines) - len(told) - 1 + writer.lost == 3 * MAX_LINES


def test_few_long_lines_are_bounded_too(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1], "{} were lost".format)
    for _ in range(20):
        writer.write("x" * (1 << 20))
    assert 10 <= writer.lost < 20
    # To the very end: the loss is told more than once where the pipe took a line meanwhile.
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_until, pipe[0], b"and on it goes\n")
        assert writer.flush(DEADLINE_S)
        writer.write("and on it goes")
        assert b" were lost\n" in reading.result(DEADLINE_S)


def test_a_reader_that_is_gone_is_no_trouble() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    writer = LineWriter(write_end, "{} lost".format)
    for n in range(100):
        writer.write(f"line {n}")
    assert writer.flush()
    os.close(write_end)


SCRIPT = """
import logging, os, sys
from hive import logs
logs.setup("info", "json")
log = logging.getLogger("x")
log.info("before the fork")
pid = os.fork()
if pid == 0:
    log.info("in the child")
    logs.flush()
    os._exit(0)
os.waitpid(pid, 0)
log.info("the last words")
"""


def test_a_process_that_ends_and_a_forked_child_say_all_they_have_to_say_once() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    said = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert sorted(said) == ["before the fork", "in the child", "the last words"]


def test_a_process_whose_log_nobody_reads_still_ends(pipe: tuple[int, int]) -> None:
    script = "import logging\nfrom hive import logs\nlogs.setup('info', 'json')\n" + (
        "for n in range(5000): logging.getLogger('x').info('x' * 100)\nprint('done', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=pipe[1], text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_the_writing_thread_takes_no_signals(pipe: tuple[int, int]) -> None:
    """A signal that it took would not wake the thread that waits for one."""
    writer = LineWriter(pipe[1], "{} lost".format)
    writer.write("begin")
    assert writer.flush()
    (thread,) = [thread for thread in threading.enumerate() if thread is writer._thread]
    with open(f"/proc/self/task/{thread.native_id}/status") as status:
        blocked = next(int(line.split()[1], 16) for line in status if line.startswith("SigBlk"))
    assert blocked & (1 << (signal.SIGTERM - 1))


def record(
    message: str = "away", level: int = logging.WARNING, exc: Exception | None = None, **extra: object
) -> logging.LogRecord:
    made = logging.LogRecord("x", level, "f", 1, message, None, (type(exc), exc, None) if exc else None)
    for name, value in extra.items():
        setattr(made, name, value)
    return made


def test_the_same_trouble_is_told_once_a_minute_with_its_count() -> None:
    now = 100.0
    repeats = RepeatFilter(lambda: now)
    told = []
    for _ in range(150):
        if repeats.filter(made := record(fields={"reason": "refused"})):
            told.append((now, getattr(made, "fields").get("repeated", 0)))  # noqa: B009
        now += 1
    assert told == [(100.0, 0), (100.0 + REPEAT_S, 59), (100.0 + 2 * REPEAT_S, 59)]


def test_another_reason_another_download_and_a_mere_note_are_told() -> None:
    repeats = RepeatFilter(lambda: 1.0)
    assert all(repeats.filter(record(fields={"reason": str(n)})) for n in range(5))
    assert all(repeats.filter(record(fields={"download_id": "d"})) for _ in range(5))
    assert all(repeats.filter(record(level=logging.INFO)) for _ in range(5))
    assert all(repeats.filter(record("failed", exc=ValueError(n))) for n in range(5))
    assert [repeats.filter(record(repeats=True, fields={"download_id": "d"})) for _ in range(3)] == [True, False, False]
    assert [repeats.filter(record("failed", exc=ValueError("same"))) for _ in range(3)] == [True, False, False]


def test_troubles_are_remembered_within_a_limit() -> None:
    repeats = RepeatFilter(lambda: 1.0)
    for n in range(3 * MAX_TROUBLES):
        repeats.filter(record(str(n)))
    assert len(repeats._told) == MAX_TROUBLES


def test_everybody_is_flushed_at_the_end(pipe: tuple[int, int]) -> None:
    writer = LineWriter(pipe[1], "{} lost".format)
    writer.write("last")
    log_writer.flush()
    assert os.read(pipe[0], 100) == b"last\n"


EVIL = "\x1b]0;title\x07\x9b2J\u202e\u2028\x85\n00:00:00 error   forged"


@pytest.mark.parametrize("formatter", [logs.ConsoleFormatter(), logs.JsonFormatter()])
def test_text_from_elsewhere_is_harmless_in_a_line_of_the_log(formatter: logging.Formatter) -> None:
    try:
        raise ValueError(EVIL)
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 0, "of %s", (EVIL,), sys.exc_info())
    record.fields = {"name": EVIL, "list": [EVIL]}
    written = formatter.format(record)
    assert all(char.isprintable() or char == "\n" for char in written)
    assert not [line for line in written.split("\n") if line.startswith("00:00:00")]
    if isinstance(formatter, logs.JsonFormatter):
        assert json.loads(written)["name"] == EVIL


@pytest.mark.usefixtures("kept_logging")
def test_a_server_whose_headers_are_out_of_form_brings_no_url_into_the_log() -> None:
    class Odd(LocalServer):
        def handle(self, request: BaseHTTPRequestHandler) -> None:
            send_head(request, 200, {"X-Odd ": "a blank before the colon"}, 0)

    stream = io.StringIO()
    logs.setup("debug", "console", stream)
    with Odd() as server, urllib3.PoolManager() as client:
        client.request("GET", f"http://{server.host}/f?X-Amz-Signature=secret", preload_content=False).close()
    assert "secret" not in stream.getvalue()
