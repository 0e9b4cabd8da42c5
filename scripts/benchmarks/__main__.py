"""`scripts/bench`: the command line of the benchmarks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import click

from benchmarks import machine
from benchmarks.running import end_in_order

#: The scenarios of `stream`, in their order.
SCENARIOS = ("one", "small", "many", "saturation", "processes", "idle", "reconnect", "stalled")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def cli() -> None:
    """Measure hive against its peers, on loopback addresses only. Every table is Markdown."""
    machine.prepare()
    end_in_order()


@cli.command()
@click.argument("scenarios", nargs=-1, type=click.Choice(SCENARIOS))
@click.option("--subscribers", default=2000, help="Subscribers of the one download.")
@click.option("--connections", default=10_000, help="Connections of `many`, `idle` and `reconnect`.")
@click.option("--ids", default=1000, help="Downloads of `many`.")
@click.option("--clients", default=1000, help="Clients of `stalled` that never read.")
@click.option("--seconds", default=10.0, help="Length of one measurement.")
@click.option("--pairs", default=3, help="Runs of hive and of nchan, in turns.")
def stream(
    scenarios: tuple[str, ...], subscribers: int, connections: int, ids: int, clients: int, seconds: float, pairs: int
) -> None:
    """The progress stream, against nchan where there is one. Without a scenario: all of them.

    \b
    one         --subscribers of one download
    small       1,000 subscribers of one download
    many        --connections over --ids downloads
    saturation  more than a core can deliver
    processes   the same load on one server process and on two
    idle        --connections to which nothing is said
    reconnect   --connections that come back in the same moment
    stalled     --clients that never read, beside others that do
    """
    from benchmarks import stream as it

    one, small = (it.Load(count, seconds=seconds) for count in (subscribers, 1000))
    many = it.Load(connections, ids, seconds=seconds)
    runs: dict[str, Callable[[it.Bench], None]] = {
        "one": lambda bench: it.compare(
            bench, one, pairs, f"{subscribers:,} subscribers of one download, 5 events a second"
        ),
        "small": lambda bench: it.compare(bench, small, pairs, "1,000 subscribers of one download, 5 events a second"),
        "many": lambda bench: it.compare(
            bench,
            many,
            pairs,
            f"{connections:,} subscribers over {ids:,} downloads, 5 events a second each",
            peer=False,
        ),
        "processes": lambda bench: it.processes(bench, it.Load(subscribers, rate_per_s=100, seconds=seconds)),
        "saturation": lambda bench: it.saturate(bench, it.Load(subscribers, rate_per_s=100, seconds=seconds)),
        "idle": lambda bench: it.idle(bench, connections, max(seconds, 30)),
        "reconnect": lambda bench: it.reconnect(bench, connections, pairs),
        "stalled": lambda bench: it.stalled(bench, one, clients),
    }
    with tempfile.TemporaryDirectory(prefix="hive-bench-") as folder, it.Bench(Path(folder)) as bench:
        for scenario in scenarios or SCENARIOS:
            runs[scenario](bench)


@cli.command()
@click.option("--runs", default=20, help="Runs of `hive --help`.")
@click.option("--ups", default=5, help="Runs of `hive up`.")
@click.option("--requests", default=500, help="Requests for a download.")
@click.option("--pulls", default=7, help="Runs of `hive pull` and of `hf download`.")
@click.option("--megabytes", default=60, help="Size of the model that they pull.")
def start(runs: int, ups: int, requests: int, pulls: int, megabytes: int) -> None:
    """How soon hive is there: `hive --help`, `hive pull` beside `hf download`, `hive up`, and the answer to a request
    for a download.
    """
    from benchmarks import start as it

    with tempfile.TemporaryDirectory(prefix="hive-bench-") as folder:
        it.compile_code()
        it.help_times(runs)
        it.pull_times(Path(folder), pulls, megabytes)
        it.up_times(Path(folder), ups)
        it.request_times(Path(folder), requests)


@cli.command("serve-files")
@click.option("--gib", default=1.0, help="Size of the file.")
@click.option("--clients", default=64, help="Clients at once, after one alone.")
@click.option("--runs", default=3, help="Runs of hive and of nginx, in turns.")
@click.option("--subscribers", default=1000, help="Streams beside the clients; 0 for none.")
def serve_files(gib: float, clients: int, runs: int, subscribers: int) -> None:
    """Files of the store to clients, against nginx with sendfile, and how late events are meanwhile."""
    from benchmarks import files as it

    with tempfile.TemporaryDirectory(prefix="hive-bench-") as folder:
        it.measure(Path(folder), gib, clients, runs, subscribers)


#: The forms of `transfer`.
FORMS = ("one", "limited", "unlimited", "tls", "distant", "small", "mirror")


@cli.command()
@click.argument("forms", nargs=-1, type=click.Choice(FORMS))
@click.option("--gib", default=1.0, help="Size of the file of `one`; `limited` and `unlimited` have twice as much.")
@click.option("--runs", default=3, help="Runs of each tool, in turns.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where files go.  [default: the temporary folder]")
@click.option("--against", default="", help="Only the peers whose name holds this text, such as aria2c.")
def transfer(forms: tuple[str, ...], gib: float, runs: int, folder: Path | None, against: str) -> None:
    """Time and CPU of a download, against what people use today. Without a form: all of them.

    \b
    one        one file, against curl and hf download
    limited    twice the size, each connection limited to 40 MiB/s, against aria2c, hf and a loop with requests
    unlimited  the same without the limit
    tls        one file over TLS, without a limit and from behind a line of 1 Gbit/s, against all of them
    distant    one file from 50 ms away over connections that break now and then, against aria2c
    small      2,000 small files, against hf download
    mirror     hf download of a model through a hive without it, against hf download directly
    """
    from benchmarks import transfer as it

    hive, *peers = it.TOOLS
    names = [hive, *(name for name in peers if against in name and name != it.THROUGH)]
    others = [name for name in names if name != "curl"]
    runs_of: dict[str, Callable[[Path], None]] = {
        "one": lambda place: it.big(place, gib, runs, names[:3], it.NEARBY),
        "limited": lambda place: it.big(place, 2 * gib, runs, others, it.Way(it.LIMIT)),
        "unlimited": lambda place: it.big(place, 2 * gib, runs, others, it.NEARBY),
        "tls": lambda place: it.big(place, gib, runs, names, it.Way(tls=True), it.Way(tls=True, line=it.TLS_LINE)),
        "distant": lambda place: it.distant(place, gib, runs),
        "small": lambda place: it.small(place, runs),
        "mirror": lambda place: it.mirror(place, gib, runs),
    }
    for form in forms or FORMS:
        with tempfile.TemporaryDirectory(prefix="hive-bench-", dir=folder) as place:
            runs_of[form](Path(place))


@cli.command()
@click.option("--workers", default=4, type=click.IntRange(1, 64), help="Workers, each with a download.")
@click.option("--limit", default=40.0, help="Megabytes a second of all together.")
@click.option("--runs", default=3, help="Runs.")
def bandwidth(workers: int, limit: float, runs: int) -> None:
    """How near workers keep to the limit that they share (HIVE_MAX_BYTES_PER_SECOND)."""
    from benchmarks import bandwidth as it

    with tempfile.TemporaryDirectory(prefix="hive-bench-") as folder:
        it.measure(Path(folder), workers, limit, runs)


@cli.command()
@click.option("--subscribers", default=2000, help="Streams of one download, 5 events a second.")
def load(subscribers: int) -> None:
    """What an attack costs streams and downloads: 200 slow clients, 5,000 requests a second of junk, 5,000 silent
    connections, floods of headers and of pipelined requests, all at once. Ends within three minutes.
    """
    from benchmarks import load as it

    with tempfile.TemporaryDirectory(prefix="hive-bench-") as folder:
        it.measure(Path(folder), subscribers)


@cli.command()
@click.option("--streams", default=200, type=click.IntRange(1, 256), help="Streams at once.")
@click.option("--tokens", default=100, help="Tokens of each.")
@click.option("--rate", default=10.0, help="Tokens a second of each.")
@click.option("--runs", default=3, help="Runs of each way, in turns.")
def serve(streams: int, tokens: int, rate: float, runs: int) -> None:
    """What hive costs a token of a model in memory, and how much later the first one comes. It takes three times --runs
    times --tokens / --rate, in seconds, and a few more.
    """
    from benchmarks import serve as it

    with tempfile.TemporaryDirectory(prefix="hive-bench-") as folder:
        it.measure(Path(folder), streams, tokens, rate, runs)


@cli.command()
@click.option("--rows", default=50, help="Downloads under way.")
@click.option("--rate", default=5.0, help="Events a second of each.")
@click.option("--seconds", default=60.0, help="For how long.")
def page(rows: int, rate: float, seconds: float) -> None:
    """The page in a Chromium while downloads move: tasks over 50 ms, memory."""
    from benchmarks import page as it

    it.measure(rows, rate, seconds)


if __name__ == "__main__":
    cli(prog_name="scripts/bench")
