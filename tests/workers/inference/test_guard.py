"""Who may ask a worker that listens on all addresses, as it does in a container."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from hive.errors import MisdirectedRequest, MissingApiKey
from hive.secrets import ensure_key
from hive.serving.worker_access import TOKEN_HEADER, worker_token
from tests.support.settings import settings_for
from workers.inference.guard import Guard
from workers.inference.http1 import HttpRequest

EVERYWHERE = "0.0.0.0"


def request(host: str, token: str = "") -> HttpRequest:
    headers = {b"host": f"{host}:8081".encode()} | ({TOKEN_HEADER: token.encode()} if token else {})
    return HttpRequest("POST", "/v1/inference", {}, headers, b"{}")


def test_hive_reaches_it_by_the_name_of_its_machine_and_nobody_else_by_any(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    ensure_key(settings.secret_key_path)
    guard, token = Guard(settings, "worker-1", EVERYWHERE), worker_token(settings.secret_key_path, "worker-1")
    for host in (socket.gethostname(), socket.gethostname().upper(), "192.0.2.7"):
        asyncio.run(guard.check(request(host, token)))
        with pytest.raises(MissingApiKey):
            asyncio.run(guard.check(request(host)))
        with pytest.raises(MissingApiKey):
            asyncio.run(guard.check(request(host, worker_token(settings.secret_key_path, "worker-2"))))
    with pytest.raises(MisdirectedRequest):
        asyncio.run(guard.check(request("rebound.example.org", token)))


def test_one_that_listens_on_one_address_is_not_called_by_that_name(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with pytest.raises(MisdirectedRequest):
        asyncio.run(Guard(settings, "worker-1", "192.0.2.7").check(request(f"{socket.gethostname()}.rebound.example")))
