"""The one way of a command's text to standard output and standard error.

Whatever it says may hold text from elsewhere, and a terminal obeys what is in it (see `hive.terminal`). So no other
module of the command line writes; a test looks. What is drawn with `rich` is made of `plain` text.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, Final, TextIO

import click

from hive.terminal import plain, plain_json, plain_lines

#: The numbers of standard input, output and error.
_STREAMS: Final = (0, 1, 2)
_STDOUT: Final = 1
_STDERR: Final = 2


class _Unheard(io.RawIOBase):
    """A file whose writes never fail: what cannot be written is lost."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Its number."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, data: Any) -> int:
        """Bytes that were taken: all of them, where the system takes none."""
        with contextlib.suppress(OSError):
            return os.write(self._descriptor, data)
        return memoryview(data).nbytes


class Stdout(io.FileIO):
    """Standard output, unbuffered: what the system refuses there is told with that name, as a file's is with its own.

    A full disk below `hive ls > FILE` is then an error with a code and a way out.
    """

    def __init__(self) -> None:
        super().__init__(_STDOUT, "w", closefd=False)

    def write(self, data: Any) -> int:
        """Bytes that were taken."""
        try:
            return super().write(data)
        except OSError as error:
            error.filename = "standard output"
            raise


def open_streams() -> None:
    """Make the standard streams what commands rely on, however they were left.

    A closed one (`2>&-`, some daemons) leads to the null device: the next file that is opened would take its number,
    and a message end in a model. And standard error never fails: how far a download is, and what its log says, is no
    reason to end it where the disk of the log is full or the reader has gone.
    """
    for descriptor in _STREAMS:
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
    sys.stdin = sys.stdin or io.TextIOWrapper(io.FileIO(0, closefd=False))
    if sys.stdout is None or _number_of(sys.stdout) == _STDOUT:
        sys.stdout = _named(sys.stdout)
    if sys.stderr is not None and _number_of(sys.stderr) != _STDERR:
        return
    encoding = sys.stderr.encoding if sys.stderr is not None else "utf-8"
    raw = io.BufferedWriter(_Unheard(_STDERR))
    sys.stderr = io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace", line_buffering=True)


def _named(stdout: TextIO | None) -> TextIO:
    """Standard output as it was, with errors that name it."""
    raw = io.BufferedWriter(Stdout())
    if not isinstance(stdout, io.TextIOWrapper):
        return io.TextIOWrapper(raw, encoding="utf-8")
    return io.TextIOWrapper(
        raw,
        encoding=stdout.encoding,
        errors=stdout.errors,
        line_buffering=stdout.line_buffering,
        write_through=stdout.write_through,
    )


def _number_of(stream: TextIO) -> int | None:
    """Its file's number; None for one that somebody put in its place and that has no file."""
    try:
        return stream.fileno()
    except (AttributeError, OSError):
        return None


def drop_unwritten() -> None:
    """Forget what standard output would not take: it has been told, and Python would end with another exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def echo(line: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Write a line for people."""
    click.echo(plain(line), err=err, nl=nl)


def echo_lines(text: str) -> None:
    """Write lines for people to standard output."""
    click.echo(plain_lines(text))


def echo_error(*lines: str) -> None:
    """Write lines to standard error that were made of `plain` text, and may be in colour."""
    click.echo("\n".join(lines), err=True)


def echo_value(value: str) -> None:
    """Write an id or a path to standard output: as it is for a program that reads it, harmless on a terminal."""
    click.echo(plain(value) if sys.stdout.isatty() else value)


def echo_text(text: str) -> None:
    """Write a piece of a longer text to standard output, at once: as it is for a program, harmless on a terminal."""
    click.echo(plain_lines(text) if sys.stdout.isatty() else text, nl=False)
    sys.stdout.flush()


def echo_json(value: Any, *, indented: bool = False) -> None:
    """Write a value as JSON to standard output, on one line unless `indented`."""
    import msgspec

    from hive.wire.encoding import encode_json

    data = value if isinstance(value, bytes) else encode_json(value)
    click.echo(plain_json((msgspec.json.format(data) if indented else data).decode()))


def clear_line() -> None:
    """Remove what stands on the present line of standard error, which is a terminal."""
    click.echo("\r\x1b[K", err=True, nl=False)
