"""`python -m workers --concurrency N`: a pool of N worker processes that take downloads from the queue.

RQ's own pool drops the serializer and unpickles, so the pool is ours: it imports what a download needs once, forks N
workers and the resolver, replaces one that dies, and hands SIGTERM on. Ctrl-C reaches only the pool, which asks its
workers to stop in order.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import os
import shutil
import sys
import time
from typing import NoReturn

from rq import Queue

from hive import logs
from hive.errors import StoreMissing
from hive.imports import uncollected
from hive.processes.prefork import STOP_S, Prefork
from hive.redis import probe as redis_probe
from hive.redis.client import RedisClient, connect
from hive.redis.errors import describe, is_redis_error
from hive.secrets import SecretKeyError, check_others_key
from hive.settings import Settings, SettingsError
from hive.store import probe
from hive.wire import keys
from workers.fleet.same_store import PATIENCE_S as OBJECTION_PATIENCE_S
from workers.fleet.same_store import lasting_objection
from workers.process.job import DownloadJob
from workers.process.worker import DEQUEUE_TIMEOUT_S, DownloadWorker

log = logging.getLogger("workers.pool")

#: The most worker processes in one pool.
MAX_CONCURRENCY = 256
#: The exit code of a worker whose store is not the server's.
WRONG_STORE = 1
#: Seconds that RQ's client waits for a reply: longer than it blocks for a job, and not by much, since a Redis that
#: hangs (a primary that was frozen and replaced) is left after this time.
RQ_REPLY_TIMEOUT_S = float(DEQUEUE_TIMEOUT_S + 3)


def work(settings: Settings) -> None:
    """Be one worker, in this process, until SIGTERM."""
    assert settings.redis_address is not None
    client = connect(settings.redis_address, reply_timeout_s=RQ_REPLY_TIMEOUT_S)
    queue = Queue(keys.QUEUE, connection=client, serializer="json", job_class=DownloadJob)
    name = f"{os.uname().nodename}.{os.getpid()}.{os.urandom(2).hex()}"
    while True:
        try:
            worker = DownloadWorker(settings, queue, name)
            break
        except Exception as error:
            if not is_redis_error(error):
                raise
            log.warning("waiting for Redis", extra={"fields": {"reason": describe(error)}, "repeats": True})
            time.sleep(1)
    worker.work(logging_level="WARNING")


def runs_models(settings: Settings) -> bool:
    """Whether this machine has an engine: without one it does not offer to run models, and nothing is loaded for it."""
    named = settings.llama_server
    return bool(named or shutil.which("llama-server") or importlib.util.find_spec("xllamacpp") is not None)


def run_models(settings: Settings) -> None:
    """Be the machine's part that runs models, in this process, until SIGTERM."""
    from workers.inference import host

    host.run(settings)


def _lasting_objection(settings: Settings, client: RedisClient) -> str | None:
    """Why these workers may not use this store. One that does not answer objects to nothing: no worker takes a download
    before it does, and each download begins with the same question.
    """
    try:
        seconds = probe.START_TIMEOUT_S + OBJECTION_PATIENCE_S
        return probe.answer_within(seconds, settings.hive_dir, lambda: lasting_objection(settings, client))
    except StoreMissing as error:
        log.error("waiting for the store", extra={"fields": {"reason": error.message}})
        return None


def _check_key(settings: Settings) -> None:
    """Say at the start, and not at the first download with a token, that this machine has not the servers' key."""
    assert settings.redis_address is not None
    if settings.redis_address.path is not None and not settings.secret_key_path.exists():
        return  # all of it on one machine: a server makes the key, maybe later
    try:
        check_others_key(settings.secret_key_path)
    except SecretKeyError as error:
        log.error("downloads with a token will fail here", extra={"fields": {"reason": str(error)}})


def _refuse(text: str) -> NoReturn:
    """End as the command line of hive does. argparse would print the usage of a module that nobody has called."""
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)


def main(argv: list[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers", description="Download workers of hive.")
    parser.add_argument(
        "--concurrency", type=int, default=1, help="worker processes, one download each at a time (default 1)"
    )
    concurrency = parser.parse_args(argv).concurrency
    try:
        settings = Settings.from_env()
        _ = settings.store_dir, settings.home_dir  # said here where they are nowhere
    except SettingsError as error:
        _refuse(str(error))
    if not settings.redis_url:
        _refuse("REDIS_URL is not set. Workers need the same Redis as the server; 'hive up' brings its own.")
    if not 1 <= concurrency <= MAX_CONCURRENCY:
        _refuse(f"--concurrency must lie between 1 and {MAX_CONCURRENCY}.")
    logs.setup(settings.log_level, settings.log_format)
    try:
        redis_probe.report(settings, tells_holes=False)
    except SettingsError as error:
        _refuse(str(error))
    assert settings.redis_address is not None
    with connect(settings.redis_address) as client:
        if (problem := _lasting_objection(settings, client)) is not None:
            log.error("refused: another store", extra={"fields": {"reason": problem}})
            return WRONG_STORE
    probe.report(settings)
    _check_key(settings)
    # Imported once, before the fork: every horse begins with it.
    with uncollected():
        importlib.import_module("workers.download")
        from workers import resolver

    resolver.announce(settings)
    works = [lambda: work(settings)] * concurrency + [lambda: resolver.run(settings)]
    stop_s = STOP_S
    if runs_models(settings):
        works.append(lambda: run_models(settings))
        stop_s += settings.llm_drain_s
    Prefork(works, lambda: log.info("%d workers are ready", concurrency), stop_s).run()
    return 0
