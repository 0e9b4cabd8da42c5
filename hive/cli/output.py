"""The one way of a command's text to standard output and standard error.

Whatever it says may hold text from elsewhere, and a terminal obeys what is in it (see `hive.terminal`). So no other
module of the command line writes; a test looks. What is drawn with `rich` is made of `plain` text.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from hive.terminal import plain, plain_json, plain_lines


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
