"""Objects of buckets as plans: signed here, and refused where they are not to be read or cannot be."""

from __future__ import annotations

import hashlib
import importlib.util
import time
from pathlib import Path

import pytest

from hive.errors import DownloadError, HiveError, ModelAccessDenied, UnsafeUrl
from hive.settings import Settings
from hive.wire.refs import parse_ref
from tests.support.plans import content_of, plan_for
from tests.support.s3_server import S3Server
from workers.fetch import network_of
from workers.sources import open_to_caller
from workers.sources.bucket import SIGNED_FOR_S
from workers.transfer import signed_url_expiry

KEY = "a=b/c d+%é'(1)*~.gguf"
REF = "s3://bucket/a=b/c%20d+%25%C3%A9'(1)*~.gguf"


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """None in the environment, and none to be had of the machine."""
    import os

    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_")):
            monkeypatch.delenv(name)
    # Who would hand them out refuses connections.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("workers.sources.bucket.CREDENTIALS_TRIES_S", 0.1)


def settings_of(tmp_path: Path, **values: str) -> Settings:
    return Settings.from_env({"HIVE_STORE": str(tmp_path), "HIVE_HOME": str(tmp_path), **values})


@pytest.mark.usefixtures("no_credentials")
def test_an_object_comes_by_a_signed_url_and_is_known_by_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3Server({f"/bucket/{KEY}": b"GGUF bytes"}) as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        settings = settings_of(tmp_path, HIVE_BUCKETS="s3://bucket", AWS_ENDPOINT_URL=server.endpoint)
        plan = plan_for(settings, REF, sha256=hashlib.sha256(b"GGUF bytes").hexdigest())
        [file] = plan.files
        assert content_of(file) == b"GGUF bytes"
        location = file.source.locate()
        check = network_of(settings, plan.ref).address_check
        assert check is not None
        check("127.0.0.1", "127.0.0.1", 9)  # the operator's word
        with pytest.raises(UnsafeUrl):
            check("10.0.0.1", "elsewhere.test", 443)
    assert (plan.ref.url, plan.kind, plan.own_content) == (parse_ref(REF).url, "url", "")
    assert location.expires_at == pytest.approx(time.time() + SIGNED_FOR_S, abs=60)
    assert "X-Amz" not in repr(plan)
    assert "X-Amz" not in repr(location)


@pytest.mark.usefixtures("no_credentials")
def test_what_is_signed_for_azure_is_good_for_as_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5a2V5")
    [file] = plan_for(settings_of(tmp_path, HIVE_BUCKETS="az://container"), "az://container/a b.gguf").files
    location = file.source.locate()
    assert location.url.startswith("https://account.blob.core.windows.net/container/a%20b.gguf?")
    assert signed_url_expiry(location.url) == pytest.approx(location.expires_at, abs=60)


@pytest.mark.usefixtures("no_credentials")
def test_what_is_signed_for_google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    pem = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "private_key": pem.decode(),
        "private_key_id": "id",
        "client_email": "hive@project.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    [file] = plan_for(settings_of(tmp_path, HIVE_BUCKETS="gs://bucket"), "gs://bucket/a b.gguf").files
    location = file.source.locate()
    assert location.url.startswith("https://storage.googleapis.com/bucket/a%20b.gguf?X-Goog-")
    assert signed_url_expiry(location.url) == pytest.approx(location.expires_at, abs=60)


@pytest.mark.parametrize(
    ("buckets", "error", "said"),
    [
        ("", UnsafeUrl, "HIVE_BUCKETS=s3://bucket"),
        ("s3://bucket2,s3://bucket/other/", UnsafeUrl, "HIVE_BUCKETS=s3://bucket"),
        ("s3://bucket", ModelAccessDenied, "AWS_ACCESS_KEY_ID"),
    ],
)
@pytest.mark.usefixtures("no_credentials")
def test_what_may_not_be_read_or_cannot_be_signed_says_what_to_set(
    tmp_path: Path, buckets: str, error: type[HiveError], said: str
) -> None:
    with pytest.raises(error, match=said):
        plan_for(settings_of(tmp_path, HIVE_BUCKETS=buckets), "s3://bucket/x.gguf")


def test_without_obstore_the_command_that_installs_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DownloadError, match=r"pip install 'hive-models\[buckets\]'"):
        plan_for(settings_of(tmp_path, HIVE_BUCKETS="gs://bucket"), "gs://bucket/x.gguf")


def test_a_command_that_fetches_by_itself_needs_no_setting(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    assert open_to_caller(settings, parse_ref("s3://bucket/x")).buckets == "s3://bucket"
    assert open_to_caller(settings, parse_ref("org/name")) is settings
