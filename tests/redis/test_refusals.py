"""What is wrong with a Redis is said when a process starts, by real servers that are wrong in each way: with a code, a
way out, and no password.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from hive.redis import probe as redis_probe
from hive.settings import Settings, SettingsError
from hive.streams.pubsub import Subscription
from tests.support.processes import environment
from tests.support.proxy import pump
from tests.support.redis_servers import PASSWORD, RedisServer, redis_server, speaks_tls
from tests.support.tls import Authority
from tests.support.waiting import wait_for_async

ENCODED = PASSWORD.replace("#", "%23")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Starts a server: `redis(name=value)` by its own options."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(redis_server(tmp_path, **options))


class Certificates:
    """Those of a CA, of another one, and expired ones."""

    def __init__(self, folder: Path) -> None:
        self.ours, self.other = folder / "ours", folder / "other"
        for made in (self.ours, self.other):
            made.mkdir()
        self._made = Authority(self.ours), Authority(self.other, "another CA")

    def issue(self, name: str, *, expired: bool = False, other: bool = False) -> Path:
        return self._made[other].issue(name, expired=expired)

    @property
    def ca(self) -> Path:
        return self.ours / "ca.pem"


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def tls(redis: Callable[..., RedisServer], certificates: Certificates) -> Callable[..., RedisServer]:
    """Starts a server with this certificate."""
    if not speaks_tls():
        pytest.skip("redis-server was built without TLS")

    def start(certificate: Path, clients: str = "no") -> RedisServer:
        files = {"tls_cert_file": str(certificate), "tls_key_file": str(certificate)}
        return redis(password=PASSWORD, tls_ca_cert_file=str(certificates.ca), tls_auth_clients=clients, **files)

    return start


def refusal(url: str, **settings: str) -> str:
    """The sentence with which a start ends."""
    with pytest.raises(SettingsError) as refused:
        redis_probe.report(Settings.from_env({"REDIS_URL": url, **settings}))
    sentence = str(refused.value)
    assert sentence.startswith("REDIS_URL cannot be used: ")
    for secret in (PASSWORD, ENCODED):
        assert secret not in sentence
    assert refused.value.__cause__ is None
    return sentence


def tls_url(server: RedisServer, host: str = "localhost") -> str:
    return f"rediss://:{ENCODED}@{host}:{server.port}/0"


def test_a_certificate_is_judged_at_the_start(tls: Callable[..., RedisServer], certificates: Certificates) -> None:
    good = tls(certificates.issue("localhost"))
    ca = {"HIVE_REDIS_CA_FILE": str(certificates.ca)}
    redis_probe.report(Settings.from_env({"REDIS_URL": tls_url(good), **ca}))
    redis_probe.report(Settings.from_env({"REDIS_URL": f"{tls_url(good)}?ssl_ca_certs={certificates.ca}"}))
    assert "(TLS_UNTRUSTED). Name its CA with HIVE_REDIS_CA_FILE" in refusal(tls_url(good))
    other = str(certificates.other / "ca.pem")
    assert "(TLS_UNTRUSTED)" in refusal(tls_url(good), HIVE_REDIS_CA_FILE=other)
    assert "(TLS_UNTRUSTED)" in refusal(f"{tls_url(good)}?ssl_ca_certs={other}", **ca), "the URL wins"
    expired = tls(certificates.issue("localhost", expired=True))
    assert "(TLS_EXPIRED). Renew it" in refusal(tls_url(expired), **ca)
    elsewhere = tls(certificates.issue("redis.test"))
    assert "(TLS_HOSTNAME). Use a name" in refusal(tls_url(elsewhere), **ca)
    assert "(TLS_HOSTNAME)" in refusal(tls_url(elsewhere, "127.0.0.1"), **ca)


def test_a_client_certificate_is_asked_for_by_its_name(
    tls: Callable[..., RedisServer], certificates: Certificates
) -> None:
    server = tls(certificates.issue("localhost"), clients="yes")
    ca = {"HIVE_REDIS_CA_FILE": str(certificates.ca)}

    def with_client(file: Path, key: Path | None = None) -> dict[str, str]:
        return {**ca, "HIVE_REDIS_CERT_FILE": str(file), "HIVE_REDIS_KEY_FILE": str(key or file)}

    client = certificates.issue("client")
    redis_probe.report(Settings.from_env({"REDIS_URL": tls_url(server), **with_client(client)}))
    # The answer of the server races with the end of the connection: several tries, one code.
    for _ in range(4):
        assert "(TLS_CLIENT_CERTIFICATE). Name one with HIVE_REDIS_CERT_FILE" in refusal(tls_url(server), **ca)
    for wrong in (certificates.issue("client", other=True), certificates.issue("client", expired=True)):
        assert "(TLS_CLIENT_REFUSED)" in refusal(tls_url(server), **with_client(wrong))
    other_key = certificates.issue("localhost")
    assert "(TLS_FILES)" in refusal(tls_url(server), **with_client(client, other_key))
    missing = certificates.ours / "missing.pem"
    sentence = refusal(tls_url(server), **with_client(missing))
    assert f"ssl_certfile (HIVE_REDIS_CERT_FILE) is {missing}, which cannot be read: No such file" in sentence
    assert "(TLS_FILES)" in refusal(tls_url(server), HIVE_REDIS_CA_FILE=str(missing))
    assert f"(HIVE_REDIS_CERT_FILE) is {client}" in refusal(tls_url(server), **with_client(client, other_key))
    nothing_else = certificates.ours / "certificate-alone.pem"
    nothing_else.write_bytes(client.read_bytes()[client.read_bytes().index(b"-----BEGIN CERTIFICATE") :])
    alone = refusal(tls_url(server), **ca, HIVE_REDIS_CERT_FILE=str(nothing_else))
    assert "ssl_keyfile (HIVE_REDIS_KEY_FILE) is not named" in alone
    with pytest.raises(SettingsError, match="a key for a client certificate and no certificate"):
        Settings.from_env({"REDIS_URL": tls_url(server), "HIVE_REDIS_KEY_FILE": str(client)})
    locked = certificates.ours / "locked.pem"
    locked.write_bytes(encrypted(client.read_bytes(), b"key-pass"))
    assert "(TLS_FILES)" in refusal(tls_url(server), **with_client(locked)), "nobody is asked on the terminal"
    opened = f"{tls_url(server)}?ssl_password=key-pass"
    redis_probe.report(Settings.from_env({"REDIS_URL": opened, **with_client(locked)}))
    nonsense = certificates.ours / "nonsense.pem"
    nonsense.write_text("no certificate")
    sentence = refusal(tls_url(server), HIVE_REDIS_CA_FILE=str(nonsense))
    assert f"(HIVE_REDIS_CA_FILE) is {nonsense}, which holds no certificates in PEM" in sentence
    assert "(TLS_FILES)" in sentence


def encrypted(pem: bytes, password: bytes) -> bytes:
    """The same key and certificate, the key under a password."""
    key = serialization.load_pem_private_key(pem, None)
    locked = serialization.BestAvailableEncryption(password)
    text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    return text + pem[pem.index(b"-----BEGIN CERTIFICATE") :]


def test_who_mixes_up_the_ports_is_told(
    tls: Callable[..., RedisServer],
    redis: Callable[..., RedisServer],
    certificates: Certificates,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = redis()
    assert "(TLS_NOT_SPOKEN)" in refusal(f"rediss://localhost:{plain.port}")
    secure = tls(certificates.issue("localhost"))
    redis_probe.report(Settings.from_env({"REDIS_URL": f"redis://localhost:{secure.port}"}))
    (record,) = caplog.records
    assert "rediss://" in getattr(record, "fields", {})["hint"]


def test_what_is_no_redis_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A web server, to the commands and to the subscription."""
    with web_server() as port:
        assert "(NOT_REDIS). Look at host and port" in refusal(f"redis://localhost:{port}")
        made = Subscription(f"redis://localhost:{port}", "hive:events:*", lambda *_: None, lambda: None)

        async def subscribe() -> None:
            task = asyncio.create_task(made.run())
            await wait_for_async(lambda: bool(caplog.records))
            task.cancel()

        asyncio.run(subscribe())
    assert {record.getMessage() for record in caplog.records} == {"cannot subscribe"}
    assert "(NOT_REDIS)" in getattr(caplog.records[0], "fields", {})["reason"]


@contextlib.contextmanager
def web_server() -> Iterator[int]:
    """A port where what comes is answered as a web server does."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def test_the_variable_that_holds_the_address_is_named(
    redis: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = redis(password=PASSWORD)
    file = tmp_path / "redis-url"
    file.write_text(f"redis://:wrong@localhost:{server.port}\n")
    monkeypatch.delenv("REDIS_URL", raising=False)
    for name, value in (("HIVE_REDIS_URL_FILE", str(file)), ("HIVE_REDIS_URL", file.read_text().strip())):
        monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError, match=rf"^{name} cannot be used: Redis refuses: .*\(WRONGPASS\)"):
            redis_probe.report(Settings.from_env())
    monkeypatch.setenv("HIVE_REDIS_URL", "redis://localhost:0")
    with pytest.raises(SettingsError, match=r"^HIVE_REDIS_URL cannot be used: its port"):
        Settings.from_env()


def test_files_for_tls_and_an_address_in_the_clear_do_not_go_together() -> None:
    with pytest.raises(SettingsError, match="Begin it with rediss://"):
        Settings.from_env({"REDIS_URL": "redis://host", "HIVE_REDIS_CA_FILE": "/ca.pem"})


def test_what_redis_itself_refuses_has_its_code(redis: Callable[..., RedisServer]) -> None:
    server = redis(password=PASSWORD)
    assert "(NOAUTH). Put it into REDIS_URL" in refusal(f"redis://localhost:{server.port}")
    assert "(WRONGPASS)" in refusal(f"redis://:wrong@localhost:{server.port}")
    assert "(WRONGPASS)" in refusal(f"redis://nobody:{ENCODED}@localhost:{server.port}")
    assert "(DB). Name a lower one" in refusal(f"redis://:{ENCODED}@localhost:{server.port}/99")
    cluster = redis(cluster_enabled="yes")
    assert "(CLUSTER)" in refusal(f"redis://localhost:{cluster.port}")
    renamed = redis(lines=('rename-command EVALSHA ""', 'rename-command ZSCAN ""', 'rename-command CONFIG ""'))
    assert "(NO_COMMAND): EVALSHA ZSCAN. Do not rename" in refusal(f"redis://localhost:{renamed.port}")
    evicting = redis(maxmemory="64mb", maxmemory_policy="allkeys-lru")
    assert "(EVICTING)" in refusal(f"redis://localhost:{evicting.port}")


def test_a_replica_is_refused_and_its_primary_is_not(redis: Callable[..., RedisServer]) -> None:
    primary = redis()
    replica = redis(replicaof=f"127.0.0.1 {primary.port}")
    assert "(READONLY)" in refusal(f"redis://localhost:{replica.port}")
    redis_probe.report(Settings.from_env({"REDIS_URL": f"redis://localhost:{primary.port}"}))


def test_a_redis_in_protected_mode_is_refused(redis: Callable[..., RedisServer]) -> None:
    """It takes connections from 127.0.0.1 only; ours come from another address of the loopback."""
    server = redis(protected_mode="yes")
    with forwarded(server.port) as port:
        for _ in range(4):  # its answer races with the end of the connection
            assert "(DENIED). Give it a password" in refusal(f"redis://localhost:{port}")


@contextlib.contextmanager
def forwarded(to_port: int) -> Iterator[int]:
    """A port that leads to another one, whose clients come from 127.0.0.3."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        source, place = ("127.0.0.3", 0), ("127.0.0.1", to_port)
        with client, contextlib.suppress(OSError), socket.create_connection(place, 20, source) as upstream:
            pump(client, upstream)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["worker"]])
def test_a_command_ends_with_the_sentence_and_code_2(
    redis: Callable[..., RedisServer], tmp_path: Path, command: list[str]
) -> None:
    server = redis(password=PASSWORD)
    env = environment(f"redis://:not%23{ENCODED}@localhost:{server.port}/0", tmp_path, PATH="/usr/bin:/bin")
    done = subprocess.run(
        [sys.executable, "-m", "hive.cli", *command], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "(WRONGPASS)" in done.stderr
    assert ENCODED not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
