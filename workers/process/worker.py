"""The RQ worker, made to outlive Redis and to hand its work back when it stops.

RQ forks a work-horse per job and waits for it. What its worker does not do, measured with RQ 3.0.0: it quits when
Redis is away for some seconds, leaves the horse running when it is killed, waits for hours on SIGTERM, and says
nothing about a killed horse but in its own registries. So here: Redis errors make it wait, the horse dies with its
parent, SIGTERM is handed to the horse (which stops, gives its download back and exits), and a killed horse's download
is put on the queue at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from types import FrameType
from typing import Any

import msgspec
from redis.exceptions import RedisError
from rq import Queue, Worker
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.worker.base import WorkerStatus

from hive import logs
from hive.downloads.context import DownloadContext
from hive.downloads.reaper import take_over
from hive.downloads.registry import WorkerInfo, worker_registry
from hive.processes.children import die_with_parent
from hive.processes.pulse import Pulse
from hive.redis.client import connect
from hive.redis.errors import describe, is_redis_error
from hive.settings import Settings
from hive.store.root_guard import GUARD
from hive.version import VERSION
from workers.fleet.same_store import objection
from workers.fleet.store_watch import StoreLook
from workers.process.current import CURRENT
from workers.process.shutdown import SHUTDOWN

log = logging.getLogger("workers.process.worker")

#: Seconds between heartbeats, idle or busy.
HEARTBEAT_S = 5
#: Seconds that RQ blocks for a job, and what it subtracts from its TTL to get there.
DEQUEUE_TIMEOUT_S = HEARTBEAT_S
_RQ_DEQUEUE_MARGIN_S = 15
#: Seconds to wait before Redis is tried again.
REDIS_RETRY_S = 1.0
#: Seconds between two looks at a store that is away.
STORE_RETRY_S = 1.0


class DownloadWorker(Worker):
    """One worker process: takes a job, forks a horse for it, watches it."""

    #: Seconds between two tries to reach a Redis that is away, at most.
    max_connection_wait_time = 2.0

    def __init__(self, settings: Settings, queue: Queue, name: str) -> None:
        assert settings.redis_address is not None
        super().__init__(
            [queue],
            name=name,
            connection=queue.connection,
            serializer="json",
            job_class=queue.job_class,
            worker_ttl=DEQUEUE_TIMEOUT_S + _RQ_DEQUEUE_MARGIN_S,
            job_monitoring_interval=HEARTBEAT_S,
            log_job_description=False,
        )
        self._settings = settings
        self._registry_client = client = connect(settings.redis_address)
        self._registry = worker_registry(client)
        self._downloads = DownloadContext.of(client, settings)
        self._info = WorkerInfo(
            name=name, host=os.uname().nodename, pid=os.getpid(), version=VERSION, started_at=time.time()
        )
        self._pulse = Pulse(settings.home_dir)
        self._store = StoreLook(settings, self._learn_store)
        self._signals = 0
        self._waits_for_job = False
        CURRENT.share()

    @property
    def connection_timeout(self) -> int:
        """RQ would raise the time-out of replies to this: that of the connection it was given is right."""
        return DEQUEUE_TIMEOUT_S

    # -- stopping ----------------------------------------------------------------------------------------------------

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """First signal: the horse gives its download back, then the worker ends. Second: the horse is killed."""
        if os.getpid() != self._info.pid:
            # A horse that was forked this moment has this handler until it sets its own; the signal must not be lost.
            SHUTDOWN.request()
            return
        self._signals += 1
        self._stop_requested = True
        if self.horse_pid:
            _signal(self.horse_pid, signal.SIGTERM if self._signals == 1 else signal.SIGKILL)
        elif self._signals == 1 and self._waits_for_job:
            # Here only: anywhere else RQ may not catch it, and the loop looks at the request before it waits again.
            # Once: the next signal may find the worker on its way out of the wait.
            raise StopRequested

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """Fork, and make sure that the horse does not outlive this process."""
        self._horse_parent = os.getpid()
        CURRENT.write("")
        super().fork_work_horse(job, queue)
        self.heartbeat()
        if self._stop_requested:
            _signal(self.horse_pid, signal.SIGTERM)

    def main_work_horse(self, job: Job, queue: Queue) -> None:
        """In the horse: die with the parent, which might have died between the fork and this line."""
        die_with_parent(signal.SIGKILL)
        if os.getppid() != self._horse_parent:
            os._exit(1)
        super().main_work_horse(job, queue)

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        """In the horse: run the job, say what RQ leaves it with, and give its last lines a moment. Here, for what comes
        behind it in `main_work_horse` is `os._exit`, which nothing outlives and which says nothing: on a busy machine
        the end of a download was not told, and of a horse that Redis refused only that it had ended, ten times a
        second.
        """
        try:
            return bool(super().perform_job(job, queue, execution))
        except Exception as error:
            if is_redis_error(error):
                log.warning("the download process cannot use Redis", extra={"fields": {"reason": describe(error)}})
            else:
                log.exception("the download process failed")
            time.sleep(REDIS_RETRY_S)
            raise
        finally:
            logs.flush()

    def setup_work_horse_signals(self) -> None:
        """Ctrl-C reaches the horse through its parent; SIGTERM asks the download to give itself back."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        SHUTDOWN.install()

    def _hand_on(self) -> None:
        """The horse is gone: what it still holds goes to another one now, and not when the lease has run out.

        RQ asks its own record of the job first and says nothing where Redis has lost it, or is away just then.
        """
        download_id, deadline_s = CURRENT.read(), time.monotonic() + self._settings.lease_s
        while download_id and not self._stop_requested and time.monotonic() < deadline_s:
            try:
                record = self._downloads.tracker.read(download_id)
                if record is not None and record.state == "running" and record.worker == self.name:
                    reason = "The download process was killed; another one goes on."
                    take_over(self._downloads, record, expired_only=False, reason=reason)
                return
            except RedisError as error:
                if not is_redis_error(error):
                    raise
                time.sleep(REDIS_RETRY_S)

    # -- outliving Redis ---------------------------------------------------------------------------------------------

    def register_birth(self) -> None:
        """Enter RQ's list of workers; waits while Redis refuses it."""
        tried = False
        while True:
            try:
                super().register_birth()  # type: ignore[no-untyped-call]
                return
            except ValueError:
                if not tried:
                    raise
                return  # it was done, and only the reply was lost
            except RedisError as error:
                if not is_redis_error(error):
                    raise
                tried = True
                self._pulse.beat()
                log.warning("waiting for Redis", extra={"fields": {"reason": describe(error)}, "repeats": True})
                time.sleep(REDIS_RETRY_S)

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run a job; a Redis that goes away meanwhile is no reason to quit."""
        if GUARD.store_id is None:
            # Now, while the store is there: who does not know which one it was cannot see that it has gone.
            self._store.problem()
        try:
            super().execute_job(job, queue)
        except RedisError as error:
            if not is_redis_error(error):
                raise
            log.warning("Redis went away during a job; going on", extra={"fields": {"reason": describe(error)}})
        finally:
            self._hand_on()
            CURRENT.write("")
            self._state = WorkerStatus.IDLE

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """The next job; waits while Redis refuses to give one (loading, out of memory, read-only)."""
        while True:
            self._wait_for_store()
            try:
                self._waits_for_job = True
                if self._stop_requested:
                    raise StopRequested
                return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
            except RedisError as error:
                if not is_redis_error(error):
                    raise
                self._pulse.beat()
                log.warning("waiting for Redis", extra={"fields": {"reason": describe(error)}, "repeats": True})
                time.sleep(REDIS_RETRY_S)
            finally:
                self._waits_for_job = False

    def _wait_for_store(self) -> None:
        """Take no ticket while the store of this machine is away: another worker can do something with it."""
        while (problem := self._store.problem()) is not None and not self._stop_requested:
            log.error("waiting for the store", extra={"fields": {"reason": problem}, "repeats": True})
            self.heartbeat()
            time.sleep(STORE_RETRY_S)

    def _learn_store(self) -> None:
        """Keep to the server's store from now on, where it has said which one that is by now."""
        with contextlib.suppress(RedisError):
            objection(self._settings, self._registry_client)

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Say that this worker is alive: to RQ, and to hive's own registry."""
        if pipeline is not None:
            super().heartbeat(timeout, pipeline)
            return
        self._pulse.beat()
        try:
            super().heartbeat(timeout)
            self._beat()
        except RedisError as error:
            log.debug("heartbeat failed", extra={"fields": {"reason": str(error)}})

    def maintain_heartbeats(self, job: Job, execution: Any) -> None:
        """The same while a horse runs."""
        self._pulse.beat()
        try:
            super().maintain_heartbeats(job, execution)
            self._beat()
        except RedisError as error:
            log.debug("heartbeat failed", extra={"fields": {"reason": str(error)}})

    def set_state(self, state: str, pipeline: Any = None) -> None:
        """Note the state; RQ's copy of it in Redis is for show."""
        try:
            super().set_state(state, pipeline)
        except RedisError:
            self._state = state

    def run_maintenance_tasks(self) -> None:
        """RQ's cleaning of its registries."""
        try:
            super().run_maintenance_tasks()  # type: ignore[no-untyped-call]
        except RedisError as error:
            log.debug("maintenance failed", extra={"fields": {"reason": str(error)}})

    def check_for_suspension(self, burst: bool) -> None:
        """RQ's suspension is not used, and asking Redis for it would end the worker when Redis is away."""

    def subscribe(self) -> None:
        """RQ's remote commands are not used: one connection and one thread less, and nobody can stop a horse by
        PUBLISH.
        """

    def unsubscribe(self) -> None:
        """Nothing was subscribed."""

    def register_death(self) -> None:
        """Leave the registries; a Redis that is away forgets this worker by itself."""
        self._pulse.end()
        # The signal may have come while one was being made, and half a connection answers to nothing.
        for client in (self.connection, self._registry_client):
            client.connection_pool.disconnect()
        try:
            super().register_death()  # type: ignore[no-untyped-call]
            self._registry.leave(self.name)
        except RedisError as error:
            log.debug("could not say good-bye", extra={"fields": {"reason": str(error)}})

    def _beat(self) -> None:
        download_id = CURRENT.read()
        state = "busy" if download_id else "idle"
        self._registry.beat(
            msgspec.structs.replace(self._info, state=state, download_id=download_id, seen_at=time.time())
        )


def _signal(pid: int, sig: signal.Signals) -> None:
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        log.debug("the horse had ended already")
