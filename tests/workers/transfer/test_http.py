"""Answers that no decent server gives, byte by byte; and TLS."""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hive.errors import Cancelled, DownloadError, LengthUnknown, SourceChanged, UnsafeUrl
from hive.net.addresses import address_check
from hive.net.egress import Network
from hive.net.proxies import Proxies
from hive.net.tls import Trust
from tests.hub import HubServer, faults
from tests.hub.content import Bytes
from tests.support.content import MIB
from tests.support.transfer import ONE, QUICK, background, get, holds, source
from tests.support.waiting import AT_ONCE_S, DEADLINE_S
from workers.transfer import Limits, discard

Script = Callable[[socket.socket, str], None]


@contextmanager
def server(script: Script, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A port where each request (its Range header, or "") is answered by the script, one connection after the other."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopping = threading.Event()

    def serve() -> None:
        while not stopping.is_set():
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(plain,), daemon=True).start()

    def talk(plain: socket.socket) -> None:
        try:
            with plain if context is None else context.wrap_socket(plain, server_side=True) as sock:
                while (asked := read_range(sock)) is not None:
                    script(sock, asked)
        except OSError:
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stopping.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(DEADLINE_S)


def read_range(sock: socket.socket) -> str | None:
    request = b""
    while b"\r\n\r\n" not in request:
        data = sock.recv(4096)
        if not data:
            return None
        request += data
    for line in request.split(b"\r\n"):
        if line.lower().startswith(b"range:"):
            return line.split(b":", 1)[1].strip().decode()
    return ""


def ranged(content: bytes, sock: socket.socket, asked: str, *, until: int | None = None) -> None:
    """A good 206, of which only the first `until` bytes are sent."""
    first, last = (int(number) for number in asked.removeprefix("bytes=").split("-"))
    last = min(last, len(content) - 1)
    head = f'HTTP/1.1 206 Partial Content\r\nContent-Length: {last - first + 1}\r\nETag: "x"\r\n'
    head += f"Content-Range: bytes {first}-{last}/{len(content)}\r\n\r\n"
    sock.sendall(head.encode() + content[first : last + 1][:until])


def hang(sock: socket.socket) -> None:
    """Until the client closes."""
    while sock.recv(4096):
        pass


def test_headers_that_trickle_are_no_answer(tmp_path: Path) -> None:
    def script(sock: socket.socket, asked: str) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 10_000:
            sock.sendall(bytes([byte]))
            time.sleep(0.01)

    limits = replace(QUICK, stall_s=0.2, attempts_max=2, small_file_bytes=MIB)
    began = time.monotonic()
    with server(script) as port, pytest.raises(DownloadError, match="nothing for too long"):
        get(source(f"http://127.0.0.1:{port}/f", Bytes(b"abc")), tmp_path / "f", limits)
    assert time.monotonic() - began < AT_ONCE_S


INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"


@pytest.mark.parametrize("interim", [INTERIM, 3 * INTERIM, b"HTTP/1.1 102 Processing\r\n\r\n" + INTERIM])
def test_what_a_server_says_before_its_answer_is_passed_over(tmp_path: Path, interim: bytes) -> None:
    def script(sock: socket.socket, asked: str) -> None:
        sock.sendall(interim)
        ranged(b"abc", sock, asked)

    with server(script) as port:
        get(source(f"http://127.0.0.1:{port}/f", Bytes(b"abc")), tmp_path / "f")
    assert holds(tmp_path / "f", Bytes(b"abc"))


def test_a_server_that_says_nothing_else_is_left(tmp_path: Path) -> None:
    def script(sock: socket.socket, asked: str) -> None:
        sock.sendall(1000 * INTERIM)

    with server(script) as port, pytest.raises(DownloadError, match="no answer behind them"):
        get(source(f"http://127.0.0.1:{port}/f", Bytes(b"abc")), tmp_path / "f", replace(QUICK, attempts_max=2))


@pytest.mark.parametrize("pinned", [True, False])
def test_a_length_that_stands_there_twice_is_one(tmp_path: Path, pinned: bool) -> None:
    def script(sock: socket.socket, asked: str) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc")

    with server(script) as port:
        get(source(f"http://127.0.0.1:{port}/f", Bytes(b"abc"), pinned=pinned), tmp_path / "f")
    assert holds(tmp_path / "f", Bytes(b"abc"))


@pytest.mark.parametrize("pinned", [True, False])
def test_a_length_beside_chunks_does_not_count(tmp_path: Path, pinned: bool) -> None:
    """RFC 9112, 6.3: the chunks do. Two bytes of three would be a whole file else."""

    def script(sock: socket.socket, asked: str) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n3\r\nabc\r\n0\r\n\r\n")

    with server(script) as port:
        get(source(f"http://127.0.0.1:{port}/f", Bytes(b"abc"), pinned=pinned), tmp_path / "f")
    assert holds(tmp_path / "f", Bytes(b"abc"))


@pytest.mark.parametrize("coding", ["gzip, chunked", "identity, chunked", "gzip", "x-own"])
@pytest.mark.parametrize("pinned", [True, False])
def test_a_transfer_coding_that_nobody_asked_for_ends_it_at_once(tmp_path: Path, coding: str, pinned: bool) -> None:
    asked: list[str] = []

    def script(sock: socket.socket, range_: str) -> None:
        asked.append(range_)
        sock.sendall(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n".encode())
        hang(sock)

    with server(script) as port, pytest.raises(DownloadError, match=coding):
        get(source(f"http://127.0.0.1:{port}/f", Bytes(b"abc"), pinned=pinned), tmp_path / "f")
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        (b"220 mail.example ESMTP\r\n", "does not speak HTTP"),
        (b"-ERR unknown command\r\n", "does not speak HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "headers"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", "headers"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde", "several lengths"),
    ],
)
def test_what_is_no_answer_is_named(tmp_path: Path, answer: bytes, said: str) -> None:
    def script(sock: socket.socket, asked: str) -> None:
        sock.sendall(answer)
        sock.shutdown(socket.SHUT_WR)

    with server(script) as port, pytest.raises(DownloadError, match=said):
        get(source(f"http://127.0.0.1:{port}/f", Bytes(b"abc")), tmp_path / "f", replace(QUICK, attempts_max=2))


def test_a_redirect_whose_body_never_ends_is_left(tmp_path: Path, hub: HubServer) -> None:
    content = Bytes(b"abc")
    target = hub.plain("f", content)

    def script(sock: socket.socket, asked: str) -> None:
        sock.sendall(f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 100\r\n\r\nx".encode())
        hang(sock)

    with server(script) as port:
        got = get(source(f"http://127.0.0.1:{port}/", content), tmp_path / "f", replace(QUICK, stall_s=0.3))
    assert got.verified


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9999999/3\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-1/3\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd",
    ],
)
def test_an_answer_that_contradicts_what_is_known_is_a_changed_source(tmp_path: Path, head: str) -> None:
    with (
        server(lambda sock, asked: sock.sendall(head.encode())) as port,
        pytest.raises(SourceChanged),
    ):
        get(source(f"http://127.0.0.1:{port}/f", Bytes(b"abc")), tmp_path / "f")


@pytest.mark.parametrize(
    "head",
    [
        "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */10\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
def test_an_answer_about_ranges_to_who_asked_for_none_is_said(tmp_path: Path, head: str) -> None:
    with (
        server(lambda sock, asked: sock.sendall(head.encode())) as port,
        pytest.raises(DownloadError, match=r"The server answers (416|206)"),
    ):
        get(source(f"http://127.0.0.1:{port}/f", Bytes(b"abc")), tmp_path / "f")


@pytest.mark.parametrize(
    "said",
    ["", "Content-Range: {}-{}/{}\r\n", "Content-Range: bytes={}-{}/{}\r\n", "Content-Type: multipart/byteranges\r\n"],
)
@pytest.mark.parametrize("pinned", [True, False])
def test_a_range_of_which_nobody_knows_where_it_begins_is_left_for_the_whole(
    tmp_path: Path, said: str, pinned: bool
) -> None:
    content = b"0123456789" * 10_000

    def script(sock: socket.socket, asked: str) -> None:
        status, body, header = "200 OK", content, ""
        if asked:
            first, last = (int(number) for number in asked.removeprefix("bytes=").split("-"))
            status, body = "206 Partial Content", content[first : last + 1]
            header = said.format(first, first + len(body) - 1, len(content))
        sock.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{header}\r\n".encode() + body)

    with server(script) as port:
        get(source(f"http://127.0.0.1:{port}/f", Bytes(content), pinned=pinned), tmp_path / "f")
    assert holds(tmp_path / "f", Bytes(content))


@pytest.mark.parametrize(
    "answer",
    [
        b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 999999 What\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde",
        b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("limits", [QUICK, replace(QUICK, small_file_bytes=MIB)], ids=["parts", "one-get"])
def test_nonsense_ends_in_a_plain_error(tmp_path: Path, answer: bytes, limits: Limits) -> None:
    def script(sock: socket.socket, asked: str) -> None:
        sock.sendall(answer)
        sock.shutdown(socket.SHUT_WR)

    with server(script) as port, pytest.raises(DownloadError):
        get(source(f"http://127.0.0.1:{port}/f", Bytes(b"abc")), tmp_path / "f", limits)


def test_a_range_of_unknown_total_gives_one_stream(tmp_path: Path) -> None:
    content = b"0123456789" * 1000

    def script(sock: socket.socket, asked: str) -> None:
        if asked:
            head = (
                'HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/*\r\nETag: "x"\r\nContent-Length: 10\r\n\r\n'
            )
            sock.sendall(head.encode() + content[:10])
        else:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)

    with server(script) as port:
        get(source(f"http://127.0.0.1:{port}/f", pinned=False), tmp_path / "f")
    assert holds(tmp_path / "f", Bytes(content))


def test_a_file_that_ends_with_the_connection_is_complete_where_a_digest_says_so(tmp_path: Path) -> None:
    content = b"0123456789" * 1000

    def script(sock: socket.socket, asked: str) -> None:
        sock.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + content)
        sock.shutdown(socket.SHUT_WR)

    with server(script) as port:
        get(source(f"http://127.0.0.1:{port}/f", Bytes(content)), tmp_path / "f")
        with pytest.raises(LengthUnknown):
            get(source(f"http://127.0.0.1:{port}/f", pinned=False), tmp_path / "g")
    assert holds(tmp_path / "f", Bytes(content))


def test_a_kept_connection_that_the_server_closed_costs_no_error(tmp_path: Path) -> None:
    content = b"0123456789" * 100_000

    def script(sock: socket.socket, asked: str) -> None:
        ranged(content, sock, asked)
        sock.shutdown(socket.SHUT_RDWR)

    with server(script) as port:
        fetched = get(source(f"http://127.0.0.1:{port}/f", Bytes(content)), tmp_path / "f", ONE)
    assert fetched.verified
    assert fetched.bytes_refetched == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for "localhost" that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run([*made, *files], check=True, capture_output=True)
    return folder / "cert", folder / "key"


@pytest.fixture
def tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def test_a_file_comes_over_tls(tmp_path: Path, tls: ssl.SSLContext, certificate: tuple[Path, Path]) -> None:
    content = b"0123456789" * 100_000
    network = Network(trust=Trust(str(certificate[0])))
    with server(lambda sock, asked: ranged(content, sock, asked), tls) as port:
        url = f"https://localhost:{port}/f"
        assert get(source(url, Bytes(content)), tmp_path / "f", network=network).verified


@contextmanager
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy for one connection at a time, and the first lines of what it was asked."""
    asked: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                pass_on(client, asked)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(DEADLINE_S)


def pass_on(client: socket.socket, asked: list[str]) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        request += client.recv(4096)
    line = request.split(b"\r\n")[0].decode()
    asked.append(line)
    method, target, _ = line.split()
    place = urlsplit(target if "://" in target else f"//{target}")
    with socket.create_connection((place.hostname or "", place.port or 80)) as upstream:
        if method == "CONNECT":
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            upstream.sendall(request)
        while True:
            ready, _, _ = select.select([client, upstream], [], [], DEADLINE_S)
            for sock in ready:
                data = sock.recv(65536)
                if not data:
                    return
                (upstream if sock is client else client).sendall(data)


def test_a_file_comes_through_a_proxy(tmp_path: Path, tls: ssl.SSLContext, certificate: tuple[Path, Path]) -> None:
    content = b"0123456789" * 20_000

    def script(sock: socket.socket, asked: str) -> None:
        ranged(content, sock, asked)

    every_port = range(1, 65536)
    # The proxy itself may be anywhere: it is the operator's word. What it is asked for may not.
    check = address_check({"localhost"}, every_port)
    with proxy() as (url, asked), server(script, tls) as secure, server(script) as plain:
        network = Network(Proxies.parse(url, url), Trust(str(certificate[0])), address_check=check)
        for place in (f"https://localhost:{secure}/f", f"http://localhost:{plain}/f"):
            assert get(source(place, Bytes(content)), tmp_path / "f", ONE, network=network).verified
            discard(tmp_path / "f")
        before = len(asked)
        for host in ("127.0.0.1", "0x7f.1", "[::1]"):
            with pytest.raises(UnsafeUrl):
                get(source(f"http://{host}:{plain}/f", Bytes(content)), tmp_path / "f", ONE, network=network)
    assert {line.rpartition(" ")[0] for line in asked} == {
        f"CONNECT localhost:{secure}",
        f"GET http://localhost:{plain}/f",
    }
    assert len(asked) == before


def test_a_certificate_of_nobody_is_refused(tmp_path: Path, tls: ssl.SSLContext) -> None:
    with (
        server(lambda sock, asked: ranged(b"abc", sock, asked), tls) as port,
        pytest.raises(DownloadError, match="TLS"),
    ):
        get(source(f"https://localhost:{port}/f", Bytes(b"abc")), tmp_path / "f")


def test_a_certificate_of_another_name_is_refused(
    tmp_path: Path, tls: ssl.SSLContext, certificate: tuple[Path, Path]
) -> None:
    network = Network(trust=Trust(str(certificate[0])))
    with (
        server(lambda sock, asked: ranged(b"abc", sock, asked), tls) as port,
        pytest.raises(DownloadError, match="TLS"),
    ):
        get(source(f"https://127.0.0.1:{port}/f", Bytes(b"abc")), tmp_path / "f", network=network)


@pytest.mark.parametrize("until", [0, 1000])
def test_cancel_ends_a_blocked_tls_reader_at_once(
    tmp_path: Path, tls: ssl.SSLContext, certificate: tuple[Path, Path], until: int
) -> None:
    content = b"0123456789" * 100_000
    asked_once = threading.Event()

    def script(sock: socket.socket, asked: str) -> None:
        ranged(content, sock, asked, until=until)
        asked_once.set()
        hang(sock)

    network = Network(trust=Trust(str(certificate[0])))
    with server(script, tls) as port:
        what = source(f"https://localhost:{port}/f", Bytes(content))
        with background(what, tmp_path / "f", Limits(small_file_bytes=0), network) as run:
            assert asked_once.wait(DEADLINE_S)
            run.control.cancel()
            assert run.end() < AT_ONCE_S
    assert isinstance(run.error, Cancelled)


def test_cancel_ends_a_tls_handshake_that_hangs(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        what = source(f"https://localhost:{listener.getsockname()[1]}/f", Bytes(b"abc"))
        with background(what, tmp_path / "f", Limits(connect_timeout_s=4 * AT_ONCE_S)) as run:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1)
                run.control.cancel()
                assert run.end() < AT_ONCE_S
    assert isinstance(run.error, Cancelled)


def test_an_answer_that_is_cut_in_the_middle_of_a_chunk_is_resumed(hub: HubServer, tmp_path: Path) -> None:
    content = Bytes(b"0123456789" * 50_000)
    url = hub.plain("f", content, length=False, ranges=False)
    hub.faults.add(faults.cut(123_456), "/f", count=1)
    assert get(source(url, content), tmp_path / "f").verified
