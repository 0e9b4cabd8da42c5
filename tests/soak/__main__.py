"""`scripts/soak-stream`: the trials of the progress stream, as many as one likes."""

from __future__ import annotations

import sys

import click

from tests.soak.soak import Report, soak


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--trials", default=100_000, type=click.IntRange(1), help="How many.")
@click.option("--seed", default=1, help="What is chosen at random; the timing is the machine's.")
@click.option("--processes", is_flag=True, help="Two `hive serve` processes instead of replicas in this process.")
def main(trials: int, seed: int, processes: bool) -> None:
    """Try the progress stream with clients, workers, zombies, and a Redis that is cut, killed, emptied and frozen.

    Ends with 1 where a client saw what it must not see; says what.
    """

    told = 0

    def tell(report: Report) -> None:
        nonlocal told
        for violation in report.violations[told:]:
            click.echo(violation, err=True)
        told = len(report.violations)
        click.echo(report, err=True)

    report = soak(trials, seed, processes=processes, tell=tell)
    tell(report)
    click.echo(report)
    sys.exit(1 if report.violations or report.trials < trials else 0)


main(prog_name="scripts/soak-stream")
