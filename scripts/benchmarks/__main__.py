"""`scripts/bench`: the command line of the benchmarks."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from benchmarks import machine


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def cli() -> None:
    """Measure hive against its peers, on loopback addresses only. Every table is Markdown."""
    machine.prepare()


SCENARIOS = ("one", "small", "many", "saturation", "idle", "reconnect", "stalled")


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
    """The progress stream against nchan. Without a scenario: all of them.

    one: --subscribers of one download. small: 1,000 of one. many: --connections over --ids. saturation: more than a
    core can do. idle, reconnect: --connections. stalled: --clients that never read.
    """
    from benchmarks import stream as it

    with tempfile.TemporaryDirectory(prefix="hive-bench-") as folder, it.Bench(Path(folder)) as bench:
        for scenario in scenarios or SCENARIOS:
            if scenario == "one":
                it.compare(bench, it.Load(subscribers, seconds=seconds), pairs, f"{subscribers:,} subscribers of one download, 5 events a second")
            elif scenario == "small":
                it.compare(bench, it.Load(1000, seconds=seconds), pairs, "1,000 subscribers of one download, 5 events a second")
            elif scenario == "many":
                it.compare(bench, it.Load(connections, ids, seconds=seconds), pairs, f"{connections:,} subscribers over {ids:,} downloads, 5 events a second each")
            elif scenario == "saturation":
                it.saturate(bench, it.Load(subscribers, rate_per_s=100, seconds=seconds))
            elif scenario == "idle":
                it.idle(bench, connections, max(seconds, 30))
            elif scenario == "reconnect":
                it.reconnect(bench, connections, pairs)
            elif scenario == "stalled":
                it.stalled(bench, it.Load(subscribers, rate_per_s=5, seconds=seconds), clients)


if __name__ == "__main__":
    cli(prog_name="scripts/bench")
