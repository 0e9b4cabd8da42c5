"""`python -m workers --concurrency N`: a pool of N worker processes that take downloads from the queue.

RQ's own pool drops the serializer and unpickles, so the pool is ours: it imports what a download needs once, forks N
workers, replaces one that dies, and hands SIGTERM on. Ctrl-C reaches only the pool, which asks its workers to stop in
order.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
import time
from types import FrameType

from rq import Queue

from hive import logs
from hive.connections import connect, is_store_error
from hive.settings import Settings, SettingsError
from hive.wire import keys
from workers.job import DownloadJob
from workers.worker import DownloadWorker, die_with_parent

log = logging.getLogger("workers.pool")

#: The most worker processes in one pool.
MAX_CONCURRENCY = 256
#: Seconds before a worker that died is replaced: doubles with each death in a row, up to the last.
RESPAWN_FIRST_S, RESPAWN_LAST_S = 0.2, 10.0
#: Seconds that a worker must have lived for its death not to count as one in a row.
STEADY_S = 10.0
#: Seconds that RQ's client waits for a reply: longer than it blocks for a job.
RQ_REPLY_TIMEOUT_S = 30.0


class Pool:
    """Keeps N workers alive until it is told to stop."""

    def __init__(self, settings: Settings, concurrency: int) -> None:
        self._settings = settings
        self._concurrency = concurrency
        self._started: dict[int, float] = {}
        self._signals = 0

    def run(self) -> None:
        """Until SIGTERM or SIGINT, and all workers have ended."""
        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, self._on_signal)
        importlib.import_module("workers.download")
        respawn_s = RESPAWN_FIRST_S
        for _ in range(self._concurrency):
            self._spawn()
        log.info("%d workers are ready", self._concurrency)
        while self._started:
            try:
                pid, status = os.wait()
            except ChildProcessError:
                break
            lived_s = time.monotonic() - self._started.pop(pid, 0.0)
            if self._signals:
                continue
            respawn_s = RESPAWN_FIRST_S if lived_s > STEADY_S else min(respawn_s * 2, RESPAWN_LAST_S)
            log.warning("a worker ended; replacing it", extra={"fields": {"pid": pid, "status": status}})
            time.sleep(respawn_s)
            if not self._signals:
                self._spawn()

    def _spawn(self) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._started[pid] = time.monotonic()
            if self._signals:
                os.kill(pid, signal.SIGTERM)
            return
        try:
            die_with_parent(signal.SIGTERM)
            if os.getppid() == parent:
                work(self._settings)
            os._exit(0)
        except BaseException:
            log.exception("the worker stumbled")
            os._exit(1)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        self._signals += 1
        for pid in self._started:
            os.kill(pid, signal.SIGTERM)


def work(settings: Settings) -> None:
    """Be one worker, in this process, until SIGTERM."""
    assert settings.redis_url is not None
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    client = connect(settings.redis_url, reply_timeout_s=RQ_REPLY_TIMEOUT_S)
    queue = Queue(keys.QUEUE, connection=client, serializer="json", job_class=DownloadJob)
    name = f"{os.uname().nodename}.{os.getpid()}.{os.urandom(2).hex()}"
    while True:
        try:
            worker = DownloadWorker(settings, queue, name)
            break
        except Exception as error:
            if not is_store_error(error):
                raise
            log.warning("waiting for Redis", extra={"fields": {"reason": str(error)}})
            time.sleep(1)
    worker.work(logging_level="WARNING")


def main(argv: list[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers", description="Download workers of hive.")
    parser.add_argument(
        "--concurrency", type=int, default=1, help="worker processes, one download each at a time (default 1)"
    )
    concurrency = parser.parse_args(argv).concurrency
    try:
        settings = Settings.from_env()
    except SettingsError as error:
        parser.error(str(error))
    if not settings.redis_url:
        parser.error("REDIS_URL is not set. Workers need the same Redis as the server; 'hive up' brings its own.")
    if not 1 <= concurrency <= MAX_CONCURRENCY:
        parser.error(f"--concurrency must lie between 1 and {MAX_CONCURRENCY}.")
    logs.setup(settings.log_level, settings.log_format)
    Pool(settings, concurrency).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
