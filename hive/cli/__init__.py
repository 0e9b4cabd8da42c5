"""The command line: `hive pull`, `hive up` and their like.

Problem: a command line is started for a glance at its help as often as for its work, and importing everything that any
command needs (an HTTP client, a terminal library) takes ten times as long as printing the help. So the table below is
all that is imported at first; a command's module is imported when it runs.
"""

from __future__ import annotations

import importlib
import keyword
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import click

from hive.cli.output import drop_unwritten, echo_lines, open_streams
from hive.imports import uncollected
from hive.utf8_mode import ensure_utf8
from hive.version import VERSION


class CommandEntry(NamedTuple):
    """A command: where it lives, and its line in the help. A test compares that line with the command's own."""

    module: str
    help: str


#: Commands by the headings of `hive --help`, in the order people need them.
COMMANDS: Final[dict[str, dict[str, CommandEntry]]] = {
    "Models": {
        "pull": CommandEntry("hive.cli.pull", "Download models and show how far they are."),
        "ls": CommandEntry("hive.cli.models", "List the models on disk."),
        "wait": CommandEntry("hive.cli.wait", "Wait until a model is on disk."),
        "show": CommandEntry("hive.cli.show", "Show a download or a model."),
        "rm": CommandEntry("hive.cli.models", "Delete models from disk."),
        "export": CommandEntry("hive.cli.archive", "Write a model to an archive, for a machine without a network."),
        "import": CommandEntry("hive.cli.archive", "Bring the model of an archive into the store."),
        "catalog": CommandEntry("hive.cli.catalog", "Check the models on disk."),
        "gc": CommandEntry("hive.cli.gc", "Remove from disk what nothing refers to."),
    },
    "Models in memory": {
        "run": CommandEntry("hive.cli.llm", "Load a model and talk to it."),
        "stop": CommandEntry("hive.cli.llm", "End workers that have a model in memory."),
    },
    "Downloads": {
        "ps": CommandEntry("hive.cli.downloads", "List the downloads under way."),
        "watch": CommandEntry("hive.cli.pull", "Follow a download to its end."),
        "cancel": CommandEntry("hive.cli.controls", "End downloads; what arrived is kept."),
        "pause": CommandEntry("hive.cli.controls", "Pause downloads; what arrived is kept."),
        "resume": CommandEntry("hive.cli.controls", "Let paused downloads go on."),
        "retry": CommandEntry("hive.cli.controls", "Try again what failed or was cancelled."),
        "priority": CommandEntry("hive.cli.controls", "Change how soon a download gets a worker."),
    },
    "Service": {
        "up": CommandEntry("hive.cli.up", "Run everything on this machine: Redis, server, workers."),
        "serve": CommandEntry("hive.cli.up", "Run the HTTP server."),
        "worker": CommandEntry("hive.cli.up", "Run workers."),
        "key": CommandEntry("hive.cli.key", "Make, list and revoke API keys."),
        "limit": CommandEntry("hive.cli.limits", "Show or set the limits of all workers together."),
        "version": CommandEntry("hive.cli.version", "Show the version of this program and of the server."),
    },
}

#: Other words that people type for a command: what it is called elsewhere.
ALIASES: Final = {"list": "ls", "delete": "rm", "remove": "rm", "download": "pull", "get": "pull", "status": "ps"}

#: Characters of a line of help at least and at most.
MIN_HELP_CHARS: Final = 20
MAX_HELP_CHARS: Final = 100
#: Up to here an option and what it is for do not stand side by side.
NARROW_HELP_CHARS: Final = 60

_EPILOG: Final = (
    "HIVE_HOST names the server (default 127.0.0.1:8080), HIVE_STORE the folder where models are kept. "
    "docs/settings.md lists all settings."
)


def function_of(name: str) -> str:
    """What the function of a command is called in its module: `import` is a word of Python's."""
    return f"{name}_" if keyword.iskeyword(name) else name


class HelpFormatter(click.HelpFormatter):
    """Help that can be read in a narrow terminal too: what an option is for begins below it, not beside it."""

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Options or commands, and what they are for."""
        if self.width <= NARROW_HELP_CHARS:
            below = ",\n" + " " * self.current_indent
            rows = [(n if len(n) < self.width - self.current_indent else n.replace(", ", below), t) for n, t in rows]
            col_max = self.width // 3
        super().write_dl(list(rows), col_max, col_spacing)


class CommandContext(click.Context):
    """The context of each command, for its help."""

    formatter_class = HelpFormatter


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports a command when it is used."""

    context_class = CommandContext

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the help."""
        return [name for section in COMMANDS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now, or None where there is none of this name."""
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        for section in COMMANDS.values():
            if cmd_name in section:
                with uncollected():
                    found = getattr(importlib.import_module(section[cmd_name].module), function_of(cmd_name))
                assert isinstance(found, click.Command)
                for command in (found, *getattr(found, "commands", {}).values()):
                    command.context_class = CommandContext
                return found
        return None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. A closed pipe is ours to handle: click would make a failure of it."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            from hive.cli.errors import ReaderGone

            raise ReaderGone from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The sections of the help, without importing a command."""
        for heading, section in COMMANDS.items():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:8}", entry.help) for name, entry in section.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name; a name that is close to one of ours is said in the error."""
        names = [*self.list_commands(ctx), *ALIASES]
        if args and not args[0].startswith("-") and args[0] not in names:
            import difflib

            close = difflib.get_close_matches(args[0], names, n=1)
            ctx.fail(f"There is no command '{args[0][:40]}'." + (f" Did you mean '{close[0]}'?" if close else ""))
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": MAX_HELP_CHARS},
    epilog=_EPILOG,
    invoke_without_command=True,
)
@click.version_option(VERSION, "-V", "--version", message="hive %(version)s", help="Show the version and exit.")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Bring model files from the Hugging Face Hub or a URL onto disk: once, verified, resumable.

    Try `hive pull org/name`. Nothing needs to run for that; `hive up` runs the service for others.
    """
    if ctx.invoked_subcommand is None:
        echo_lines(ctx.get_help())


def help_width() -> int:
    """Characters of a line of help: the terminal's, which click takes for 50 at least."""
    return max(MIN_HELP_CHARS, min(shutil.get_terminal_size().columns, MAX_HELP_CHARS) - 2)


def run(args: Sequence[str] | None = None) -> int:
    """Run a command line and give its exit code: 0 well, 1 failed, 2 wrong usage, 130 interrupted.

    Errors go to stderr.
    """
    open_streams()
    _never_fail_to_write(sys.stdout)
    try:
        result = cli.main(args, prog_name="hive", standalone_mode=False, terminal_width=help_width())
        # What is still buffered is written here, where a closed pipe is handled, and not when the interpreter ends.
        sys.stdout.flush()
    except BaseException as error:
        from hive.cli.errors import report

        return report(error)
    return result if isinstance(result, int) else 0


def _never_fail_to_write(stream: Any) -> None:
    """Let a stream take every name. What its encoding does not have (LANG=C, PYTHONIOENCODING=ascii) goes out in UTF-8,
    as it stands on the disk: whoever reads our output opens that path. Standard error shows such letters as escapes.
    """
    import codecs

    if hasattr(stream, "reconfigure"):
        codecs.register_error("hive-utf8", _as_utf8)
        stream.reconfigure(errors="hive-utf8")


def _as_utf8(error: UnicodeError) -> tuple[bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    return error.object[error.start : error.end].encode("utf-8", "surrogateescape"), error.end


def main() -> None:
    """The program `hive`."""
    ensure_utf8()
    if os.getpid() == 1:
        import signal

        # The first process of a container gets no signal that it has no handler for: `docker stop` of a `hive wait`,
        # and the end of a pod, would wait until it is killed. What has a way of its own to end sets that later.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    code = run()
    drop_unwritten()
    sys.exit(code)
