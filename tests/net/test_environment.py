"""One network environment: what each variable means is the same for the Hub's API, its files, plain URLs and webhooks.

Each case is a real client of hive, a real server and, where it is about one, a real proxy, on the loopback.
"""

from __future__ import annotations

import shutil
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from hive.errors import HiveError, HubUnavailable, ProxyRefused, TlsRefused, UnsafeUrl
from hive.settings import Settings, SettingsError
from hive.webhooks.delivery import Unanswered
from hive.wire.refs import parse_ref
from tests.hub import HubServer
from tests.hub.access import DEFAULT_TOKEN
from tests.support.network_world import (
    CLIENTS,
    FETCHERS,
    SCHEMES,
    Use,
    World,
    use_api,
    use_bytes,
    use_plain_url,
    use_webhook,
)
from tests.support.proxy import forward_proxy
from tests.support.tls import Authority, tls_front
from workers.fetch import network_for
from workers.sources import resolve
from workers.transfer import fetch

PASSWORD = "pa%ss@c4n4ry"
USER_INFO = "us%3Aer:pa%25ss%40c4n4ry"
CREDENTIALS = f"us:er:{PASSWORD}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    authority = Authority(folder)
    with HubServer() as hub:
        hub.create("org/name", {"README.md": b"# tiny\n"})
        hub.plain("/plain.bin", bytes(300))
        with tls_front(int(hub.endpoint.rpartition(":")[2]), authority.context()) as front:
            yield World(hub, front, authority, folder)


@pytest.fixture(autouse=True)
def fresh(world: World) -> None:
    for left in world.folder.glob("*.part*"):
        left.unlink()


def trusting(world: World, scheme: str, **env: str) -> Settings:
    return world.settings(scheme, SSL_CERT_FILE=str(world.authority.file), **env)


@CLIENTS
@SCHEMES
@pytest.mark.parametrize("variable", ["HTTP{}_PROXY", "http{}_proxy", "ALL_PROXY", "all_proxy"])
def test_the_proxy_is_used_with_its_credentials(world: World, use: Use, scheme: str, variable: str) -> None:
    name = variable.format("s" if variable[0].islower() else "S") if scheme == "https" else variable.format("")
    with forward_proxy(CREDENTIALS) as proxy:
        use(world, trusting(world, scheme, **{name: proxy.url(USER_INFO)}))
    assert proxy.asked
    assert {asked.credentials for asked in proxy.asked} == {CREDENTIALS}
    methods = {asked.method for asked in proxy.asked}
    assert ("CONNECT" in methods) is (scheme == "https")
    assert not any("proxy-authorization" in hit.headers for hit in world.hub.hits())


@FETCHERS
@SCHEMES
@pytest.mark.parametrize("user_info", ["", "user:wrong-c4n4ry"])
def test_a_proxy_that_refuses_the_credentials_ends_it_at_once(
    world: World, use: Use, scheme: str, user_info: str
) -> None:
    name = "HTTPS_PROXY" if scheme == "https" else "HTTP_PROXY"
    with forward_proxy(CREDENTIALS) as proxy, pytest.raises(ProxyRefused) as caught:
        use(world, trusting(world, scheme, **{name: proxy.url(user_info)}))
    assert name in caught.value.message
    assert ("refuses the credentials" in caught.value.message) is bool(user_info)
    assert "c4n4ry" not in caught.value.message
    assert len(proxy.asked) == 1


@FETCHERS
def test_a_proxy_that_does_not_connect_is_named(world: World, use: Use) -> None:
    with forward_proxy(answer=403) as proxy, pytest.raises(ProxyRefused, match=r"HTTPS_PROXY.*localhost.*403"):
        use(world, trusting(world, "https", HTTPS_PROXY=proxy.url()))
    assert len(proxy.asked) == 1


@pytest.mark.parametrize(
    "no_proxy",
    ["*", "127.0.0.0/8,localhost", "127.0.0.1, localhost", "{host}", "{host}:{port}", "localhost 127.0.0.1"],
)
@CLIENTS
@SCHEMES
def test_no_proxy_goes_past_it(world: World, use: Use, scheme: str, no_proxy: str) -> None:
    place = urlsplit(world.endpoint(scheme))
    value = no_proxy.format(host=place.hostname, port=place.port)
    with forward_proxy() as proxy:
        use(world, trusting(world, scheme, ALL_PROXY=proxy.url(), NO_PROXY=value))
    assert proxy.asked == []


@CLIENTS
@SCHEMES
@pytest.mark.parametrize("no_proxy", ["10.0.0.0/8", "{host}:1", "example.org", "ocalhost,27.0.0.1"])
def test_no_proxy_for_others_does_not(world: World, use: Use, scheme: str, no_proxy: str) -> None:
    value = no_proxy.format(host=urlsplit(world.endpoint(scheme)).hostname)
    with forward_proxy() as proxy:
        use(world, trusting(world, scheme, ALL_PROXY=proxy.url(), NO_PROXY=value))
    assert proxy.asked


# Certificates.


def bundle(world: World, kind: str) -> str:
    """The authority's certificate as a variable may name it."""
    if kind == "file":
        return str(world.authority.file)
    folder = world.folder / kind
    folder.mkdir(exist_ok=True)
    name = "company.crt" if kind == "folder" else "0123abcd.0"
    shutil.copy(world.authority.file, folder / name)
    return str(folder)


@CLIENTS
@pytest.mark.parametrize("proxied", [False, True])
@pytest.mark.parametrize(
    ("variable", "kind"),
    [
        ("REQUESTS_CA_BUNDLE", "file"),
        ("REQUESTS_CA_BUNDLE", "folder"),
        ("REQUESTS_CA_BUNDLE", "hashed"),
        ("CURL_CA_BUNDLE", "file"),
        ("SSL_CERT_FILE", "file"),
        ("SSL_CERT_DIR", "folder"),
        ("SSL_CERT_DIR", "hashed"),
    ],
)
def test_a_companys_certificate_counts_for_every_client(
    world: World, use: Use, variable: str, kind: str, proxied: bool
) -> None:
    with forward_proxy() as proxy:
        env = {"HTTPS_PROXY": proxy.url()} if proxied else {}
        use(world, world.settings("https", **{variable: bundle(world, kind), **env}))
    assert bool(proxy.asked) is proxied


@FETCHERS
@pytest.mark.parametrize("proxied", [False, True])
def test_a_certificate_that_nobody_trusts_is_tried_once_and_said(world: World, use: Use, proxied: bool) -> None:
    before = world.front.connections
    with forward_proxy() as proxy, pytest.raises(TlsRefused, match="certificate of localhost") as caught:
        use(world, world.settings("https", **({"HTTPS_PROXY": proxy.url()} if proxied else {})))
    assert "SSL_CERT_FILE" in caught.value.message
    assert world.front.connections == before + 1


@FETCHERS
@pytest.mark.parametrize(
    ("wrong", "says"), [({"expired": True}, "out of its time"), ({"name": "other.test"}, "another name")]
)
def test_a_certificate_that_is_out_of_date_or_anothers_is_said(
    world: World, use: Use, wrong: dict[str, object], says: str
) -> None:
    context = world.authority.context(**wrong)  # type: ignore[arg-type]
    with tls_front(int(world.hub.endpoint.rpartition(":")[2]), context) as front:
        other = world._replace(front=front)
        with pytest.raises(TlsRefused, match=says):
            use(other, trusting(other, "https"))
        assert front.connections == 1


@FETCHERS
def test_a_server_that_speaks_no_tls_is_said(world: World, use: Use) -> None:
    plain = world.hub.endpoint.replace("http://127.0.0.1", "https://localhost")
    settings = trusting(world, "https", HF_ENDPOINT=plain, HIVE_ALLOW_HOSTS=urlsplit(plain).netloc)
    with pytest.raises(TlsRefused, match="localhost speaks no TLS"):
        use(world, settings)


def test_a_webhook_says_what_is_wrong_too(world: World) -> None:
    with pytest.raises(Unanswered, match="certificate"):
        use_webhook(world, world.settings("https"))


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"])
@pytest.mark.parametrize("kind", ["nothing", "empty file", "text", "folder without", "binary"])
def test_certificates_that_are_not_there_stop_the_start_by_their_variable(
    tmp_path: Path, variable: str, kind: str
) -> None:
    path = tmp_path / "certificates"
    if kind == "folder without":
        path.mkdir()
        (path / "readme.pem").write_text("no certificate")
    elif kind != "nothing":
        path.write_bytes({"empty file": b"", "text": b"hello\n", "binary": b"\x30\x82\x00\x00"}[kind])
    with pytest.raises(SettingsError, match=variable):
        Settings.from_env({variable: str(path)})


def test_some_folders_of_several_may_be_missing(world: World) -> None:
    folders = f"/nowhere:{bundle(world, 'folder')}"
    before = world.front.connections
    use_api(world, world.settings("https", SSL_CERT_DIR=folders))
    assert world.front.connections > before, "its certificate was trusted"


# The table of addresses, also where a Hub leads.


@pytest.mark.parametrize("place", ["169.254.169.254", "127.0.0.2:8080", "[::1]:8080", "10.0.0.1", "localhost:8080"])
@pytest.mark.parametrize("use", [use_api, use_bytes])
def test_a_mirror_that_redirects_into_the_network_is_refused(world: World, use: Use, place: str) -> None:
    with HubServer() as mirror:
        mirror.create("org/name", {"README.md": b"# tiny\n"})
        sha = mirror.repos["org/name"].at("main").sha
        path = "/api/models/org/name/revision/main" if use is use_api else f"/org/name/resolve/{sha}/README.md"
        scheme = "https" if use is use_api else "http"
        settings = World(mirror, world.front, world.authority, world.folder).settings("http")
        if use is use_api:
            mirror.redirect(path, f"{scheme}://{place}/latest/meta-data", 307)
            with pytest.raises(UnsafeUrl, match="HIVE_ALLOW_HOSTS"):
                use_api(world, settings)
            return
        network = network_for(settings, guarded=False)
        plan = resolve(parse_ref("org/name"), settings=settings, network=network)
        mirror.redirect(path, f"{scheme}://{place}/latest/meta-data", 307)
        with pytest.raises(UnsafeUrl, match="HIVE_ALLOW_HOSTS"):
            fetch(plan.files[0].source, world.folder / "hop", network=network)


def test_a_host_that_is_listed_may_be_redirected_to(world: World) -> None:
    with HubServer() as mirror, HubServer() as store:
        content = b"# tiny\n"
        mirror.create("org/name", {"README.md": content})
        sha = mirror.repos["org/name"].at("main").sha
        far = store.plain("/f", content).replace("127.0.0.1", "localhost")
        settings = World(mirror, world.front, world.authority, world.folder).settings(
            "http", HIVE_ALLOW_HOSTS=urlsplit(far).netloc
        )
        network = network_for(settings, guarded=False)
        plan = resolve(parse_ref("org/name"), settings=settings, network=network)
        mirror.redirect(f"/org/name/resolve/{sha}/README.md", far, 307)
        assert fetch(plan.files[0].source, world.folder / "listed", network=network).verified


def test_a_mirror_may_hand_out_bytes_at_another_port_of_its_host_and_gets_no_token_there(world: World) -> None:
    with HubServer() as mirror, HubServer() as bucket:
        content = b"# tiny\n"
        mirror.create("org/name", {"README.md": content}, private=True)
        sha = mirror.repos["org/name"].at("main").sha
        settings = World(mirror, world.front, world.authority, world.folder).settings("http", HF_TOKEN=DEFAULT_TOKEN)
        network = network_for(settings, guarded=False)
        plan = resolve(parse_ref("org/name"), settings=settings, network=network, token=DEFAULT_TOKEN)
        mirror.redirect(f"/org/name/resolve/{sha}/README.md", bucket.plain("/f", content), 307)
        assert fetch(plan.files[0].source, world.folder / "near", network=network).verified
        assert all("authorization" not in hit.headers for hit in bucket.hits("/f"))
        assert any("authorization" in hit.headers for hit in mirror.hits("*/resolve/*"))


def test_nothing_of_this_is_shown(world: World) -> None:
    with forward_proxy("other") as proxy:
        settings = trusting(world, "http", HTTP_PROXY=proxy.url(USER_INFO))
        for use in (use_api, use_bytes, use_plain_url):
            with pytest.raises(HiveError) as caught:
                use(world, settings)
            assert "c4n4ry" not in repr(caught.value)
    assert "c4n4ry" not in repr(settings)
    assert "c4n4ry" not in repr(network_for(settings, guarded=True))


# What is the proxy's own fault is said of the proxy.


@FETCHERS
@SCHEMES
def test_a_proxys_certificate_that_nobody_trusts_is_the_proxys(
    world: World, use: Use, scheme: str, tmp_path: Path
) -> None:
    name = "HTTPS_PROXY" if scheme == "https" else "HTTP_PROXY"
    context = Authority(tmp_path).context()
    with forward_proxy() as proxy, tls_front(proxy.port, context) as front, pytest.raises(TlsRefused) as caught:
        use(world, trusting(world, scheme, **{name: f"https://127.0.0.1:{front.port}"}))
    assert f"certificate of the proxy in {name} is not trusted" in caught.value.message
    assert front.connections == 1


@FETCHERS
@SCHEMES
def test_a_proxy_that_speaks_no_tls_is_named(world: World, use: Use, scheme: str) -> None:
    name = "HTTPS_PROXY" if scheme == "https" else "HTTP_PROXY"
    plain = world.hub.endpoint.replace("http://", "https://")
    with pytest.raises(TlsRefused, match=rf"The proxy in {name} speaks no TLS"):
        use(world, trusting(world, scheme, **{name: plain}))


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@CLIENTS
def test_a_proxy_that_cannot_connect_is_named_with_its_answer(world: World, use: Use, status: int) -> None:
    with forward_proxy(answer=status) as proxy, pytest.raises((HiveError, Unanswered)) as caught:
        use(world, trusting(world, "https", HTTPS_PROXY=proxy.url()))
    assert f"the proxy in HTTPS_PROXY answers {status} for localhost" in text_of(caught.value)


@CLIENTS
@SCHEMES
@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "http://proxy.invalid:3128"])
def test_a_proxy_that_is_not_there_is_named(world: World, use: Use, scheme: str, address: str) -> None:
    name = "HTTPS_PROXY" if scheme == "https" else "HTTP_PROXY"
    with pytest.raises((HiveError, Unanswered)) as caught:
        use(world, trusting(world, scheme, **{name: address}))
    assert f"the proxy in {name} cannot be reached" in text_of(caught.value)


@CLIENTS
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.0 200 Connection established\r\n\r\n"])
def test_a_connection_that_breaks_on_its_way_through_a_proxy_is_told_with_it(
    world: World, use: Use, answer: bytes
) -> None:
    class Breaks(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Breaks) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
        with pytest.raises((HiveError, Unanswered)) as caught:
            use(world, trusting(world, "https", HTTPS_PROXY=f"http://127.0.0.1:{proxy.server_address[1]}"))
        proxy.shutdown()
    assert "through the proxy in HTTPS_PROXY broke" in text_of(caught.value)


def text_of(error: BaseException) -> str:
    return error.message if isinstance(error, HiveError) else str(error)


@FETCHERS
@SCHEMES
@pytest.mark.parametrize("offers", [("NTLM",), ("Negotiate", "NTLM"), ('Digest realm="x"',)])
@pytest.mark.parametrize("user_info", ["", "user:pass"])
def test_a_proxy_that_speaks_no_basic_is_named_with_what_it_wants(
    world: World, use: Use, scheme: str, offers: tuple[str, ...], user_info: str
) -> None:
    name = "HTTPS_PROXY" if scheme == "https" else "HTTP_PROXY"
    with forward_proxy("nobody", offers=offers) as proxy, pytest.raises(ProxyRefused) as caught:
        use(world, trusting(world, scheme, **{name: proxy.url(user_info)}))
    assert f"The proxy in {name} wants {offers[0].partition(' ')[0]}" in caught.value.message
    assert "cntlm" in caught.value.message
    assert len(proxy.asked) == 1


@FETCHERS
@SCHEMES
def test_a_proxy_that_offers_basic_besides_wants_a_password(world: World, use: Use, scheme: str) -> None:
    name = "HTTPS_PROXY" if scheme == "https" else "HTTP_PROXY"
    offers = ("Negotiate", "NTLM", "Basic realm=x")
    with forward_proxy("nobody", offers=offers) as proxy, pytest.raises(ProxyRefused, match="wants credentials"):
        use(world, trusting(world, scheme, **{name: proxy.url()}))


PAGE = b"<html><title>Blocked</title>This site is not allowed here</html>"


@FETCHERS
@pytest.mark.parametrize("status", [400, 403, 404, 451])
@pytest.mark.parametrize(
    "mark",
    [
        "X-Squid-Error: ERR_ACCESS_DENIED 0",
        "Server: squid/5.7",
        "Proxy-Status: proxy.corp; error=http_request_denied",
        "Proxy-Connection: close",
        "Server: tinyproxy/1.11.1",
    ],
)
def test_a_page_that_the_proxy_made_is_the_proxys(world: World, use: Use, status: int, mark: str) -> None:
    with forward_proxy(answer=status, headers=(mark, "Content-Type: text/html"), body=PAGE) as proxy:
        with pytest.raises(ProxyRefused, match="proxy in HTTP_PROXY answers") as caught:
            use(world, trusting(world, "http", HTTP_PROXY=proxy.url()))
        assert len(proxy.asked) == 1
    assert "NO_PROXY=" in caught.value.message


@FETCHERS
@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_trouble_that_the_proxy_has_is_the_proxys(world: World, use: Use, status: int) -> None:
    marks = ("Via: 1.1 proxy.corp (squid/5.7)", "Server: squid/5.7")
    with forward_proxy(answer=status, headers=marks, body=PAGE) as proxy, pytest.raises(HiveError) as caught:
        use(world, trusting(world, "http", HTTP_PROXY=proxy.url()))
    assert f"the proxy in HTTP_PROXY answers {status}" in caught.value.message


@pytest.mark.parametrize("use", [use_bytes, use_plain_url, use_api])
def test_a_refusal_that_came_by_a_proxy_says_so(world: World, use: Use) -> None:
    with (
        forward_proxy(answer=403, headers=("Via: 1.1 gate",), body=PAGE) as proxy,
        pytest.raises(HiveError, match="through the proxy in HTTP_PROXY"),
    ):
        use(world, trusting(world, "http", HTTP_PROXY=proxy.url()))


def test_a_certificate_in_another_form_is_named_at_the_start(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pem = authority.file.read_text()
    forms = {
        "ca.der": (ssl.PEM_cert_to_DER_cert(pem), "in DER, not in PEM"),
        "key.pem": (b"-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\n", "a private key"),
        "ca.csr": (b"-----BEGIN CERTIFICATE REQUEST-----\nMIGH\n-----END CERTIFICATE REQUEST-----\n", "a request"),
        "ca.p7b": (b"-----BEGIN PKCS7-----\nMIGH\n-----END PKCS7-----\n", "PKCS #7"),
        "ca.pfx": (b"\x30\x82\x01\x00" + bytes(256), "not a certificate in PEM"),
        "notepad.pem": (pem.encode("utf-16"), "UTF-16"),
        "cut.pem": (pem[:100].encode(), "cut or damaged"),
    }
    for name, (content, says) in forms.items():
        file = tmp_path / name
        file.write_bytes(content)
        for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            with pytest.raises(SettingsError, match=says) as caught:
                Settings.from_env({variable: str(file)})
            assert f"{variable} names {file}" in str(caught.value)


@FETCHERS
def test_an_authority_that_is_out_of_its_time_is_named_with_its_variable(
    world: World, use: Use, tmp_path: Path
) -> None:
    old = Authority(tmp_path, "Old Corp CA", expired=True)
    with tls_front(int(world.hub.endpoint.rpartition(":")[2]), old.context()) as front:
        other = world._replace(front=front)
        with pytest.raises(TlsRefused, match=r"SSL_CERT_FILE names .*=Old Corp CA expired on 20"):
            use(other, other.settings("https", SSL_CERT_FILE=str(old.file)))
        assert front.connections == 1


@FETCHERS
def test_a_certificate_that_turns_out_to_be_none_is_named_by_its_variable(
    world: World, use: Use, tmp_path: Path
) -> None:
    file = tmp_path / "broken.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\nMIGHAA==\n-----END CERTIFICATE-----\n")
    with pytest.raises(TlsRefused, match=f"SSL_CERT_FILE names {file}"):
        use(world, world.settings("https", SSL_CERT_FILE=str(file)))


@FETCHERS
def test_a_name_that_dns_does_not_know_ends_it_within_seconds(
    world: World, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = unresolved(monkeypatch, socket.EAI_NONAME)
    began_s = time.monotonic()
    with pytest.raises(HiveError, match=r"host models\.example: DNS does not know"):
        use_named(world, use)
    assert 1.0 < time.monotonic() - began_s < 10.0
    assert len(asked) >= 2


@FETCHERS
@pytest.mark.parametrize("number", [socket.EAI_AGAIN, socket.EAI_NONAME])
def test_a_name_that_is_known_a_moment_later_is_asked_for_again(
    world: World, use: Use, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    unresolved(monkeypatch, number, times=1)
    if use is use_api and number == socket.EAI_AGAIN:
        # What asks the Hub's API tries that again itself.
        with pytest.raises(HubUnavailable):
            use_named(world, use)
    use_named(world, use)


def unresolved(monkeypatch: pytest.MonkeyPatch, number: int, times: int = 1_000) -> list[str]:
    """Make the resolver answer so often with an error, and then with the loopback; gives what it was asked."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def answer(host: str, *args: Any, **options: Any) -> Any:
        if host != "models.example":
            return real(host, *args, **options)
        asked.append(host)
        if len(asked) <= times:
            raise socket.gaierror(number, "as the test says")
        return real("127.0.0.1", *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return asked


def use_named(world: World, use: Use) -> None:
    """The same by the name `models.example`."""
    endpoint = world.hub.endpoint.replace("127.0.0.1", "models.example")
    use(world, world.settings("http", HF_ENDPOINT=endpoint, HIVE_ALLOW_HOSTS=urlsplit(endpoint).netloc))
