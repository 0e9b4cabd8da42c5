"""A worker process that is told to stop."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from rq import Queue, Worker
from rq.exceptions import StopRequested

from hive.log_writer import LineWriter
from hive.processes import pulse
from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import connect
from hive.wire import keys
from tests.support.processes import Workers, children, environment
from tests.support.settings import settings_for
from tests.support.waiting import wait_for
from workers.process.job import DownloadJob
from workers.process.worker import REDIS_RETRY_S, DownloadWorker


def test_a_second_signal_on_the_way_out_is_no_failure(own_redis: EmbeddedRedis, tmp_path: Path) -> None:
    env = environment(own_redis.url, tmp_path)
    workers = Workers(env)
    with workers.killed_unless_ready():
        workers.wait_for_log("1 workers are ready")
    pulses = Path(env["HIVE_HOME"], pulse.FOLDER)
    wait_for(lambda: list(pulses.glob("*")), what="the worker lives")
    (pid,) = (int(path.suffix[1:]) for path in pulses.glob("*"))
    assert pid in children(workers.pid)
    assert own_redis.pid is not None
    os.kill(own_redis.pid, signal.SIGSTOP)
    try:
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not list(pulses.glob("*")), what="it says good-bye")
        os.kill(pid, signal.SIGTERM)
    finally:
        os.kill(own_redis.pid, signal.SIGCONT)
    assert workers.stop() == 0
    assert "Traceback" not in workers.output


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> DownloadWorker:
    settings = settings_for(tmp_path, REDIS_URL=redis_url)
    queue = Queue(keys.QUEUE, connection=connect(redis_url), serializer="json", job_class=DownloadJob)
    return DownloadWorker(settings, queue, "worker-1")


def test_a_signal_breaks_into_nothing_but_the_wait_for_a_job(worker: DownloadWorker) -> None:
    """Raised between two steps of RQ's loop, nobody would catch it: the worker would end as one that failed."""
    worker.request_stop(signal.SIGTERM, None)
    with pytest.raises(StopRequested):
        worker.dequeue_job_and_maintain_ttl(5)
    worker.request_stop(signal.SIGTERM, None)  # on its way out


def test_a_signal_ends_the_wait_for_a_job_at_once(worker: DownloadWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(*_: object) -> None:
        worker.request_stop(signal.SIGTERM, None)

    monkeypatch.setattr(Worker, "dequeue_job_and_maintain_ttl", waits)
    with pytest.raises(StopRequested):
        worker.dequeue_job_and_maintain_ttl(5)


def test_the_last_line_of_a_horse_goes_out_however_busy_the_machine_is(
    worker: DownloadWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = os.pipe()
    writer = LineWriter(theirs, str)
    put = LineWriter._put

    def put_late(self: LineWriter, data: bytes) -> None:
        time.sleep(0.3)  # the horse would be gone by then
        put(self, data)

    monkeypatch.setattr(LineWriter, "_put", put_late)
    monkeypatch.setattr(Worker, "perform_job", lambda *_: writer.write("the end of a download"))
    worker._horse_parent, worker.execution = os.getpid(), None
    horse = os.fork()
    if horse == 0:
        try:
            worker.main_work_horse(None, worker.queues[0])  # type: ignore[arg-type]
        finally:
            os._exit(9)
    os.close(theirs)
    with os.fdopen(ours) as said:
        assert said.read() == "the end of a download\n"
    assert os.waitstatus_to_exitcode(os.waitpid(horse, 0)[1]) == 0


@pytest.mark.parametrize(
    ("error", "said"),
    [(RedisConnectionError("max number of clients reached"), "maxclients"), (ImportError("it was updated"), "failed")],
)
def test_a_download_process_says_what_it_ends_of_and_the_next_one_is_not_forked_at_once(
    worker: DownloadWorker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    said: str,
) -> None:
    def breaks(*_: object) -> None:
        raise error

    waits_s: list[float] = []
    monkeypatch.setattr(Worker, "perform_job", breaks)
    monkeypatch.setattr("workers.process.worker.time.sleep", waits_s.append)
    job: Any = None
    with pytest.raises(type(error)):
        worker.perform_job(job, worker.queues[0], job)
    assert waits_s == [REDIS_RETRY_S]
    assert said in " ".join(f"{line.message} {getattr(line, 'fields', '')}" for line in caplog.records)
