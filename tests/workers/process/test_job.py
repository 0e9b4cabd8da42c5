"""Whoever can write to Redis must not be able to make a worker run anything but a download."""

from __future__ import annotations

import json
import tracemalloc
import uuid
import zlib
from pathlib import Path
from typing import Any

import pytest
from rq import Callback, Queue
from rq.worker import SimpleWorker

from hive.downloads.jobqueue import JobQueue
from hive.redis.client import RedisClient
from hive.wire import keys
from workers.process.job import DownloadJob, RefusedJob


@pytest.fixture
def queue(store: RedisClient) -> Queue:
    return Queue(keys.QUEUE, connection=store, serializer="json", job_class=DownloadJob)


def fetch(queue: Queue, job_id: str) -> DownloadJob:
    job = DownloadJob.fetch(job_id, connection=queue.connection, serializer=queue.serializer)
    assert isinstance(job, DownloadJob)
    return job


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        ("os.system", ("true",), {}),
        ("subprocess.run", (["true"],), {}),
        ("workers.download.run", (), {}),
        ("workers.download.run", ("not a uuid", 1), {}),
        ("workers.download.run", (str(uuid.uuid4()), "1"), {}),
        ("workers.download.run", (str(uuid.uuid4()), True), {}),
        ("workers.download.run", (str(uuid.uuid4()), 1), {"more": 1}),
        ("workers.download.os.system", ("true",), {}),
    ],
)
def test_any_other_call_is_refused(queue: Queue, function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    job = queue.enqueue_call(function, args=args, kwargs=kwargs)
    with pytest.raises(RefusedJob):
        fetch(queue, job.id).perform()


def test_the_job_of_a_download_carries_its_id_and_nothing_else(store: RedisClient, queue: Queue) -> None:
    download_id = str(uuid.uuid4())
    JobQueue(store).enqueue(download_id, 3)
    job = fetch(queue, f"{download_id}-a3")
    assert (job.func_name, list(job.args), job.kwargs, job.timeout) == (
        "workers.download.run",
        [download_id, 3],
        {},
        -1,
    )
    JobQueue(store).enqueue(download_id, 3)
    assert store.llen("rq:queue:hive") == 1, "an enqueue that is sent again is one"


def test_callbacks_and_webhooks_in_a_jobs_hash_are_not_read(queue: Queue, store: RedisClient, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    job = queue.enqueue_call(
        "os.system", args=(f"touch {witness}",), on_failure=Callback("os.system"), on_success=Callback("os.system")
    )
    store.hset(job.key, "webhooks", json.dumps([{"url": "http://127.0.0.1:1/", "statuses": ["failed"]}]))
    taken = fetch(queue, job.id)
    assert taken.failure_callback is None
    assert taken.success_callback is None
    assert taken.webhooks == []


def test_a_worker_that_meets_a_foreign_job_fails_it_and_goes_on(
    queue: Queue, store: RedisClient, tmp_path: Path
) -> None:
    witness = tmp_path / "ran"
    job = queue.enqueue_call("os.system", args=(f"touch {witness}",))
    worker = SimpleWorker([queue], connection=store, serializer="json", job_class=DownloadJob)
    worker.log.disabled = True
    worker.work(burst=True, logging_level="CRITICAL")
    assert not witness.exists()
    assert fetch(queue, job.id).is_failed


def test_a_pickle_in_the_queue_is_not_opened(queue: Queue, store: RedisClient, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    evil = f"cos\nsystem\n(S'touch {witness}'\ntR.".encode()
    job = queue.enqueue_call("workers.download.run", args=(str(uuid.uuid4()), 1))
    store.hset(job.key, "data", evil)
    taken = fetch(queue, job.id)
    with pytest.raises(Exception, match=r".*"):
        taken.perform()
    assert not witness.exists()


@pytest.mark.parametrize("field", ["data", "exc_info"])
def test_what_is_packed_in_a_jobs_hash_is_not_unpacked_without_a_bound(
    queue: Queue, store: RedisClient, field: str
) -> None:
    job = queue.enqueue_call("workers.download.run", args=(str(uuid.uuid4()), 1))
    store.hset(job.key, field, zlib.compress(b" " * (64 << 20), 9))
    tracemalloc.start()
    try:
        taken = fetch(queue, job.id)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 << 20
    if field == "data":
        with pytest.raises(RefusedJob):
            taken.perform()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("status", "nonsense"),
        ("created_at", "yesterday"),
        ("timeout", "x" * 100_000),
        ("result_ttl", "9" * 5000),
        ("retry_intervals", "[" * 100_000),
        ("dependency_ids", "[" * 100_000),
        ("meta", "[" * 100_000),
        ("data", "[" * 4000),
        ("data", "[]"),
        ("data", '["os.system", null, ["true"], {}]'),
        ("data", '["' + "x" * 100_000 + '", null, [], {}]'),
    ],
)
def test_a_worker_goes_on_behind_a_job_whose_hash_is_nonsense(
    queue: Queue, store: RedisClient, field: str, value: str
) -> None:
    broken = queue.enqueue_call("os.system", args=("true",))
    store.hset(broken.key, field, value)
    behind = queue.enqueue_call("os.system", args=("true",))
    worker = SimpleWorker([queue], connection=store, serializer="json", job_class=DownloadJob)
    worker.log.disabled = True
    worker.work(burst=True, logging_level="CRITICAL")
    assert fetch(queue, behind.id).is_failed
    assert store.llen(queue.key) == 0
