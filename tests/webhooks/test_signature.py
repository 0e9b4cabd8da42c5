"""Signatures: those of the specification, and those that the documentation checks."""

from __future__ import annotations

import base64
import time

import pytest

from hive.settings import Settings, SettingsError, read_webhook_key
from hive.webhooks.signature import sign
from tests.support.webhook_receiver import SECRET, documented_verify


def test_the_signature_is_that_of_the_specification() -> None:
    """The example that the libraries of Standard Webhooks are tested with."""
    headers = sign(read_webhook_key(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("secret", [SECRET, "a secret in plain text, long enough ✓"])
def test_the_documented_check_accepts_what_hive_signs_and_nothing_else(secret: str) -> None:
    verify, now_s = documented_verify(), int(time.time())
    headers = sign(read_webhook_key(secret), "an-id", now_s, b'{"a":1}')
    assert verify(secret, headers, b'{"a":1}')
    assert not verify(secret, headers, b'{"a":2}')
    assert not verify(secret, headers | {"webhook-id": "another"}, b'{"a":1}')
    assert not verify(secret, headers | {"webhook-timestamp": str(now_s + 1)}, b'{"a":1}')
    assert not verify("whsec_" + base64.b64encode(b"k" * 24).decode(), headers, b'{"a":1}')
    old = sign(read_webhook_key(secret), "an-id", now_s - 301, b"{}")
    assert not verify(secret, old, b"{}")
    rotated = headers["webhook-signature"] + " v1,AAAA v2,BBBB"
    assert verify(secret, headers | {"webhook-signature": rotated}, b'{"a":1}')


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        ("canary-too-short", "16 bytes"),
        ("whsec_" + base64.b64encode(b"c" * 23).decode(), "23 bytes"),
        ("whsec_" + base64.b64encode(b"c" * 65).decode(), "65 bytes"),
        ("whsec_canary!canary!canary!canary!", "not base64"),
        ("c" * 513, "513 bytes"),
    ],
)
def test_a_secret_that_cannot_be_used_is_told_and_not_shown(secret: str, reason: str) -> None:
    with pytest.raises(SettingsError, match="HIVE_WEBHOOK_SECRET") as caught:
        Settings.from_env({"HIVE_WEBHOOK_SECRET": secret})
    assert reason in str(caught.value)
    assert secret.removeprefix("whsec_")[:6] not in str(caught.value)


def test_neither_the_secret_nor_a_url_is_shown() -> None:
    settings = Settings.from_env(
        {"HIVE_WEBHOOK_SECRET": "canary" * 4, "HIVE_WEBHOOK_URLS": "https://h/canary,http://i/?canary"}
    )
    assert "canary" not in f"{settings!r} {settings} {settings.webhooks!r}"
    assert [str(url) for url in settings.webhooks] == ["https://h/canary", "http://i/?canary"]


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"HIVE_WEBHOOK_URLS": "https://h/canary"}, "HIVE_WEBHOOK_SECRET"),
        ({"HIVE_WEBHOOK_URLS": "ftp://h/canary", "HIVE_WEBHOOK_SECRET": "x" * 24}, "HIVE_WEBHOOK_URLS"),
        ({"HIVE_WEBHOOK_URLS": "https://u:canary@h/", "HIVE_WEBHOOK_SECRET": "x" * 24}, "HIVE_WEBHOOK_URLS"),
        (
            {"HIVE_WEBHOOK_URLS": ",".join(f"https://h/{n}" for n in range(17)), "HIVE_WEBHOOK_SECRET": "x" * 24},
            "HIVE_WEBHOOK_URLS",
        ),
        ({"HIVE_WEBHOOK_RETRY_S": "5,soon"}, "HIVE_WEBHOOK_RETRY_S"),
        ({"HIVE_WEBHOOK_RETRY_S": "5,-1"}, "HIVE_WEBHOOK_RETRY_S"),
        ({"HIVE_WEBHOOK_RETRY_S": "nan"}, "HIVE_WEBHOOK_RETRY_S"),
        ({"HIVE_WEBHOOK_RETRY_S": ",".join(["1"] * 25)}, "HIVE_WEBHOOK_RETRY_S"),
        ({"HIVE_WEBHOOK_TIMEOUT_S": "0"}, "HIVE_WEBHOOK_TIMEOUT_S"),
    ],
)
def test_settings_that_cannot_be_used_are_named(env: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as caught:
        Settings.from_env(env)
    assert "canary" not in str(caught.value)


def test_the_tries_of_one_webhook_end_about_a_day_after_the_end() -> None:
    waits_s = Settings().webhook_waits_s
    assert list(waits_s) == sorted(waits_s)
    assert 0.9 * 86_400 < sum(waits_s) < 86_400
