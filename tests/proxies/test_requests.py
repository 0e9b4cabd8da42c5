"""Single requests through a proxy: keys and tickets, addresses of clients, sizes, compression, a sub-path."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest
import requests
from requests.adapters import HTTPAdapter

from hive.client import Client
from hive.wire.api import PROGRESS_PATH
from tests.proxies.guarded import Guarded
from tests.proxies.programs import NAMES, ROOT, Change, Proxy, running
from tests.support.downloads import claim, complete, create
from tests.support.sse_client import SseClient
from tests.support.store import put, sha256
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

#: Where a client sits, as the proxy sees it, and what it claims.
CLIENT, CLAIMED = "127.0.0.9", "203.0.113.7"
#: Bytes of bodies: one that hive refuses where it is no prompt, and more than the files let through.
TOO_LARGE_FOR_HIVE, TOO_LARGE = 200_000, 1_200_000
#: Bytes of a file that no buffers of sockets hold.
LARGE_BYTES = 32 << 20


class _From(HTTPAdapter):
    """Connects from an address of its own."""

    def init_poolmanager(self, *args: object, **kwargs: object) -> None:
        super().init_poolmanager(*args, source_address=(CLIENT, 0), **kwargs)  # type: ignore[arg-type]


@pytest.fixture
def client(guarded_proxy: Proxy) -> Iterator[requests.Session]:
    """A client on an address of its own, which says that it is another."""
    with requests.Session() as session:
        session.mount("https://", _From())
        session.verify = guarded_proxy.ca
        session.trust_env = False
        session.headers["X-Forwarded-For"] = CLAIMED
        session.headers["Forwarded"] = f"for={CLAIMED}"
        yield session


def test_keys_tickets_and_addresses_pass(guarded_proxy: Proxy, guarded: Guarded, client: requests.Session) -> None:
    url = guarded_proxy.url
    assert client.get(f"{url}/v1/models").status_code == 401
    key = guarded.header
    assert client.get(f"{url}/v1/models", headers=key).status_code == 200

    download_id = create(guarded.downloads)
    ticket = client.post(f"{url}/v1/tickets", headers=key, json={"ids": [download_id]}).json()["ticket"]
    stream = SseClient(f"{url}{PROGRESS_PATH}?id={download_id}&ticket={ticket}", tls=guarded_proxy.tls)
    wait_for(lambda: stream.events, "the ticket opens the stream")
    held = claim(guarded.downloads, download_id)
    guarded.downloads.claims.finish(held, 2, "complete", complete(), "/store/model.gguf")
    stream.wait()
    assert stream.done == 1
    client.get(f"{url}/v1/models")  # one more line behind those of the stream
    assert ticket[:40] not in guarded_proxy.log, "tickets do not belong into a log"

    page = {"Origin": url, "Sec-Fetch-Site": "same-origin"}
    session = client.post(f"{url}/v1/session", headers={**key, **page})
    assert session.status_code in (200, 204), session.text
    assert session.cookies
    assert client.get(f"{url}/v1/models").status_code == 200, "the session's cookie passes"


def answer_to_head(proxy: Proxy, headers: dict[str, str]) -> bytes:
    """The head of what is answered to the head of a POST alone."""
    sent = {"Host": "localhost", "Content-Type": "application/json", **headers}
    lines = ["POST /v1/models/download HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
    plain = socket.create_connection(("localhost", proxy.port), 30)
    with proxy.tls.wrap_socket(plain, server_hostname="localhost") as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(4096)
        return answer.partition(b"\r\n\r\n")[0]


def test_sizes_are_bounded_and_json_alone_is_compressed(
    guarded_proxy: Proxy, guarded: Guarded, client: requests.Session
) -> None:
    url, key = guarded_proxy.url, guarded.header

    def send(path: str, size: int) -> requests.Response:
        return client.post(f"{url}{path}", headers=key, json={"model": "x", "prompt": "x" * size})

    assert send("/v1/models/download", TOO_LARGE_FOR_HIVE).json()["error"]["code"] == "BODY_TOO_LARGE"
    assert send("/v1/completions", TOO_LARGE_FOR_HIVE).json()["error"]["code"] == "MODEL_NOT_LOADED"
    # Only the head: who is refused while it sends a body may hear of a broken connection instead.
    answer = answer_to_head(guarded_proxy, {**key, "Content-Length": str(TOO_LARGE)})
    assert answer.split()[1] == b"413"
    assert b"x-request-id" not in answer.lower(), "it did not come as far as hive"

    packed = client.get(f"{url}/openapi.json", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json()["openapi"]

    download_id = create(guarded.downloads)
    headers = {**key, "Accept-Encoding": "gzip"}
    stream = SseClient(f"{url}{PROGRESS_PATH}?id={download_id}", headers, tls=guarded_proxy.tls)
    wait_for(lambda: stream.events, "the first event comes at once")
    assert "content-encoding" not in stream.headers
    stream.close()


def test_plain_http_leads_to_tls(guarded_proxy: Proxy) -> None:
    proxy = guarded_proxy
    answer = requests.get(f"{proxy.plain_url}/v1/health", allow_redirects=False, timeout=60)
    assert answer.status_code in (301, 308)
    assert answer.headers["location"].startswith("https://localhost")
    assert requests.get(f"{proxy.url}/v1/health", verify=proxy.ca, timeout=60).status_code == 200


def documented(name: str) -> Change:
    """What docs/proxies.md says is to be changed in this file for a sub-path: a line, and what takes its place."""
    text = (ROOT / "docs" / "proxies.md").read_text().partition("## A sub-path")[2]
    block = re.search(rf"<!-- {name} -->\n\n((?:    .*\n|\n)+?)\nbecomes\n\n((?:    .*\n)+)", text)
    assert block is not None, f"no block for {name}"
    old, new = (re.sub(r"^    ", "", part, flags=re.MULTILINE).strip("\n") for part in block.groups())
    return Change(old, new)


@pytest.mark.parametrize("name", NAMES)
def test_a_sub_path_is_what_the_documentation_says(
    name: str, guarded: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    with running(name, tmp_path, guarded.ports, [documented(name)]) as proxy:
        base = f"{proxy.url}/hive"
        health = requests.get(f"{base}/v1/health", verify=proxy.ca, timeout=60)
        assert health.status_code == 200
        listed = requests.get(f"{base}/v1/downloads?limit=5", headers=guarded.header, verify=proxy.ca, timeout=60)
        assert listed.json()["object"] == "list"
        download_id = create(guarded.downloads, dedup_key=f"sub-path-{name}")
        held = claim(guarded.downloads, download_id)
        guarded.downloads.claims.finish(held, 2, "complete", complete(), "/store/model.gguf")
        monkeypatch.setenv("SSL_CERT_FILE", proxy.ca)
        with Client(base, api_key=guarded.key) as hive:
            assert download_id in [download.id for download in hive.downloads()]
            assert list(hive.watch(download_id)) == [complete()]
        page = requests.get(f"{base}/docs", verify=proxy.ca, timeout=60)
        link = re.search(r'href="([^"]*openapi\.json)"', page.text)
        assert link is not None
        target = urljoin(page.url, link[1])
        assert requests.get(target, verify=proxy.ca, timeout=60).json()["openapi"]


def test_nginx_keeps_no_file_for_a_client_that_takes_it_slowly(
    guarded: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take the first gigabyte at once, then nothing until the client has it: hive gives a client up that takes
    nothing for 30 s, and the file would break off.
    """
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    content = bytes(LARGE_BYTES)
    put(guarded.settings, "org/large", {"model.gguf": content})
    log = Change("hive-error.log crit;", "hive-error.log warn;")
    with running("nginx", tmp_path, guarded.ports, [log]) as proxy:
        url = f"{proxy.url}/v1/blobs/sha256:{sha256(content)}"
        with requests.get(url, headers=guarded.header, verify=proxy.ca, timeout=60, stream=True) as unread:
            assert unread.status_code == 200
            # While all of it comes for another client, nginx has time to take the first one's too.
            assert requests.get(url, headers=guarded.header, verify=proxy.ca, timeout=60).content == content
            assert "buffered to a temporary file" not in proxy.log


def test_the_audit_line_has_the_client(guarded_proxy: Proxy, guarded: Guarded, client: requests.Session) -> None:
    headers = {**guarded.header, "X-Request-ID": f"who-was-it-{guarded_proxy.name}"}
    client.post(f"{guarded_proxy.url}/v1/models/download", headers=headers, json={"model_ref": "nothing like it"})

    def line() -> dict[str, object] | None:
        lines = [server.logged_with("request_id", headers["X-Request-ID"]) for server in guarded.servers]
        return next(filter(None, lines), None)

    found = wait_for(line, "the audit line")
    assert found["address"] == CLIENT
