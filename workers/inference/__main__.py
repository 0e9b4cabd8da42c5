"""`python -m workers.inference ORDER`: one LLM worker, as a machine that runs models starts it."""

from __future__ import annotations

import sys

import uvloop

from hive import logs
from hive.errors import HiveError
from hive.serving.orders import SpawnOrder, read_order
from hive.settings import Settings, SettingsError
from workers.inference.supervisor import Supervisor


async def _run(settings: Settings, order: SpawnOrder) -> int:
    return await Supervisor(settings, order).run()


def main(argv: list[str]) -> int:
    """The command; its exit code."""
    order = read_order(argv[1]) if len(argv) == 2 else None
    if not isinstance(order, SpawnOrder):
        print("usage: python -m workers.inference ORDER  (hive starts it: POST /v1/workers/spawn)", file=sys.stderr)
        return 2
    try:
        settings = Settings.from_env()
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not settings.redis_url:
        print("error: REDIS_URL is not set.", file=sys.stderr)
        return 2
    logs.setup(settings.log_level, settings.log_format)
    try:
        with logs.bound(llm_worker=order.worker_id):
            return uvloop.run(_run(settings, order))
    except HiveError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    finally:
        logs.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
