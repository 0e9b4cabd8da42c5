"""Redis over TLS: the subscription is made as the commands are, whatever the address asks for."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hive.redis.client import RedisError, connect
from hive.redis.errors import describe, is_redis_error
from hive.streams.pubsub import Subscription
from tests.support.child import Child
from tests.support.ports import free_port
from tests.support.tls import Authority
from tests.support.waiting import wait_for, wait_for_async

pytestmark = pytest.mark.anyio

SERVER = shutil.which("redis-server")


def knows_tls(binary: str) -> bool:
    """Whether this server was built with TLS: only then does it ask for a certificate."""
    command = [binary, "--port", "0", "--tls-port", str(free_port())]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    return "No tls-cert-file" in said


needs_tls = pytest.mark.skipif(
    SERVER is None or not knows_tls(SERVER), reason="no redis-server with TLS on PATH; apt install redis-server"
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hive-") as made:
        authority = Authority(Path(made))
        for name in ("redis.test", "localhost", "client"):
            authority.issue(name).rename(Path(made) / f"{name}.pem")
        yield Path(made)


@contextlib.contextmanager
def tls_server(folder: Path, name: str, auth_clients: str) -> Iterator[int]:
    assert SERVER is not None
    port = free_port()
    options = {
        "port": "0",
        "tls-port": str(port),
        "tls-cert-file": str(folder / f"{name}.pem"),
        "tls-key-file": str(folder / f"{name}.pem"),
        "tls-ca-cert-file": str(folder / "ca.pem"),
        "tls-auth-clients": auth_clients,
        "requirepass": "pass#word",
        "bind": "127.0.0.1",
        "dir": str(folder),
        "save": "",
    }
    command = [SERVER, *(part for name, value in options.items() for part in (f"--{name}", value))]
    with Child(command, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: answers(port))
            yield port
        finally:
            process.kill()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.asynccontextmanager
async def subscribed(url: str) -> AsyncIterator[tuple[Subscription, list[bytes]]]:
    heard: list[bytes] = []
    made = Subscription(url, "hive:events:*", lambda channel, data: heard.append(data), lambda: None)
    task = asyncio.create_task(made.run())
    try:
        yield made, heard
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@needs_tls
@pytest.mark.parametrize(
    ("name", "auth_clients", "query", "works"),
    [
        ("redis.test", "no", "ssl_cert_reqs=none", True),
        ("localhost", "no", "ssl_ca_certs={folder}/ca.pem", True),
        ("redis.test", "no", "ssl_ca_certs={folder}/ca.pem&ssl_check_hostname=false", True),
        ("redis.test", "no", "ssl_ca_certs={folder}/ca.pem", False),
        ("localhost", "no", "", False),
        (
            "localhost",
            "yes",
            "ssl_ca_certs={folder}/ca.pem&ssl_certfile={folder}/client.pem&ssl_keyfile={folder}/client.pem",
            True,
        ),
        ("localhost", "yes", "ssl_ca_certs={folder}/ca.pem", False),
    ],
)
async def test_commands_and_subscription_read_the_same_options(
    folder: Path, name: str, auth_clients: str, query: str, works: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with tls_server(folder, name, auth_clients) as port:
        url = f"rediss://:pass%23word@localhost:{port}/0?{query.format(folder=folder)}".rstrip("?")
        with connect(url, retries=0) as client:
            if works:
                assert client.ping()
            else:
                with pytest.raises(RedisError) as refused:
                    client.ping()
                assert is_redis_error(refused.value)
                assert auth_clients == "yes" or "does not answer" not in describe(refused.value)
            async with subscribed(url) as (subscription, heard):
                if not works:
                    await wait_for_async(lambda: "cannot subscribe" in caplog.text)
                    assert not subscription.connected
                    said = str([getattr(each, "fields", "") for each in caplog.records])
                    # A client without a certificate sees the connection end, as if nobody were there.
                    assert auth_clients == "yes" or "does not answer" not in said
                    return
                await wait_for_async(lambda: subscription.connected)
                client.publish("hive:events:{x}", b"1-1 0 {}")
                await wait_for_async(lambda: heard == [b"1-1 0 {}"])
