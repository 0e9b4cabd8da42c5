"""How a command fails: one line that says what is wrong, lines that say what to do, an exit code, and never a
traceback.

    error: The model has no such quantisation. Choose one of the variants in details. [VARIANT_NOT_FOUND]
    hint: variants: Q4_K_M, Q8_0
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterable, Mapping
from typing import Any, Final

import click

from hive.cli.format import plain
from hive.errors import HiveError, InternalError
from hive.settings import Settings, SettingsError

#: Exit codes.
FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130
#: Entries of a list in an error's details that are shown.
MAX_HINT_ENTRIES: Final = 20


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
        traceback.print_exception(error)
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
            return CliError(error.format_message(), f"see `{where}`", exit_code=USAGE)
        case click.ClickException():
            return CliError(error.format_message(), exit_code=error.exit_code)
        case HiveError():
            return CliError(plain(error.message), *hints_of(error.details), code=plain(error.code))
        case SettingsError():
            return CliError(str(error), exit_code=USAGE)
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return CliError(f"{where}{error.strerror or error}")
        case RuntimeError() if type(error) is not RuntimeError and type(error).__module__.startswith("hive."):
            return CliError(str(error))
    hint = "HIVE_LOG_LEVEL=debug shows where"
    return CliError(f"hive made a mistake: {type(error).__name__}: {error}", hint, code=InternalError.code)


def hints_of(details: Mapping[str, Any]) -> list[str]:
    """The lists in an error's details, such as the variants to choose from, as lines.

    Single figures are in the sentence.
    """
    return [plain(f"{name}: {_entries(value)}") for name, value in details.items() if isinstance(value, list) and value]


def say_error(message: str, *hints: str, code: str | None = None) -> None:
    """Write an error and its hints to standard error."""
    line = f"{style('error:', 'red')} {message}" + (f" [{code}]" if code else "")
    click.echo("\n".join([line, *(f"{style('hint:', 'cyan')} {hint}" for hint in hints)]), err=True)


def style(text: str, colour: str) -> str:
    """`text` in colour where standard error is a terminal and NO_COLOR is not set."""
    try:
        plain = bool(Settings.from_env().no_color)
    except SettingsError:
        plain = True
    return text if plain or not sys.stderr.isatty() else click.style(text, fg=colour)


def _entries(values: Iterable[Any]) -> str:
    shown = [_entry(value) for value in values]
    more = f" and {len(shown) - MAX_HINT_ENTRIES} more" if len(shown) > MAX_HINT_ENTRIES else ""
    return ", ".join(shown[:MAX_HINT_ENTRIES]) + more


def _entry(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(str(part) for part in value.values())
    return str(value)


def _wants_traceback() -> bool:
    try:
        return Settings.from_env().log_level == "debug"
    except SettingsError:
        return False
