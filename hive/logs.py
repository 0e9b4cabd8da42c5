"""Log lines that carry their request_id and download_id: for people on a terminal, JSON otherwise.

A download crosses three processes; the ids are the thread through their logs. They live in context variables, so that
a line written deep inside carries them without every function passing them on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Final, TextIO

from hive import log_writer
from hive.log_writer import LineWriter, RepeatFilter, WriterHandler
from hive.terminal import plain, plain_json, plain_lines

#: What is told of lines that nobody read in time.
_LOST: Final = "{} lines of the log were lost: nobody read them"
_say_to: dict[int, LineWriter] = {}
_context: ContextVar[dict[str, Any] | None] = ContextVar("log_context", default=None)


@contextlib.contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Put these fields on every log line written inside the block."""
    token = _context.set({**(_context.get() or {}), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def add(**fields: Any) -> None:
    """Put these fields, too, on every log line until the end of the innermost block of `bound`."""
    _context.set({**(_context.get() or {}), **fields})


def bound_field(name: str) -> str:
    """What is bound under this name here and now; '' for nothing."""
    return str((_context.get() or {}).get(name, ""))


def setup(level: str = "info", style: str = "auto", stream: TextIO | None = None) -> None:
    """Send all logging of the process to `stream` (standard error), as `console` or `json`; `auto` is json unless a
    terminal.
    """
    stream = stream or sys.stderr
    if style == "auto":
        style = "console" if stream.isatty() else "json"
    formatter = JsonFormatter() if style == "json" else ConsoleFormatter()
    handler = _handler(stream, formatter)
    handler.setFormatter(formatter)
    handler.addFilter(RepeatFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx2", "httpcore2", "huggingface_hub", "rq.worker", "rq.queue", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It warns of headers that are out of form, with the URL and its signature; what matters of that becomes an error.
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def say(line: str, stream: TextIO | None = None) -> None:
    """Write a line that is no log record to `stream` (standard error), as the log does: never waiting for a reader."""
    stream = stream or sys.stderr
    descriptor = _descriptor(stream)
    if descriptor is None:
        print(line, file=stream)
        return
    writer = _say_to.get(descriptor)
    if writer is None:
        writer = _say_to[descriptor] = LineWriter(descriptor, _LOST.format)
    writer.write(line)


def flush() -> None:
    """Give what is not written yet a moment, in a process that ends without Python's own end."""
    log_writer.flush()


def _handler(stream: TextIO, formatter: logging.Formatter) -> logging.Handler:
    """One that never makes who logs wait, where there is a descriptor that could."""
    descriptor = _descriptor(stream)
    if descriptor is None:
        return logging.StreamHandler(stream)

    def notice(lost: int) -> str:
        record = logging.LogRecord("hive.logs", logging.WARNING, __file__, 0, _LOST.format(lost), None, None)
        record.fields = {"lost": lost}
        return formatter.format(record)

    return WriterHandler(LineWriter(descriptor, notice))


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    extra = getattr(record, "fields", None)
    return {**(_context.get() or {}), **(extra if isinstance(extra, dict) else {})}


class ConsoleFormatter(logging.Formatter):
    """`14:03:07 info  workers.download  message  download_id=...`"""

    def format(self, record: logging.LogRecord) -> str:
        """One line for a person, tracebacks below it."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = "".join(f"  {name}={value}" for name, value in _fields(record).items())
        line = plain(f"{clock} {record.levelname.lower():7} {record.name:18} {record.getMessage()}{fields}")
        if not record.exc_info:
            return line
        return line + "\n" + plain_lines(self.formatException(record.exc_info), "  ")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One line for a program."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return plain_json(json.dumps(line, ensure_ascii=False, default=str))
