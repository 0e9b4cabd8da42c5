"""Containers are killed, restarted and cut off while downloads run: every client sees one end, every file is whole."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.stack.audience import Audience
from tests.stack.compose import LOOK_S, run
from tests.stack.world import RATE, World
from tests.support.waiting import wait_for

#: Bytes per second while everything is restarted, so that the downloads last until all of it is.
SLOW_RATE = 1 << 20


@pytest.fixture(autouse=True)
def whole_again(world: World) -> None:
    """Every test begins with all containers up."""
    for service in ("redis", "api", "worker", "balancer"):
        for container in world.project.containers(service):
            run("docker", "start", container)
    world.project.wait_until_healthy("redis")
    world.wait_until_ready()
    world.limit(RATE)


def test_a_worker_is_killed(world: World) -> None:
    worker = world.project.containers("worker")[0]
    audience = world.trial("killed-worker", lambda audience: _kill(worker))
    assert audience.reconnections == 0, "a stream is the server's: who watches notices nothing of a worker"


def test_a_server_is_killed(world: World) -> None:
    server = world.project.containers("api")[0]
    audience = world.trial("killed-server", lambda audience: _kill(server))
    # The balancer had given some clients to each, so some came back, to the other one.
    assert 0 < audience.reconnections < 2 * len(audience.clients)


def test_redis_is_restarted(world: World) -> None:
    (redis,) = world.project.containers("redis")
    before = list(world.ended)
    audience = world.trial("restarted-redis", lambda audience: world.restart(redis))
    assert world.forgotten(before) == [], "what had ended before is not in its file"
    assert audience.reconnections == 0, "streams stay open while Redis is away"


def test_redis_is_killed(world: World) -> None:
    (redis,) = world.project.containers("redis")

    def strike(audience: Audience) -> None:
        _kill(redis)
        run("docker", "start", redis)

    before = list(world.ended)
    audience = world.trial("killed-redis", strike)
    assert world.forgotten(before) == [], "what had ended before is not in its file"
    assert audience.reconnections == 0, "streams stay open while Redis is away"


@pytest.mark.takes(150)
def test_everything_is_restarted_one_after_the_other(world: World) -> None:
    world.limit(SLOW_RATE)

    def strike(audience: Audience) -> None:
        # No step of one waits for one of the other.
        with ThreadPoolExecutor() as together:
            list(together.map(lambda restart: restart(world), (_restart_workers, _restart_servers)))
        for service in ("redis", "balancer"):
            _restart_until_healthy(world, service)
        assert not all(client.is_over for client in audience.clients), "the downloads ended before the restarts did"
        world.limit(RATE)

    audience = world.trial("rolling-restart", strike)
    assert audience.reconnections >= len(audience.clients), "the balancer went too, and every stream with it"


@pytest.mark.parametrize(("trial", "network"), [("cut-from-redis", "backplane"), ("cut-from-cdn", "outside")])
def test_a_worker_is_cut_off_and_comes_back(world: World, trial: str, network: str) -> None:
    worker = world.project.containers("worker")[0]
    name = world.project.network(network)

    def strike(audience: Audience) -> None:
        run("docker", "network", "disconnect", name, worker)
        try:
            if network == "backplane":
                # Others take its downloads, whose lease has run out.
                audience.wait_for_bytes_since(time.monotonic())
            else:
                _wait_until_one_stands_still(audience)
        finally:
            run("docker", "network", "connect", name, worker)
        start_s = time.monotonic()
        audience.wait_for_bytes_since(start_s)
        world.note(f"{trial}: bytes of all downloads after it came back", time.monotonic() - start_s)

    audience = world.trial(trial, strike)
    assert audience.reconnections == 0, "a stream is the server's: who watches notices nothing of a worker"


def _restart_workers(world: World) -> None:
    for worker in world.project.containers("worker"):
        world.restart(worker)
        wait_for(
            lambda worker=worker: _is_alive(worker),  # type: ignore[misc]
            "the worker does not come back",
            look_s=LOOK_S,
        )


def _restart_servers(world: World) -> None:
    _restart_until_healthy(world, "api")


def _restart_until_healthy(world: World, service: str) -> None:
    for container in world.project.containers(service):
        world.restart(container)
        world.project.wait_until_healthy(service)


#: Seconds without bytes after which a download stands still: events come several times a second.
STILL_S = 3.0


def _wait_until_one_stands_still(audience: Audience) -> None:
    wait_for(
        lambda: any(
            not client.is_over and time.monotonic() - client.arrivals[-1][0] > STILL_S for client in audience.clients
        ),
        "a worker without a network goes on",
    )


def _kill(container: str) -> None:
    run("docker", "kill", "--signal", "KILL", container)


def _is_alive(worker: str) -> bool:
    return run("docker", "exec", worker, "hive", "worker", "--alive", check=False).returncode == 0
