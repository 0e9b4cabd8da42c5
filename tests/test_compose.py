"""The compose file is valid, and says what the documentation promises."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from hive.settings import Settings

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    """The file as docker-compose reads it."""
    if shutil.which("docker-compose") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("docker-compose is missing: .ci/run installs it")
        pytest.skip("docker-compose is not installed")
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root")}
    done = subprocess.run(
        ["docker-compose", "config"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


def test_api_and_workers_share_one_image_and_the_store(stack: dict[str, Any]) -> None:
    api, worker = stack["services"]["api"], stack["services"]["worker"]
    assert api["image"] == worker["image"] == "hive"
    assert api["volumes"] == worker["volumes"]
    assert api["command"][0] == "serve"
    assert worker["command"][0] == "worker"
    for service in (api, worker):
        assert service["init"] is True
        assert service["read_only"] is True
        assert service["stop_grace_period"]


def test_redis_keeps_what_it_was_told_and_is_reachable_by_hive_alone(stack: dict[str, Any]) -> None:
    redis = stack["services"]["redis"]
    command = " ".join(redis["command"])
    assert "--appendonly yes" in command
    assert "noeviction" in command
    assert "ports" not in redis
    assert list(redis["networks"]) == ["backplane"]
    assert stack["networks"]["backplane"]["internal"] is True


def test_nothing_but_the_api_is_published_and_on_the_loopback_only(stack: dict[str, Any]) -> None:
    published = {name: service.get("ports") for name, service in stack["services"].items() if service.get("ports")}
    assert list(published) == ["api"]
    assert "127.0.0.1" in str(published["api"])


def test_the_gateway_of_the_network_is_not_one_client(stack: dict[str, Any]) -> None:
    given = {name: str(value) for name, value in stack["services"]["api"]["environment"].items() if value}
    settings = Settings.from_env(given)
    assert settings.max_anonymous_requests_per_second == 0
    assert settings.max_connections_per_address == 0
    assert settings.max_many_streams_per_key > Settings().max_many_streams_per_key
