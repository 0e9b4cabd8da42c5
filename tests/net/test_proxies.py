"""The proxies of the environment, and who is reached without one."""

from __future__ import annotations

import pytest

from hive.net.proxies import NoProxy, Proxies, Proxy
from hive.settings import Settings, SettingsError

CANARY = "c4n4ry"


def found(env: dict[str, str], scheme: str = "https", host: str = "hub.example", port: int = 443) -> Proxy | None:
    return Settings.from_env(env).proxies.find(scheme, host, port)


@pytest.mark.parametrize(
    ("env", "scheme", "url"),
    [
        ({"HTTPS_PROXY": "http://p:3128"}, "https", "http://p:3128"),
        ({"https_proxy": "http://p:3128"}, "https", "http://p:3128"),
        ({"HTTPS_PROXY": "http://p:3128"}, "http", None),
        ({"HTTP_PROXY": "http://p:3128"}, "http", "http://p:3128"),
        ({"HTTP_PROXY": "http://p:3128"}, "https", None),
        ({"ALL_PROXY": "http://p:3128"}, "https", "http://p:3128"),
        ({"all_proxy": "http://p:3128"}, "http", "http://p:3128"),
        ({"ALL_PROXY": "http://all:1", "HTTPS_PROXY": "http://p:3128"}, "https", "http://p:3128"),
        ({"ALL_PROXY": "socks5://all:1", "HTTP_PROXY": "p:1", "HTTPS_PROXY": "p:2"}, "https", "http://p:2"),
        ({"HTTPS_PROXY": "p:3128"}, "https", "http://p:3128"),
        ({"HTTPS_PROXY": "https://p"}, "https", "https://p:443"),
        ({"HTTPS_PROXY": "http://p/"}, "https", "http://p:80"),
        ({"HTTPS_PROXY": "http://[fd00::1]:3128"}, "https", "http://[fd00::1]:3128"),
        ({"HTTPS_PROXY": "http://user:word@p:3128"}, "https", "http://p:3128"),
    ],
)
def test_the_proxy_is_the_one_of_the_scheme(env: dict[str, str], scheme: str, url: str | None) -> None:
    proxy = found(env, scheme)
    assert (proxy.url if proxy is not None else None) == url


@pytest.mark.parametrize(
    ("credentials", "decoded"),
    [
        ("user:pa%25ss", "user:pa%ss"),
        ("us%40er:p%3Aw", "us@er:p:w"),
        ("user", "user:"),
        ("user:", "user:"),
        ("%C3%BC:%E2%82%AC", "ü:€"),
    ],
)
def test_credentials_are_decoded(credentials: str, decoded: str) -> None:
    import base64

    proxy = found({"HTTPS_PROXY": f"http://{credentials}@p:3128"})
    assert proxy is not None
    assert proxy.authorization == "Basic " + base64.b64encode(decoded.encode()).decode()


@pytest.mark.parametrize(
    "value",
    [
        f"socks5://user:{CANARY}@p:1",
        f"ftp://user:{CANARY}@p:1",
        f"http://user:{CANARY}@p:99999",
        f"http://user:{CANARY}@p:port",
        f"http://user:{CANARY}@",
        f"http://user:{CANARY}@p:0",
        f"http://user:{CANARY}#@p:1",
        f"http://user:{CANARY}@p p:1",
        f"http://user:{CANARY}@[::1",
        "http://",
        f"http:/user:{CANARY}@p:1",
        f"http//user:{CANARY}@p:1",
        f"//user:{CANARY}@p:1",
        f"https:user:{CANARY}@p:1",
        f'"http://user:{CANARY}@p:1',
        f"p:1/{CANARY}",
    ],
)
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"])
def test_what_is_no_proxy_is_refused_at_the_start_by_its_variable(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=variable) as caught:
        Settings.from_env({variable: value})
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("quote", ["'", '"'])
def test_the_quotes_that_docker_leaves_around_a_proxy_are_none_of_it(quote: str) -> None:
    proxy = Settings.from_env({"HTTP_PROXY": f"{quote}http://user:pass@p:1{quote}"}).proxies.find("http", "h", 80)
    assert proxy is not None
    assert (proxy.host, proxy.port) == ("p", 1)


def test_no_password_is_shown() -> None:
    settings = Settings.from_env(dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), f"http://u:{CANARY}@p:1"))
    for shown in (repr(settings), repr(settings.proxies), str(settings.proxies.find("http", "h", 80))):
        assert CANARY not in shown


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "without"),
    [
        ("*", "hub.example", 443, True),
        ("hub.example", "hub.example", 443, True),
        ("hub.example", "HUB.Example.", 443, True),
        ("example", "hub.example", 443, True),
        (".example", "hub.example", 443, True),
        (".hub.example", "hub.example", 443, True),
        ("*.example", "hub.example", 443, True),
        ("*.example", "deep.hub.example", 443, True),
        ("ub.example", "hub.example", 443, False),
        ("other.example", "hub.example", 443, False),
        ("hub.example:8080", "hub.example", 8080, True),
        ("hub.example:8080", "hub.example", 443, False),
        ("*.example:8080", "hub.example", 8080, True),
        ("a, hub.example ,b", "hub.example", 443, True),
        ("a hub.example", "hub.example", 443, True),
        (",,", "hub.example", 443, False),
        ("", "hub.example", 443, False),
        ("127.0.0.1", "127.0.0.1", 80, True),
        ("127.0.0.1", "127.0.0.2", 80, False),
        ("127.0.0.1:80", "127.0.0.1", 80, True),
        ("127.0.0.1:81", "127.0.0.1", 80, False),
        ("127.0.0.0/8", "127.1.2.3", 80, True),
        ("127.0.0.1/8", "127.1.2.3", 80, True),
        ("10.0.0.0/8", "127.0.0.1", 80, False),
        ("127.0.0.0/8", "localhost", 80, False),
        ("127.0.0.0/99", "127.0.0.1", 80, False),
        ("localhost", "localhost", 80, True),
        ("localhost", "127.0.0.1", 80, False),
        ("::1", "[::1]", 80, True),
        ("[::1]", "::1", 80, True),
        ("[::1]:80", "[::1]", 80, True),
        ("[::1]:81", "[::1]", 80, False),
        ("0:0:0:0:0:0:0:1", "[::1]", 80, True),
        ("fd00::/8", "[fd12::1]", 80, True),
        ("[fd00::]/8", "[fd12::1]", 80, True),
        ("127.0.0.0/8", "[::ffff:127.0.0.1]", 80, True),
        ("0.1", "10.0.0.1", 80, False),
    ],
)
def test_no_proxy_is_read_as_curl_go_and_requests_do(no_proxy: str, host: str, port: int, without: bool) -> None:
    assert NoProxy.parse(no_proxy).covers(host, port) is without
    proxies = Proxies.parse("http://p:1", no_proxy=no_proxy)
    assert (proxies.find("http", host, port) is None) is without
