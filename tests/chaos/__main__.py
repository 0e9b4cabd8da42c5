"""`scripts/chaos`: hive with real processes, to which everything happens."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path

import click

from tests.chaos.faults import DEFAULT_KINDS, FAULTS
from tests.chaos.soak import FLEET, Plan, soak
from tests.support.content import MIB
from tests.support.release import RELEASES


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--minutes", default=5.0, type=click.FloatRange(0.1), help="For how long faults come.")
@click.option("--seed", default=1, help="Which faults come in which order; the timing is the machine's.")
@click.option("--every", default=20.0, type=click.FloatRange(1.0), help="Seconds from one fault to the next.")
@click.option("--only", multiple=True, type=click.Choice(list(FAULTS)), help="These faults and no others; repeatable.")
@click.option("--at-once", default=3, type=click.IntRange(1, 50), help="Downloads under way at a time.")
@click.option("--fleet", is_flag=True, help="Eight pools of one worker, and eight large models at a time.")
@click.option("--balanced", is_flag=True, help="People reach the replicas through nginx.")
@click.option("--begin-with", type=click.Choice(RELEASES), help="The release that runs at first.")
@click.option("--largest", default=200, type=click.IntRange(1), help="MiB of the largest model.")
@click.option("--calm-people", is_flag=True, help="Nobody pauses or cancels.")
@click.option("--logs", type=click.Path(path_type=Path, file_okay=False), help="Where the processes' logs go.")
def main(
    minutes: float,
    seed: int,
    every: float,
    only: tuple[str, ...],
    at_once: int,
    fleet: bool,
    balanced: bool,
    begin_with: str | None,
    largest: int,
    calm_people: bool,
    logs: Path | None,
) -> None:
    """Two replicas, two pools of two workers (or a --fleet), a Redis, all real; downloads keep coming, so do faults.

    Prints each fault, how long it took until bytes flowed again, each download with the bytes that were fetched again,
    and a table at the end. Ends with 1 where something was that must never be, and says what.
    """
    logs = logs or Path(tempfile.mkdtemp(prefix="hive-chaos-logs-"))
    plan = Plan(
        seconds=minutes * 60,
        seed=seed,
        every_s=every,
        kinds=only or DEFAULT_KINDS,
        at_once=at_once,
        largest_bytes=largest * MIB,
        meddle=not calm_people,
        balanced=balanced,
        version=begin_with or "",
    )
    if fleet:
        plan = dataclasses.replace(plan, **FLEET)
    report = soak(plan, tell=lambda line: click.echo(line, err=True), logs=logs)
    click.echo(report)
    click.echo(f"logs: {logs}")
    sys.exit(1 if report.violations else 0)


if __name__ == "__main__":
    main(prog_name="scripts/chaos")
