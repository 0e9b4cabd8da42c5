"""A worker process that is told to stop."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from hive.processes import pulse
from hive.processes.embedded_redis import EmbeddedRedis
from tests.support.processes import Workers, children, environment
from tests.support.waiting import wait_for


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
