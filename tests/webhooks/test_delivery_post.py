"""The POST: to no private address in any spelling, in the time it has, and over a connection that is checked."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
import time
from collections.abc import Callable
from email.utils import format_datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hive.errors import UnsafeUrl
from hive.net.addresses import address_check
from hive.net.egress import Network
from hive.net.proxies import Proxies
from hive.net.tls import Trust
from hive.net.urls import parse_url
from hive.webhooks.delivery import MAX_ANSWER_BYTES, DeliveryReply, Unanswered, post
from tests.support.addresses import PRIVATE, SPELLINGS
from tests.support.waiting import AT_ONCE_S, DEADLINE_S
from tests.support.webhook_receiver import Receiver, Reply, receiving

#: Any port, no private address.
GUARDED = Network(address_check=address_check(ports=range(1, 65_536)))


#: Any address.
FREE = Network()


def send(url: str, network: Network = FREE, timeout_s: float = 5.0, body: bytes = b"{}") -> DeliveryReply:
    return post(parse_url(url), body, {"content-type": "application/json", "webhook-id": "1"}, network, timeout_s)


def test_the_body_and_the_headers_arrive_and_the_answer_comes_back(receiver: Receiver) -> None:
    receiver.default = Reply(status=202, body=b"thank you")
    assert send(receiver.url + "/a%2Fb?c=d", body=b'{"a":1}') == DeliveryReply(202, None)
    (hit,) = receiver.hits
    assert (hit.method, hit.path, hit.body) == ("POST", "/hook/a%2Fb?c=d", b'{"a":1}')
    assert hit.headers["host"] == receiver.host
    assert (hit.headers["content-length"], hit.headers["webhook-id"]) == ("7", "1")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_not_followed(receiver: Receiver, status: int) -> None:
    receiver.default = Reply(status=status, headers={"location": receiver.url})
    assert send(receiver.url).status == status
    assert len(receiver.hits) == 1


def test_retry_after_is_read_as_seconds_and_as_a_date(receiver: Receiver) -> None:
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=100)
    receiver.replies = [
        Reply(status=503, headers={"retry-after": "120"}),
        Reply(status=429, headers={"retry-after": format_datetime(at, usegmt=True)}),
        Reply(status=503, headers={"retry-after": "soon"}),
    ]
    assert send(receiver.url) == DeliveryReply(503, 120.0)
    assert 90 < (send(receiver.url).retry_after_s or 0) <= 100
    assert send(receiver.url).retry_after_s is None


def test_no_spelling_of_this_machine_reaches_the_canary(canary: tuple[int, list[Any]]) -> None:
    port, visits = canary
    for host in SPELLINGS:
        with pytest.raises((UnsafeUrl, Unanswered)):
            send(f"http://{host}:{port}/x", GUARDED)
    assert visits == []
    with pytest.raises(Unanswered):  # the canary does sing
        send(f"http://127.0.0.1:{port}/x")
    assert visits


@pytest.mark.parametrize("ip", [ip for ip in PRIVATE if ip.count(".") == 3 or "%" not in ip])
def test_a_name_that_resolves_to_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch, ip: str) -> None:
    for answers in ([ip], ["8.8.8.8", ip]):
        monkeypatch.setattr(socket, "getaddrinfo", resolver(lambda answers=answers: answers))  # type: ignore[misc]
        with pytest.raises(UnsafeUrl):
            send("http://rebind.example/x", GUARDED, timeout_s=0.5)


def resolver(answers: Callable[[], list[str]]) -> Callable[..., list[Any]]:
    def resolve(host: str, port: int, *_: object, **__: object) -> list[Any]:
        numeric = host[0].isdecimal() or ":" in host
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ([host] if numeric else answers())]

    return resolve


def test_the_connection_goes_to_the_address_that_was_checked(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    """A resolver that gives another address each time is asked once; nobody resolves again in between."""
    asked, checked = [], []

    def answers() -> list[str]:
        asked.append(1)
        return ["127.0.0.1" if len(asked) == 1 else "127.0.0.9"]

    monkeypatch.setattr(socket, "getaddrinfo", resolver(answers))
    way = Network(address_check=lambda ip, host, port: checked.append((ip, host, port)))
    assert send(f"http://flips.example:{receiver.port}/x", way).status == 200
    assert checked == [("127.0.0.1", "flips.example", receiver.port)]
    assert len(asked) == 1
    assert receiver.hits[0].headers["host"] == f"flips.example:{receiver.port}"


class Slow:
    """A server that sends what it is given, one byte at a time, with a pause after each."""

    def __init__(self, text: bytes, pause_s: float) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(text, pause_s))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"

    def _serve(self, text: bytes, pause_s: float) -> None:
        connection, _ = self._listener.accept()
        with connection:
            for byte in text:
                if self._end.wait(pause_s):
                    return
                try:
                    connection.sendall(bytes([byte]))
                except OSError:
                    return
            self._end.wait(DEADLINE_S)

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        self._listener.close()


@pytest.mark.parametrize("text", [b"", b"HTTP/1.1 200 OK\r\nx-padding: " + b"x" * 2000])
def test_an_answer_that_does_not_come_or_trickles_ends_in_time(text: bytes) -> None:
    server = Slow(text, 0.05)
    try:
        began_s = time.monotonic()
        with pytest.raises(Unanswered, match=r"no answer within 0\.5 s"):
            send(server.url, timeout_s=0.5)
        assert time.monotonic() - began_s < AT_ONCE_S
    finally:
        server.close()


def test_a_body_that_trickles_does_not_undo_the_status() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"
    server = Slow(head + b"x" * 10_000, 0.005)
    try:
        began_s = time.monotonic()
        assert send(server.url, timeout_s=3).status == 200
        assert time.monotonic() - began_s < 3 + AT_ONCE_S
    finally:
        server.close()


def test_a_long_body_is_not_taken_to_its_end(receiver: Receiver) -> None:
    gate = threading.Event()
    receiver.default = Reply(headers={"content-length": str(1 << 40)}, body=b"x" * (4 * MAX_ANSWER_BYTES))
    began_s = time.monotonic()
    assert send(receiver.url, timeout_s=4 * AT_ONCE_S).status == 200
    assert time.monotonic() - began_s < AT_ONCE_S
    gate.set()


def test_nobody_there_is_told_without_the_path() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        with pytest.raises(Unanswered) as caught:
            send(f"http://127.0.0.1:{taken.getsockname()[1]}/canary")
    assert "refused" in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_name_that_does_not_exist_is_no_answer() -> None:
    with pytest.raises(Unanswered):
        send("http://no-such-host.invalid/canary")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody has signed but itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hive test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "cert.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


def test_a_certificate_is_checked(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with receiving(context=context) as receiver:
        with pytest.raises(Unanswered, match="certificate is not accepted"):
            send(receiver.url)
        assert receiver.hits == []
        assert send(receiver.url, Network(trust=Trust(str(certificate)))).status == 200
        with pytest.raises(Unanswered, match="certificate is not accepted"):
            send(receiver.url.replace("127.0.0.1", "localhost"), Network(trust=Trust(str(certificate))))
        assert len(receiver.hits) == 1


def test_a_proxy_of_the_settings_is_used_with_its_password(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9/")  # the environment's has no say
    proxies = Proxies.parse(f"http://user:p%40ss@{receiver.host}", no_proxy="direct.example")
    way = Network(proxies, address_check=address_check())
    assert send("http://far.invalid/hook?x=1", way).status == 200
    (hit,) = receiver.hits
    assert (hit.path, hit.headers["host"]) == ("http://far.invalid/hook?x=1", "far.invalid")
    assert hit.headers["proxy-authorization"] == "Basic dXNlcjpwQHNz"
    assert way.proxy_for(parse_url("http://direct.example/")) is None


def test_a_private_address_is_refused_by_way_of_a_proxy_too(receiver: Receiver) -> None:
    way = Network(Proxies.parse(f"http://{receiver.host}"), address_check=address_check())
    with pytest.raises(UnsafeUrl):
        send("http://127.0.0.1:8080/x", way)
    assert receiver.hits == []
