"""`hive pull` and `hive watch`: ask for a model, show how it comes, print where it is."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from hive.cli.errors import USAGE, CliError, hints_of
from hive.cli.format import plain
from hive.cli.hub_token import Token, read_token
from hive.cli.limits import bytes_per_second
from hive.cli.progress import choose_printer
from hive.cli.server import Server, find_server, need_server
from hive.settings import Settings
from hive.wire.events import Complete, Error, Event
from hive.wire.jobs import RANKS
from hive.wire.refs import RefError, parse_ref

if TYPE_CHECKING:
    from hive.client import Client

#: How often a pull may need another server, because the private one of another pull ended under it.
MAX_SERVERS = 5


class Output(NamedTuple):
    """What is to be shown: `--json` and `--quiet`."""

    as_json: bool = False
    quiet: bool = False


def _rate(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    return None if text is None else bytes_per_second(text)


@click.command(short_help="Download a model and show how far it is.")
@click.argument("ref")
@click.option("-r", "--revision", metavar="REV", help="Branch, tag or commit; the same as @REV in the reference.")
@click.option("--include", metavar="GLOB", multiple=True, help="Only files that match. May be given several times.")
@click.option("--exclude", metavar="GLOB", multiple=True, help="No files that match. May be given several times.")
@click.option("--update", is_flag=True, help="Ask the Hub for a newer version where the model is on disk.")
@click.option("--sha256", metavar="HEX", help="The digest that the file of a plain URL must have.")
@click.option("--name", metavar="FILE", help="What the file of a plain URL is to be called.")
@click.option("--priority", type=click.Choice(list(RANKS)), default="normal", help="How soon it gets a worker.")
@click.option("--limit-rate", metavar="RATE", callback=_rate, help="A limit for this download alone: 10MB/s, 800k.")
@click.option("-d", "--detach", is_flag=True, help="Start it, print its id, and do not wait.")
@click.option("--json", "as_json", is_flag=True, help="Print events, one JSON object a line.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress; print the path only.")
@click.option("--token-file", type=click.Path(), metavar="FILE", help="Read the Hub token from a file.")
@click.option("--token-stdin", is_flag=True, help="Read the Hub token from standard input.")
@click.option("--no-token", is_flag=True, help="Do not send HF_TOKEN along.")
def pull(
    ref: str,
    detach: bool,
    as_json: bool,
    quiet: bool,
    token_file: str | None,
    token_stdin: bool,
    no_token: bool,
    **selection: Any,
) -> None:
    """Download a model and show how far it is. Prints the path of the model.

    REF is org/name, hf:org/name@revision, hf:org/name:Q4_K_M, hf:org/name/file.gguf, or an http(s) URL.

    What is on disk is not fetched again, and a download that is under way is joined. Where no server answers, hive runs
    what it needs for the time of this download.

    HF_TOKEN is sent along to a server on this machine or behind https, never over plain http.
    """
    _unwind_on_sigterm()
    settings = Settings.from_env()
    selection["max_bytes_per_second"] = selection.pop("limit_rate")
    name = _name_of(ref)
    token = read_token(settings, token_file, from_stdin=token_stdin, none=no_token)
    output = Output(as_json, quiet)
    for _ in range(MAX_SERVERS):
        found = find_server(settings)
        if found is None:
            if _pull_alone(settings, ref, name, token, output, selection, detach=detach):
                return
            continue
        with found.client() as client:
            if detach:
                _detach(client, ref, token, selection, as_json=as_json)
                return
            if _pull_from(client, found, ref, name, token, output, selection):
                return
    raise CliError("The servers that this pull joined ended one after the other.", "run `hive up` and pull again")


@click.command(short_help="Follow a download to its end.")
@click.argument("download_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print events, one JSON object a line.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress; print the path only.")
def watch(download_id: str, as_json: bool, quiet: bool) -> None:
    """Follow a download to its end. Prints the path of the model.

    ID is the download's id, or the first 4 or more characters of it.
    """
    from hive.cli.download_ids import find_download

    _unwind_on_sigterm()
    output = Output(as_json, quiet)
    with need_server(Settings.from_env()).client() as client:
        download = find_download(client, download_id)
        try:
            end = follow(client, download.id, plain(download.model_ref), output)
        except KeyboardInterrupt:
            _say_detached(download.id)
            raise
    finish(end, output)


def follow(client: Client, download_id: str, name: str, output: Output) -> Event:
    """Show a download until its end; gives the terminal event."""
    event: Event | None = None
    with choose_printer(name, as_json=output.as_json, quiet=output.quiet) as printer:
        for event in client.watch(download_id, on_wait=printer.waiting):
            printer.show(event)
    if event is None:
        raise CliError("The server ended the stream without an event.", code="INTERNAL_ERROR")
    return event


def finish(end: Event, output: Output) -> None:
    """Print the path of a download that is complete.

    Raises:
        CliError: what the download says, where it failed or was cancelled.
    """
    if isinstance(end, Error):
        raise CliError(plain(end.message), *hints_of(end.details or {}), code=end.code)
    if isinstance(end, Complete) and not output.as_json:
        click.echo(end.local_path)


def _pull_alone(
    settings: Settings,
    ref: str,
    name: str,
    token: Token,
    output: Output,
    selection: dict[str, Any],
    *,
    detach: bool,
) -> bool:
    """Pull with a private stack, which ends with the pull; False where another hive was faster to take the home."""
    if detach:
        raise CliError(
            "--detach needs a server that goes on without this command, and none answers.",
            "start one with `hive up`, or leave --detach away",
            exit_code=USAGE,
        )
    from hive.cli.private_server import HomeTaken, private_stack

    if not (output.quiet or output.as_json):
        click.echo(f"No hive is running: running one for this download, store {settings.store_dir}", err=True)
    try:
        with private_stack(settings) as server, server.client() as client:
            started = client.download(ref, hf_token=token.for_server(client.url), **selection)
            finish(follow(client, started.download_id, name, output), output)
    except HomeTaken:
        return False
    except KeyboardInterrupt:
        click.echo(f"Stopped. What arrived is kept: `hive pull {name}` goes on from there.", err=True)
        raise
    return True


def _pull_from(
    client: Client,
    server: Server,
    ref: str,
    name: str,
    token: Token,
    output: Output,
    selection: dict[str, Any],
) -> bool:
    """Pull from a server that runs already; False where it was another pull's and has ended with that."""
    from hive.client import ServerUnreachable

    download_id = ""
    try:
        download_id = client.download(ref, hf_token=token.for_server(client.url), **selection).download_id
        end = follow(client, download_id, name, output)
    except ServerUnreachable:
        if server.private:
            return False
        raise
    except KeyboardInterrupt:
        if download_id:
            _say_detached(download_id)
        raise
    finish(end, output)
    return True


def _detach(client: Client, ref: str, token: Token, selection: dict[str, Any], *, as_json: bool) -> None:
    import msgspec

    started = client.download(ref, hf_token=token.for_server(client.url), **selection)
    if as_json:
        click.echo(msgspec.json.encode(started))
        return
    click.echo(started.download_id)
    if started.local_path:
        click.echo(f"On disk already: {started.local_path}", err=True)
    else:
        click.echo(f"Follow it with `hive watch {started.download_id[:8]}`.", err=True)


def _unwind_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does: with the terminal's cursor back and a private stack stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _say_detached(download_id: str) -> None:
    short = download_id[:8]
    click.echo(
        f"The download goes on. Come back with `hive watch {short}`, end it with `hive cancel {short}`.",
        err=True,
    )


def _name_of(ref: str) -> str:
    """What to call a download: the reference without what may be secret in it.

    Raises:
        CliError: when it is no reference.
    """
    try:
        return parse_ref(ref).display
    except RefError as error:
        raise CliError(plain(str(error)), code="INVALID_MODEL_REF", exit_code=USAGE) from None
