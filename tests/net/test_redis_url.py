"""The address of Redis: read once, strictly, and never shown."""

from __future__ import annotations

import socket
import ssl

import pytest

from hive.net.redis_url import RedisUrlError, parse_redis_url
from hive.redis.client import connect, connection_options, tls_context
from hive.settings import Settings, SettingsError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://", "localhost:6379"),
        ("redis://host", "host:6379"),
        ("redis://host:7000/3", "host:7000/3"),
        ("redis://user:pw@host/0", "host:6379"),
        ("redis://[::1]:7000", "[::1]:7000"),
        ("rediss://:pw@host?db=2", "host:6379/2"),
        ("unix:///run/redis.sock", "unix:/run/redis.sock"),
        ("unix://:pw@/run/redis.sock?db=4", "unix:/run/redis.sock?db=4"),
        ("redis+sentinel://u:pw@s1:1,s2,[::1]:3/main/4", "s1:1,s2:26379,[::1]:3/main/4"),
        ("rediss+sentinel://:pw@s1/main?sentinel_password=pw2", "s1:26379/main"),
    ],
)
def test_an_address_is_shown_without_user_password_and_options(text: str, shown: str) -> None:
    address = parse_redis_url(text)
    assert str(address) == shown
    assert "pw" not in repr(address)


@pytest.mark.parametrize(
    ("text", "user", "password"),
    [
        ("redis://host", None, None),
        ("redis://:p%23a%25s%2Fs%3F%40@host", None, "p#a%s/s?@"),
        ("redis://us%40er:pw@host", "us@er", "pw"),
        ("redis://:p@ss@host", None, "p@ss"),
        ("redis://:p:w@host", None, "p:w"),
        ("redis://host?password=a%20b&username=u", "u", "a b"),
        ("unix://u:pw@/s", "u", "pw"),
        ("redis+sentinel://us%40er:p%2Cw@a,b/main", "us@er", "p,w"),
        ("redis+sentinel://a,b/main?password=a%20b&username=u&sentinel_password=x", "u", "a b"),
    ],
)
def test_who_asks_is_read_percent_encoded(text: str, user: str | None, password: str | None) -> None:
    address = parse_redis_url(text)
    assert (address.username, address.password) == (user, password)


@pytest.mark.parametrize(
    "text",
    [
        "redis://:se#cret@host/0",
        "redis://:se/cret@host/0",
        "redis://:se?cret@host/0",
        "redis://:se%cret@host/0",
        "redis://:se cret@host/0",
        "redis://:se\tcret@host/0",
        "redis://:se\\cret@host/0",
        "redis://:se[cret@host/0",
        "redis://:sécret@host/0",
        "redis://:secret@host:70000",
        "redis://:secret@host:se",
        "redis://:secret@host:0",
        "redis+sentinel://:secret@a:0,b/main",
        "unix://:secret@run/redis.sock",
        "redis://:secret@host/secret",
        "redis://:secret@host/0?ssl_cert_reqs=none",
        "rediss://:secret@host/0?ssl_cert_reqs=secret",
        "redis://:secret@host/0?timeout=1",
        "redis://:secret@host/0?db=secret",
        "redis://:secret@host/0?db",
        "http://:secret@host",
        "redis+sentinel://:secret@host",
        "redis+sentinel://:secret@host/",
        "redis+sentinel://:secret@/main",
        "redis+sentinel://:secret@a,,b/main",
        "redis+sentinel://:secret@a:70000,b/main",
        "redis+sentinel://:secret@a:secret,b/main",
        "redis+sentinel://:secret@a,b/main/secret",
        "redis+sentinel://:se/cret@a,b/main",
        "redis+sentinel://:se?cret@a,b/main",
        "redis+sentinel://:se,cret@[a,b/main",
        "redis+sentinel://:secret@a/main?ssl_ca_certs=/ca",
        "redis+sentinel://:secret@a/main?sentinel_pasword=secret",
        "redis+sentinel://:secret@" + ",".join("a" * 17) + "/main",
        "redis://:secret@host?sentinel_password=secret",
        "host:6379",
        "unix://",
    ],
)
def test_what_cannot_be_read_is_a_setting_that_cannot_be_used_and_is_not_shown(text: str) -> None:
    with pytest.raises(RedisUrlError) as refused:
        parse_redis_url(text)
    assert "cret" not in str(refused.value)
    with pytest.raises(SettingsError, match=r"^REDIS_URL cannot be used: ") as error:
        Settings.from_env({"REDIS_URL": text})
    assert "cret" not in str(error.value)
    assert error.value.__cause__ is None


def test_the_certificate_is_judged_as_the_url_says_on_both_connections() -> None:
    strict = parse_redis_url("rediss://host")
    lax = parse_redis_url("rediss://host?ssl_cert_reqs=none")
    unnamed = parse_redis_url("rediss://host?ssl_check_hostname=false&ssl_min_version=TLSv1_3")
    for address, mode, check in (
        (strict, ssl.CERT_REQUIRED, True),
        (lax, ssl.CERT_NONE, False),
        (unnamed, ssl.CERT_REQUIRED, False),
    ):
        context = tls_context(address)
        assert context is not None
        assert (context.verify_mode, context.check_hostname) == (mode, check)
    assert tls_context(parse_redis_url("redis://host")) is None
    client = connect("rediss://host?ssl_cert_reqs=none&ssl_certfile=/c&ssl_keyfile=/k&ssl_ca_certs=/ca")
    options = client.connection_pool.connection_kwargs
    assert (options["ssl_certfile"], options["ssl_keyfile"], options["ssl_ca_certs"]) == ("/c", "/k", "/ca")
    assert client.connection_pool.make_connection().cert_reqs == ssl.CERT_NONE


def test_what_the_url_says_is_what_the_client_gets() -> None:
    options = connection_options(parse_redis_url("redis://u:p%23@host:1/2?client_name=hive"))
    assert options == {
        "host": "host",
        "port": 1,
        "db": 2,
        "username": "u",
        "password": "p#",
        "client_name": "hive",
    }


def test_a_client_keeps_its_time_outs_whatever_the_address_says() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = connect(f"redis://127.0.0.1:{silent.getsockname()[1]}", reply_timeout_s=0.2, retries=0)
        with pytest.raises(Exception, match=r"[Tt]ime"):
            client.ping()
        client.close()
