"""`scripts/fuzz`: more generated requests than the tests send, from other beginnings."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click

from hive.processes.embedded_redis import EmbeddedRedis
from tests.fuzz.running import fuzz
from tests.fuzz.world import alone, shared


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--examples", default=30, help="Requests for each operation, beside what is tried in any case.")
@click.option("--seed", type=int, help="Which ones.  [default: the time]")
@click.option(
    "--keys/--no-keys", "with_keys", default=True, help="A server with keys, workers and a Hub, or one alone."
)
def main(examples: int, seed: int | None, with_keys: bool) -> None:
    """Send generated requests to a real server, and stop with 1 where an answer is not as the document says.

    20 for each of 42 operations took four minutes on two cores that had a dozen other things to do: a minute and a half
    for what is tried in any case, and six seconds for each further one of all operations.
    """
    seed = int(time.time()) if seed is None else seed
    click.echo(f"seed {seed}")
    with tempfile.TemporaryDirectory(prefix="hive-") as name:
        folder = Path(name)
        with EmbeddedRedis(folder / "redis") as redis, (shared if with_keys else alone)(redis.url, folder) as world:
            found = fuzz(
                world.server.url,
                folder,
                examples=examples,
                seed=seed,
                known=world.known,
                headers=world.headers,
                without=() if with_keys else ("/v1/models/plan",),
            )
    click.echo(found.report)
    raise SystemExit(not found.passed)


if __name__ == "__main__":
    main(prog_name="scripts/fuzz")
