"""The part of a machine that runs models, as servers see it come and go."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from hive.redis.client import connect
from hive.serving.orders import SpawnOrder, host_registry
from tests.support.settings import settings_for
from workers.inference import engine, host
from workers.inference.host import ModelHost


@pytest.mark.anyio
async def test_a_machine_that_leaves_while_it_looks_at_its_devices_does_not_come_back(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ghost for 20 s: who loads a model would wait for it."""
    looks, may_go_on, told = threading.Event(), threading.Event(), threading.Event()

    def find_devices(_: str | None) -> tuple[()]:
        looks.set()
        may_go_on.wait(60)
        return ()

    monkeypatch.setattr(host, "find_devices", find_devices)
    made = ModelHost(settings_for(tmp_path, REDIS_URL=redis_url))
    beat = made._beat

    def beat_and_tell() -> None:
        beat()
        told.set()

    monkeypatch.setattr(made, "_beat", beat_and_tell)
    running = asyncio.create_task(made.run())
    assert await asyncio.to_thread(looks.wait, 60)
    made._told_to_end.set()
    async with asyncio.timeout(60):
        await running
    may_go_on.set()
    assert await asyncio.to_thread(told.wait, 60)
    assert host_registry(connect(redis_url)).alive() == []


@pytest.mark.anyio
async def test_who_runs_a_model_has_no_credentials_of_buckets(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = ("AWS_SECRET_ACCESS_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_STORAGE_ACCOUNT_KEY", "HF_TOKEN")
    for name in (*secrets, "OF_THE_MACHINE"):
        monkeypatch.setenv(name, "canary")
    started: list[dict[str, str]] = []

    async def start(*_: str, env: dict[str, str], **__: Any) -> None:
        started.append(env)
        raise FileNotFoundError

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    order = SpawnOrder(worker_id="w", model_ref="org/name", backend="cpu")
    with pytest.raises(FileNotFoundError):
        await ModelHost(settings_for(tmp_path, REDIS_URL=redis_url))._obey(order)
    for env in (*started, engine.environment()):
        assert [name for name in (*secrets, "OF_THE_MACHINE") if name in env] == ["OF_THE_MACHINE"]
