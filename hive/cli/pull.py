"""`hive pull` and `hive watch`: ask for a model, show how it comes, print where it is."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from hive.cli.errors import USAGE, CliError, each_in_turn, hints_of, say_hints, unwind_on_sigterm
from hive.cli.format import plain, shown
from hive.cli.hub_token import HubToken, read_token
from hive.cli.limits import bytes_per_second
from hive.cli.output import echo, echo_json, echo_value
from hive.cli.progress import choose_printer
from hive.cli.server import Server, find_server
from hive.cli.wanted import Wanted, read_list
from hive.errors import HiveError
from hive.settings import Settings
from hive.wire.events import Complete, Error, Event
from hive.wire.jobs import RANKS
from hive.wire.refs import HIDDEN_QUERY, ModelRef

if TYPE_CHECKING:
    from hive.client import Client
    from hive.downloads.local import NotedDownload
    from hive.wire.api import Started


class Output(NamedTuple):
    """What is to be shown: `--json` and `--quiet`."""

    as_json: bool = False
    quiet: bool = False


def _rate(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    return None if text is None else bytes_per_second(text)


@click.command(short_help="Download models and show how far they are.")
@click.argument("refs", metavar="REF...", nargs=-1)
@click.option("-f", "--file", "list_file", metavar="FILE", help="Read references from a file, one a line; - for stdin.")
@click.option("-r", "--revision", metavar="REV", help="Branch, tag or commit; the same as @REV in the reference.")
@click.option("--include", metavar="GLOB", multiple=True, help="Only files that match. May be given several times.")
@click.option("--exclude", metavar="GLOB", multiple=True, help="No files that match. May be given several times.")
@click.option("--update", is_flag=True, help="Ask the Hub for a newer version where the model is on disk.")
@click.option("--sha256", metavar="HEX", help="The digest that the file of a plain URL must have.")
@click.option("--name", metavar="FILE", help="What the file of a plain URL is to be called.")
@click.option("--priority", type=click.Choice(list(RANKS)), default="normal", help="How soon it gets a worker.")
@click.option("--limit-rate", metavar="RATE", callback=_rate, help="A limit for this download alone: 10MB/s, 800k.")
@click.option("-n", "--dry-run", is_flag=True, help="Only show what would be downloaded.")
@click.option("-d", "--detach", is_flag=True, help="Start it, print its id, and do not wait.")
@click.option("--json", "as_json", is_flag=True, help="Print events, one JSON object a line.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress; print the path only.")
@click.option("--token-file", type=click.Path(), metavar="FILE", help="Read the Hub token from a file.")
@click.option("--token-stdin", is_flag=True, help="Read the Hub token from standard input.")
@click.option("--no-token", is_flag=True, help="Do not send HF_TOKEN along.")
def pull(
    refs: tuple[str, ...],
    list_file: str | None,
    dry_run: bool,
    detach: bool,
    as_json: bool,
    quiet: bool,
    token_file: str | None,
    token_stdin: bool,
    no_token: bool,
    **selection: Any,
) -> None:
    """Download models and show how far they are. Prints the path of each.

    REF is org/name, hf:org/name@revision, hf:org/name:Q4_K_M, hf:org/name/file.gguf, an http(s) URL,
    ollama:name:tag, oci://host/name:tag, or modelscope:org/name.

    What is on disk is not fetched again, and a download that is under way is joined. Where no server answers, the
    download runs in this command: Ctrl-C stops it, and the same `hive pull` goes on from what has arrived.

    HF_TOKEN is sent along to a server on this machine or behind https, never over plain http.
    """
    unwind_on_sigterm()
    settings = Settings.from_env()
    selection["max_bytes_per_second"] = selection.pop("limit_rate")
    texts = (*refs, *(read_list(list_file) if list_file else ()))
    if not texts:
        raise click.UsageError("Missing argument 'REF...' or --file.", click.get_current_context())
    wanted = [Wanted.read(text, selection) for text in dict.fromkeys(texts)]
    token = read_token(settings, token_file, from_stdin=token_stdin, none=no_token)
    output = Output(as_json, quiet)
    server = find_server(settings)
    if dry_run:
        from hive.cli.plan import show_plans

        show_plans(settings, server, wanted, _for(server, token) if server else token, as_json=as_json)
        return
    if server is None:
        if detach:
            raise CliError(
                "--detach needs a server that goes on without this command, and none answers.",
                "hive up",
                exit_code=USAGE,
            )
        each_in_turn(wanted, lambda one: _pull_here(settings, one, token, output))
        return
    with server.client() as client:
        _pull_from(client, wanted, _for(server, token), output, detach=detach)


@click.command(short_help="Follow a download to its end.")
@click.argument("download_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print events, one JSON object a line.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress; print the path only.")
def watch(download_id: str, as_json: bool, quiet: bool) -> None:
    """Follow a download to its end. Prints the path of the model.

    ID is the download's id, or the first 4 or more characters of it.
    """
    from hive.cli.download_ids import find_download

    unwind_on_sigterm()
    settings, output = Settings.from_env(), Output(as_json, quiet)
    server = find_server(settings)
    if server is None:
        _watch_here(settings, download_id, output)
        return
    with server.client() as client:
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


def finish(end: Event, output: Output, ref: ModelRef | None = None) -> None:
    """Print the path of a download that is complete.

    Raises:
        CliError: what the download says, where it failed or was cancelled.
    """
    if isinstance(end, Error):
        raise CliError(plain(end.message), *hints_of(end.details or {}, ref), code=end.code)
    if isinstance(end, Complete) and not output.as_json:
        if end.message and not output.quiet:
            echo(f"note: {plain(end.message)}", err=True)
        echo_value(end.local_path)


def _pull_here(settings: Settings, one: Wanted, token: HubToken, output: Output) -> None:
    """Pull in this process, where no server answers."""
    from hive.cli.local_pull import PullStopped, checked, download_here, on_disk

    spec = checked(one.spec(token.value))
    found = on_disk(settings, spec)
    try:
        with choose_printer(one.name, as_json=output.as_json, quiet=output.quiet) as printer:
            if found is not None:
                printer.show(found)
            end = found or download_here(settings, spec, printer.show)
    except PullStopped:
        again = shlex.join(["hive", "pull", one.text if one.ref.url is None else one.name])
        say_hints(
            "Stopped. What arrived is kept; the same pull goes on from there.",
            again,
            f"hive rm {shlex.quote(shown(one.ref))}",
        )
        raise
    finish(end, output, one.ref)


def _watch_here(settings: Settings, text: str, output: Output) -> None:
    """Follow a download that another command of this machine runs."""
    from hive.cli.disk import LocalStore
    from hive.cli.download_ids import find_download
    from hive.cli.local_pull import follow_other, on_disk

    disk = LocalStore(settings)
    entry = disk.entry(find_download(disk, text).id)
    one = _wanted_again(entry)
    with choose_printer(one.name, as_json=output.as_json, quiet=output.quiet) as printer:
        follow_other(disk.local, one.spec(None), printer.show)
        end = on_disk(settings, one.spec(None))
        if end is not None:
            printer.show(end)
    if end is None:
        raise CliError("Nobody is downloading it now.", f"hive pull {shlex.quote(one.text)}")
    finish(end, output)


def resume_here(settings: Settings, entry: NotedDownload) -> None:
    """Go on in this process with a download of the intent log.

    Raises:
        CliError: it failed, or cannot go on: the query of its URL is not kept.
    """
    ref = entry.intent.ref
    if ref.endswith(HIDDEN_QUERY):
        raise CliError("The query of this URL is not kept.", f"hive pull '{ref}'", code="CREDENTIALS_LOST")
    token = read_token(settings, None, from_stdin=False, none=False)
    _pull_here(settings, _wanted_again(entry), token, Output())


def _wanted_again(entry: NotedDownload) -> Wanted:
    """What an earlier command wanted."""
    kept = ("include", "exclude", "update", "sha256", "max_bytes_per_second", "name")
    selection = {"revision": None, **{name: getattr(entry.intent.request, name) for name in kept}}
    return Wanted.read(entry.intent.request.ref, selection)


def _pull_from(client: Client, wanted: Sequence[Wanted], token: HubToken, output: Output, *, detach: bool) -> None:
    """Pull from a server: all are asked for at once, and then followed one after the other."""
    started: dict[str, Started] = {}

    def ask(one: Wanted) -> None:
        started[one.text] = _ask(client, one, token)

    def watch_one(one: Wanted) -> None:
        if one.text not in started:
            ask(one)
        answer = started[one.text]
        if detach:
            _say_detached_start(answer, as_json=output.as_json)
            return
        try:
            end = follow(client, answer.download_id, one.name, output)
        except KeyboardInterrupt:
            _say_detached(*(answer.download_id for answer in started.values()))
            raise
        finish(end, output, one.ref)

    if len(wanted) > 1:
        for one in wanted:
            with contextlib.suppress(HiveError):  # said when its turn comes
                ask(one)
    each_in_turn(wanted, watch_one)


def _for(server: Server, token: HubToken) -> HubToken:
    """The token that this server may see; where it is another user's and a token was not named, none, which is said."""
    if not server.foreign or token.named or token.value is None:
        return token
    say_hints(
        "This server is another user's, so HF_TOKEN stays here. To send a token all the same:",
        "hive pull --token-file FILE ...",
    )
    return HubToken()


def _ask(client: Client, one: Wanted, token: HubToken) -> Started:
    """Ask for a model; one that somebody has paused goes on, since this is somebody who wants it."""
    started = client.download(one.text, hf_token=token.for_client(client), **one.selection)
    if started.joined and client.get(started.download_id).status == "paused":
        client.resume(started.download_id)
    return started


def _say_detached_start(started: Started, *, as_json: bool) -> None:
    if as_json:
        echo_json(started)
        return
    echo_value(started.download_id)
    if started.local_path:
        echo(f"On disk already: {started.local_path}", err=True)
    else:
        say_hints("Under way.", f"hive watch {started.download_id[:8]}")


def _say_detached(*download_ids: str) -> None:
    shorts = [download_id[:8] for download_id in download_ids]
    goes = "The download goes on." if len(shorts) == 1 else "The downloads go on."
    say_hints(goes, *(f"hive watch {short}" for short in shorts), "hive cancel " + " ".join(shorts))
