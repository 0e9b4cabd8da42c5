"""How a command fails: one line that says what is wrong, lines that say what to do, an exit code, and never a
traceback.

    error: The model has no such quantisation. Choose one of the variants in details. [VARIANT_NOT_FOUND]
    hint: hive pull org/name:Q4_K_M  # 4.1 GB
    hint: hive pull org/name:Q8_0  # 7.2 GB
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import click
import msgspec

from hive.cli.format import plain, shown, size
from hive.cli.output import echo_error
from hive.errors import DiskFull, HiveError, InsufficientScope, InternalError, InvalidApiKey, MissingApiKey
from hive.own_limits import limit_reached
from hive.settings import Settings, SettingsError
from hive.terminal import plain_lines
from hive.wire.refs import ModelRef

T = TypeVar("T")

#: Exit codes.
FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130
#: What a disk says where it, or a quota on it, is full.
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
#: Entries of a list in an error's details that are shown.
MAX_HINT_ENTRIES: Final = 20


_KEY_HINTS: Final = (
    "export HIVE_API_KEY_FILE=/path/to/key HIVE_HOST=host:port  # the file has mode 0600",
    "hive key new --name NAME --scopes read,pull > key  # where the server runs",
)


class CliError(Exception):
    """An error of the command line itself: a sentence, hints, and the code that programs read where there is one."""

    def __init__(self, message: str, *hints: str, code: str | None = None, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hints = hints
        self.code = code
        self.exit_code = exit_code


class ReaderGone(Exception):
    """Whoever read our output has closed the pipe."""


def report(error: BaseException) -> int:
    """Say on standard error what `error` means, and give the exit code. A traceback only with HIVE_LOG_LEVEL=debug."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case KeyboardInterrupt() | click.Abort():
            return INTERRUPTED
        case SystemExit():
            return error.code if isinstance(error.code, int) else FAILED
        case ReaderGone() | BrokenPipeError():
            # The reader, `head` for example, has seen enough. Nothing can be written any more, also not when the
            # interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
    if _wants_traceback():
        echo_error(plain_lines("".join(traceback.format_exception(error)).rstrip(), "  "))
    shown = explain(error)
    say_error(shown.message, *shown.hints, code=shown.code)
    return shown.exit_code


def explain(error: BaseException) -> CliError:
    """Any error as the line, the hints and the exit code that a person gets."""
    match error:
        case CliError():
            return error
        case click.UsageError():
            where = f"{error.ctx.command_path} --help" if error.ctx else "hive --help"
            return CliError(error.format_message(), where, exit_code=USAGE)
        case click.ClickException():
            return CliError(error.format_message(), exit_code=error.exit_code)
        case MissingApiKey() | InvalidApiKey() | InsufficientScope():
            return CliError(plain(error.message), *_KEY_HINTS, code=plain(error.code))
        case HiveError():
            return CliError(plain(error.message), *hints_of(error.details), code=plain(error.code))
        case SettingsError():
            return CliError(str(error), exit_code=USAGE)
        case MemoryError() | RuntimeError() | OSError() if limit := limit_reached(error):
            return CliError(limit.message, code=limit.code)
        case OSError():
            return _refused(error)
        case RuntimeError() if type(error) is not RuntimeError and type(error).__module__.startswith("hive."):
            return CliError(str(error))
    hint = "HIVE_LOG_LEVEL=debug shows where"
    return CliError(f"hive made a mistake: {type(error).__name__}: {error}", hint, code=InternalError.code)


def _refused(error: OSError) -> CliError:
    """What the system refuses, and where."""
    if error.filename and error.errno in FULL:
        return CliError(f"{error.filename}: {error.strerror}. Free some room there.", code=DiskFull.code)
    where = f"{error.filename}: " if error.filename else ""
    return CliError(f"{where}{error.strerror or error}")


def hints_of(details: Mapping[str, Any], ref: ModelRef | None = None) -> list[str]:
    """What an error's details offer to choose from, one a line: commands to copy where `ref` was asked for, the one
    nearest to it first. Single figures are in the sentence.
    """
    hints = []
    for name, value in details.items():
        if not isinstance(value, list) or not value:
            continue
        if ref is not None and ref.repo and name in ("variants", "similar"):
            hints += [plain(line) for line in _pulls(ref, name, value)]
        else:
            hints.append(plain(f"{name}: {', '.join(_entry(entry) for entry in value[:MAX_HINT_ENTRIES])}"))
    return hints


def _pulls(ref: ModelRef, name: str, entries: Sequence[Any]) -> list[str]:
    """A `hive pull` for each variant or path."""
    lines = []
    for entry in _nearest_first(ref.quant or ref.path or "", entries)[:MAX_HINT_ENTRIES]:
        part, size_bytes = (entry.get("name"), entry.get("bytes")) if isinstance(entry, dict) else (entry, None)
        if not isinstance(part, str):
            continue
        wanted = {"quant": part, "path": None} if name == "variants" else {"path": part, "quant": None}
        size_text = f"  # {size(size_bytes)}" if isinstance(size_bytes, int) else ""
        lines.append(f"hive pull {shlex.quote(shown(msgspec.structs.replace(ref, **wanted)))}{size_text}")
    return lines


def _nearest_first(wanted: str, entries: Sequence[Any]) -> list[Any]:
    """By likeness to what was asked for; in their own order where nothing was."""
    from difflib import SequenceMatcher

    def distance(entry: Any) -> float:
        text = str(entry.get("name") if isinstance(entry, dict) else entry)
        return -SequenceMatcher(None, wanted.lower(), text.lower()).ratio()

    return sorted(entries, key=distance) if wanted else list(entries)


def each_in_turn(wanted: Sequence[T], do: Callable[[T], None]) -> None:
    """Do it for each; one that fails does not keep the others from it.

    Raises:
        click.exceptions.Exit: several were asked for and one has failed; what failed has been said.
    """
    if len(wanted) == 1:
        do(wanted[0])
        return
    codes = []
    for one in wanted:
        try:
            do(one)
        except (CliError, HiveError, OSError) as error:
            codes.append(report(error))
    if codes:
        raise click.exceptions.Exit(max(codes))


def unwind_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does: with the terminal's cursor back and nothing half-done left."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def say_error(message: str, *hints: str, code: str | None = None) -> None:
    """Write an error and its hints to standard error."""
    line = f"{style('error:', 'red')} {plain(message)}" + (f" [{plain(code)}]" if code else "")
    echo_error(line, *_hints(hints))


def say_hints(message: str, *commands: str) -> None:
    """Write a sentence to standard error, and below it commands to copy, one a line, the nearest first."""
    echo_error(plain(message), *_hints(commands))


def _hints(hints: Sequence[str]) -> list[str]:
    return [f"{style('hint:', 'cyan')} {plain(hint)}" for hint in hints]


def style(text: str, colour: str) -> str:
    """`text` in colour where standard error is a terminal and NO_COLOR is not set."""
    try:
        is_bare = bool(Settings.from_env().no_color)
    except SettingsError:
        is_bare = True
    return text if is_bare or not sys.stderr.isatty() else click.style(text, fg=colour)


def _entry(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(str(part) for part in value.values())
    return str(value)


def _wants_traceback() -> bool:
    try:
        return Settings.from_env().log_level == "debug"
    except SettingsError:
        return False
