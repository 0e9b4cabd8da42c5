"""`hive run` and `hive stop`: talk to a model, and end what has it in memory.

    pull it, with a bar -> load it, with a bar ("24/32 layers") -> stream the answer, or prompt for questions

What `run` has started, it ends; what ran before stays. Ctrl-C cancels an answer.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Final

import click

from hive.cli.bars import PLAIN, columns_of, cut
from hive.cli.errors import CliError, each_in_turn
from hive.cli.format import plain
from hive.cli.output import clear_line, echo, echo_text
from hive.cli.progress import DUMB, choose_printer
from hive.cli.server import need_server
from hive.settings import Settings
from hive.wire import events
from hive.wire.llm import Fetching, LoadingError, LoadingToVram
from hive.wire.refs import RefError, parse_ref

if TYPE_CHECKING:
    from hive.client.llm import ModelsInMemory
    from hive.wire.llm import LlmWorker

#: Characters of the bar that shows how many layers are loaded.
BAR_CHARS: Final = 24
#: Characters of the name that stand beside it at least; columns of a terminal that does not say how many it has.
MIN_NAME_CHARS: Final = 12
DEFAULT_COLUMNS: Final = 80
#: The most questions and answers that a conversation remembers.
MAX_MESSAGES: Final = 200
#: What stands before a question, and what ends a conversation.
PROMPT: Final = ">>> "
ENDINGS: Final = frozenset({"/bye", "/exit", "/quit"})


@click.command(short_help="Load a model and talk to it.")
@click.argument("model")
@click.argument("prompt", nargs=-1)
@click.option("--context", type=click.IntRange(128), metavar="TOKENS", help="Tokens of context.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def run(model: str, prompt: tuple[str, ...], context: int | None, quiet: bool) -> None:
    """Load a model, downloading it first where it is not on disk, and answer PROMPT; without one, ask for questions.

    Needs a server, with an engine where its workers run (docs/serving.md). The model is unloaded at the end, unless
    it was in memory before. Ctrl-C cancels an answer.
    """
    from hive.client.llm import ModelsInMemory

    settings = Settings.from_env()
    text = " ".join(prompt)
    if not text and not sys.stdin.isatty():
        text = sys.stdin.read()
    with need_server(settings).client() as client:
        models = ModelsInMemory(client)
        with _loaded(models, _reference(model), context, quiet=quiet):
            if text:
                _answer(models, model, [{"role": "user", "content": text}])
            else:
                _converse(models, model)


@click.command(short_help="End workers that have a model in memory.")
@click.argument("names", metavar="MODEL_OR_ID...", nargs=-1, required=True)
def stop(names: tuple[str, ...]) -> None:
    """End the workers of a model, or one by its id: their memory goes back. `hive ps` lists them."""
    from hive.client.llm import ModelsInMemory

    with need_server(Settings.from_env()).client() as client:
        models = ModelsInMemory(client)

        def end(name: str) -> None:
            found = [worker for worker in models.workers() if _is_meant(worker, name)]
            if not found:
                raise CliError(f"No worker has {plain(name)} in memory.", "hive ps", code="WORKER_NOT_FOUND")
            for worker in found:
                models.stop(worker.id)
                echo(f"{worker.model_id or worker.model_ref} is ending")

        each_in_turn(names, end)


def _reference(model: str) -> str:
    """A bare `org/name` is what it is for `hive pull`. Raises CliError where it is no reference."""
    try:
        return str(parse_ref(model))
    except RefError as error:
        raise CliError(str(error), code="INVALID_MODEL_REF") from None


def _is_meant(worker: LlmWorker, name: str) -> bool:
    names = {worker.id, worker.model_ref, worker.model_id or ""}
    with contextlib.suppress(RefError):
        reference = str(parse_ref(name))
        for known in (worker.model_ref, worker.model_id or ""):
            with contextlib.suppress(RefError):
                if known and str(parse_ref(known)) == reference:
                    return True
    return name in names or worker.id.removeprefix("worker-").startswith(name)


@contextlib.contextmanager
def _loaded(models: ModelsInMemory, model: str, context: int | None, *, quiet: bool) -> Iterator[None]:
    """The model in memory, for the time of the block; what we have started ends with it."""
    spawned = models.spawn(model, context=context)
    is_ours = spawned.joined is not True
    try:
        _show_loading(models, spawned.worker_id, plain(model), quiet=quiet)
        yield
    finally:
        if is_ours:
            with contextlib.suppress(Exception):  # it may have ended by itself
                models.stop(spawned.worker_id)


def _show_loading(models: ModelsInMemory, worker_id: str, name: str, *, quiet: bool) -> None:
    """Raises CliError where it fails."""
    is_drawn = sys.stderr.isatty() and not quiet and Settings.from_env().term not in DUMB
    stream = models.loading(worker_id)
    for event in _without_download(stream, name, quiet=quiet):
        if isinstance(event, LoadingToVram) and is_drawn and event.layers_total:
            clear_line()
            echo(layers_line(name, event.layers_loaded, event.layers_total, _columns()), err=True, nl=False)
        elif isinstance(event, LoadingError):
            if is_drawn:
                clear_line()
            raise CliError(plain(event.message), code=event.code)
    if is_drawn:
        clear_line()


def layers_line(name: str, loaded: int, total: int, columns: int) -> str:
    """How far a model is loaded, in less than so many columns: a line that is wrapped cannot be drawn over. What has no
    room is left away, the bar before the name; the name is cut in its middle.
    """
    facts = f"{loaded}/{total} layers"
    filled = BAR_CHARS * loaded // total
    bar = f"[{'#' * filled}{'.' * (BAR_CHARS - filled)}]"
    for parts in ((bar, facts), (facts,)):
        room = columns - 1 - sum(len(part) + 1 for part in ("loading", *parts))
        if room >= min(columns_of(name), MIN_NAME_CHARS):
            return " ".join(("loading", cut(name, room, PLAIN.cut), *parts))
    return cut(facts, columns - 1, PLAIN.cut)


def _columns() -> int:
    """Those of the terminal that standard error is."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or DEFAULT_COLUMNS
    except (OSError, ValueError):
        return DEFAULT_COLUMNS


def _without_download(
    stream: Generator[events.Event | object, None, None], name: str, *, quiet: bool
) -> Generator[object, None, None]:
    """The events of loading; those of the download before it are shown as `hive pull` shows them."""
    first = next(stream, None)
    if isinstance(first, Fetching):
        with choose_printer(name, as_json=False, quiet=quiet) as printer:
            while isinstance(first, Fetching):
                progress = events.Downloading(
                    bytes_downloaded=first.bytes_downloaded, bytes_total=first.bytes_total, speed_mbps=first.speed_mbps
                )
                printer.show(progress)
                first = next(stream, None)
    if first is not None:
        yield first
    yield from stream


def _answer(models: ModelsInMemory, model: str, messages: list[dict[str, str]]) -> str:
    """Stream an answer to standard output; all of it. Ctrl-C cancels it."""
    pieces: list[str] = []
    answer = models.chat(_reference(model), messages)
    try:
        for piece in answer:
            pieces.append(piece)
            echo_text(piece)
    except KeyboardInterrupt:
        answer.close()
        echo_text("\n")
        echo("Canceled.", err=True)
        raise
    except Exception:
        echo_text("\n")  # what came is kept, and the error stands on a line of its own
        raise
    echo_text("\n")
    return "".join(pieces)


def _converse(models: ModelsInMemory, model: str) -> None:
    """Ask for questions until the end of input, or Ctrl-C; the model sees what was said before."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - the editing and the history of lines
    echo(f"{plain(model)} is loaded. /bye or Ctrl-D ends.", err=True)
    messages: list[dict[str, str]] = []
    while True:
        try:
            question = input(PROMPT).strip()
        except EOFError:
            echo(err=True)
            return
        except KeyboardInterrupt:
            echo(err=True)
            raise
        if question in ENDINGS:
            return
        if not question:
            continue
        asked = {"role": "user", "content": question}
        with contextlib.suppress(KeyboardInterrupt):
            said = _answer(models, model, [*messages, asked])
            messages = [*messages, asked, {"role": "assistant", "content": said}][-MAX_MESSAGES:]
