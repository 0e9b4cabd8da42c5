"""Objects of buckets as plans: signed here, and refused where they are not to be read or cannot be."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from hive.errors import DownloadError, FileNotFound, HiveError, HubUnavailable, ModelAccessDenied, UnsafeUrl
from hive.settings import Settings
from hive.wire.refs import parse_ref
from tests.support.azure_server import AzureServer
from tests.support.google_server import GoogleServer
from tests.support.object_store import ObjectStore
from tests.support.plans import content_of, plan_for
from tests.support.s3_server import S3Server
from workers.fetch import network_of
from workers.sources import Plan, open_to_caller, probed
from workers.sources.bucket import SIGNED_FOR_S
from workers.transfer import Digest, Limits, signed_url_expiry

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


@pytest.fixture(params=[S3Server, AzureServer, GoogleServer])
def object_store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_credentials: None
) -> Iterator[ObjectStore]:
    """A store with one object, and its credentials in the environment as an env file of Windows leaves them."""
    objects = {f"/bucket/{KEY}": b"GGUF bytes"}
    made = GoogleServer(objects, tmp_path) if request.param is GoogleServer else request.param(objects)
    for name, value in made.env.items():
        monkeypatch.setenv(name, f'"{value}"\r')
    with made:
        yield made


def planned(store: ObjectStore, tmp_path: Path, key: str = KEY) -> tuple[Settings, Plan]:
    buckets = {"HIVE_BUCKETS": f"{store.scheme}://bucket", "HIVE_ALLOW_HOSTS": store.host}
    settings = settings_of(tmp_path, **buckets, AWS_ENDPOINT_URL=store.endpoint)
    return settings, plan_for(settings, f"{store.scheme}://bucket/{quote(key)}")


def test_every_name_can_be_signed_and_for_as_long(object_store: ObjectStore, tmp_path: Path) -> None:
    [file] = planned(object_store, tmp_path)[1].files
    location = file.source.locate()
    assert location.expires_at == pytest.approx(time.time() + SIGNED_FOR_S, abs=60)
    assert signed_url_expiry(location.url) == pytest.approx(location.expires_at, abs=60)
    assert content_of(file) == b"GGUF bytes"
    assert content_of(planned(object_store, tmp_path)[1].files[0]) == b"GGUF bytes"


def test_what_the_store_refuses_is_told_with_the_way_out(object_store: ObjectStore, tmp_path: Path) -> None:
    settings, missing = planned(object_store, tmp_path, "none.gguf")
    with pytest.raises(FileNotFound, match=f"{object_store.scheme}://bucket/none.gguf"):
        probed(missing, network_of(settings, missing.ref), Limits())
    object_store.refuses_all = True
    settings, plan = planned(object_store, tmp_path)
    with pytest.raises(ModelAccessDenied, match=r"(AWS|AZURE|GOOGLE)_.* are wrong or may not read.*AllRefused"):
        probed(plan, network_of(settings, plan.ref), Limits())


#: The SHA-256 of the object, as it is and as S3 writes it.
SHA256 = hashlib.sha256(b"GGUF bytes")
IN_BASE64 = base64.b64encode(SHA256.digest()).decode()


@pytest.mark.parametrize(
    ("checksum", "digest"),
    [(IN_BASE64, Digest("sha256", SHA256.hexdigest())), (f"{IN_BASE64}-3", None), ("AAAAAA==", None), (None, None)],
    ids=["whole", "of parts", "another", "none"],
)
@pytest.mark.usefixtures("no_credentials")
def test_the_checksum_that_s3_has_of_the_whole_object_is_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checksum: str | None, digest: Digest | None
) -> None:
    with S3Server({f"/bucket/{KEY}": b"GGUF bytes"}) as store:
        for name, value in store.env.items():
            monkeypatch.setenv(name, value)
        if checksum is not None:
            store.checksums[f"/bucket/{KEY}"] = checksum
        [file] = planned(store, tmp_path)[1].files
        assert [status for _, status in store.answers] == [200]
        assert (file.digest, file.source.digest) == (digest, digest)
        # A digest that somebody gives is asked of nobody.
        given = plan_for(
            settings_of(tmp_path, HIVE_BUCKETS="s3://bucket", AWS_ENDPOINT_URL=store.endpoint), REF, sha256="0" * 64
        )
        assert given.files[0].digest == Digest("sha256", "0" * 64)
        assert len(store.answers) == 1
        # With an answer or without, it is one download or another.
        store.status = 503
        with pytest.raises(HubUnavailable, match="s3://bucket"):
            planned(store, tmp_path)


@pytest.mark.parametrize(("etag", "asked"), [('"abc"', {"If-Match": '"abc"'}), ('W/"abc"', {}), ("abc", {}), ("", {})])
@pytest.mark.usefixtures("no_credentials")
def test_only_what_if_match_can_be_true_to_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, etag: str, asked: dict[str, str]
) -> None:
    with S3Server({f"/bucket/{KEY}": b"GGUF bytes"}) as store:
        for name, value in store.env.items():
            monkeypatch.setenv(name, value)
        store.checksums[f"/bucket/{KEY}"] = IN_BASE64
        store.etag = etag
        [file] = planned(store, tmp_path)[1].files
    assert file.digest == Digest("sha256", SHA256.hexdigest())
    assert file.source.locate().headers == asked


@pytest.mark.usefixtures("no_credentials")
def test_of_a_bucket_in_another_region_it_is_said_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with S3Server({}) as store:
        for name, value in store.env.items():
            monkeypatch.setenv(name, value)
        store.headers = {"x-amz-bucket-region": "eu-west-1"}
        for store.status, said in ((400, "AWS_REGION=eu-west-1"), (301, "another region: set AWS_REGION")):
            with pytest.raises(ModelAccessDenied, match=said):
                planned(store, tmp_path)


def test_a_delegated_signature_of_azures_is_kept_and_a_name_that_it_cannot_sign_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"}.items():
        monkeypatch.setenv(name, value)
    settings = settings_of(tmp_path, HIVE_BUCKETS="az://bucket")
    signed = "https://account.blob.core.windows.net/bucket/{}?skoid=1&sig=x"
    monkeypatch.setattr("obstore.sign", lambda store, method, key, expires_in: signed.format(quote(key)))
    assert plan_for(settings, "az://bucket/x").files[0].source.locate().url == signed.format("x")
    with pytest.raises(ModelAccessDenied, match="AZURE_STORAGE_ACCOUNT_KEY"):
        plan_for(settings, "az://bucket/x y")


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


@pytest.mark.parametrize(
    ("scheme", "env", "said"),
    [
        (
            "az",
            {"AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_STORAGE_SAS_TOKEN": "sig=secret"},
            "AZURE_STORAGE_ACCOUNT_KEY",
        ),
        ("gs", {"GOOGLE_SERVICE_ACCOUNT_KEY": '{"type":"external_account"}'}, "GOOGLE_APPLICATION_CREDENTIALS"),
        ("gs", {"GOOGLE_SERVICE_ACCOUNT_KEY": '{"type":"service_account","private_key":"secret"}'}, "GOOGLE_"),
    ],
    ids=["sas", "federation", "broken key"],
)
@pytest.mark.usefixtures("no_credentials")
def test_credentials_that_sign_nothing_say_what_to_set_and_stand_in_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, env: dict[str, str], said: str
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ModelAccessDenied, match=said) as error:
        plan_for(settings_of(tmp_path, HIVE_BUCKETS=f"{scheme}://bucket"), f"{scheme}://bucket/x.gguf")
    assert "secret" not in str(error.value)


def test_without_obstore_the_command_that_installs_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DownloadError, match=r"pip install 'hive-models\[buckets\]'"):
        plan_for(settings_of(tmp_path, HIVE_BUCKETS="gs://bucket"), "gs://bucket/x.gguf")


def test_a_command_that_fetches_by_itself_needs_no_setting(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    assert open_to_caller(settings, parse_ref("s3://bucket/x")).buckets == "s3://bucket"
    assert open_to_caller(settings, parse_ref("org/name")) is settings
