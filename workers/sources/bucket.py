"""An object of a bucket as a plan: a plain URL that is signed anew, here, whenever the transfer needs one.

Problem: what opens a bucket is the workers' own, so whoever can ask for a download could have any object that those
credentials open; and what is signed is a permission for as long as it is good. The easy way, to hand the bytes to the
store's own client, has another engine for them, without the journal, the guards and the limits of every other
download. So the client signs and does nothing else. The address that is shown, kept and compared is `s3://...`; the
signed one lives in the memory of the process that fetches. Which buckets may be read is said by HIVE_BUCKETS.

obstore finds the credentials in the environment (AWS_*, GOOGLE_*, AZURE_*) or is given them by the machine it runs on,
and signs; what it signs otherwise than the stores is signed again (workers.sources.signatures).
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import re
import time
from collections.abc import Mapping
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

import msgspec

from hive.errors import (
    DownloadError,
    FileNotFound,
    HiveError,
    HubRefused,
    HubUnavailable,
    InvalidModelRef,
    ModelAccessDenied,
    SourceChanged,
    UnsafeUrl,
)
from hive.net.egress import Network
from hive.net.variables import bare
from hive.settings import Settings
from hive.version import install_command
from hive.wire.buckets import CREDENTIALS, allows, bucket_of, is_object, not_allowed, parts_of
from hive.wire.refs import ModelRef
from workers.sources import url
from workers.sources.elsewhere import asking
from workers.sources.hub_transport import CallBounds
from workers.sources.plan import Plan
from workers.sources.signatures import (
    CHECKSUM_HEADER,
    is_delegated,
    is_encoded,
    signed_for_azure,
    signed_for_checksum,
    signed_for_google,
)
from workers.transfer import Location, Refusal

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore, S3Config, S3Store

#: Seconds for which a signed URL is good. It is signed anew before they are over, so a download may take longer.
SIGNED_FOR_S: Final = 3600.0
#: Seconds for the answer of who hands credentials to this machine, and for all tries.
CREDENTIALS_TIMEOUT_S: Final = 5.0
CREDENTIALS_TRIES_S: Final = 15.0

_CREDENTIALS: Final = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
#: What regions of S3's are called.
_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]{1,16}){1,3}-\d{1,2}")
#: How the ETag of an object ends that came in parts.
_OF_PARTS: Final = re.compile(r'-\d+"?$')
#: An ETag to which If-Match can be true: a weak one never is (RFC 9110, 13.1.1), and what has no quotes is none.
_STRONG_ETAG: Final = re.compile(r'"[!#-~]*"')
_AWS_KEYS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
#: Where obstore finds the key of a storage account, and the file of a service account.
_AZURE_KEYS: Final = ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_MASTER_KEY")
_GOOGLE_ACCOUNTS: Final = ("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_APPLICATION_CREDENTIALS")


class _ServiceAccount(msgspec.Struct):
    private_key: str = ""


def resolve(ref: ModelRef, sha256: str | None, name: str | None, *, settings: Settings, network: Network) -> Plan:
    """The plan for an object. Without `sha256` S3 is asked for the one that it has.

    Raises:
        HubUnavailable: S3 does not answer.
        RetryLater: it asks to wait.
        UnsafeUrl: the settings do not allow its bucket.
        DownloadError: obstore is not installed.
        ModelAccessDenied: there are no credentials to sign with, or they are for another region.
        BadRequest: `sha256` is not 64 hex digits.
    """
    if ref.url is None or not is_object(ref.url):
        raise InvalidModelRef
    if not allows(settings.buckets, ref.url):
        raise UnsafeUrl(not_allowed(ref.url))
    if importlib.util.find_spec("obstore") is None:
        scheme = parts_of(ref.url).scheme
        raise DownloadError(f"{scheme}:// needs obstore where the workers run: {install_command('buckets')}.")
    _take_variables_bare()
    signer = _Signer(ref.url, settings.aws_endpoint_url)
    try:
        signer.locate()
    except HubUnavailable as error:
        raise ModelAccessDenied(error.message) from None
    sha256 = sha256 or signer.stored_sha256(settings, network)
    return url.resolve(ref, sha256, name, signer.locate, signer.explain)


def own_host(ref: ModelRef, settings: Settings) -> str:
    """The host of an object that is the settings' word, and may be private; "" where there is none."""
    if ref.url is None or not ref.url.startswith("s3:"):
        return ""
    return urlsplit(settings.aws_endpoint_url or "").hostname or ""


def open_to_caller(settings: Settings, ref: ModelRef) -> Settings:
    """The settings for a command that fetches by itself: who runs it has the credentials anyhow."""
    return msgspec.structs.replace(settings, buckets=bucket_of(ref.url)) if ref.is_object and ref.url else settings


def _take_variables_bare() -> None:
    """Cut what env files leave around the stores' variables, as settings do with theirs: obstore reads them by itself,
    and a secret with a carriage return signs nothing.
    """
    for name, value in list(os.environ.items()):
        if name.startswith(CREDENTIALS) and value != bare(value):
            os.environ[name] = bare(value)


class _Signer:
    """Signs for one object. Its methods may be called from any thread."""

    def __init__(self, address: str, s3_endpoint: str | None) -> None:
        self._address = address
        self._endpoint = s3_endpoint
        self._store: S3Store | GCSStore | AzureStore | None = None
        #: What the object was known by when the store told its digest; "" without, or where that is no strong ETag.
        self._etag = ""

    def locate(self) -> Location:
        """A signed URL of now. Raises HubUnavailable, with nothing of what the client said: it may be secret."""
        now_s = time.time()
        # A digest is that of one content: of another that has its name by now, no byte is of use.
        headers = {"If-Match": self._etag} if self._etag else {}
        return Location(url=self._signed("GET"), headers=headers, expires_at=now_s + SIGNED_FOR_S, signed_here=True)

    def stored_sha256(self, settings: Settings, network: Network) -> str | None:
        """The SHA-256 of the whole object as S3 keeps it, in hex; None where it has none, does not say, or the key that
        signs is not in the environment.

        Raises:
            HubUnavailable: it does not answer, which is no answer: with a digest and without are two downloads.
            ModelAccessDenied: the bucket is in another region.
            RetryLater: it asks to wait.
        """
        key_id, secret = (os.environ.get(name, "") for name in _AWS_KEYS)
        if parts_of(self._address).scheme != "s3" or not (key_id and secret):
            return None
        asked = signed_for_checksum(self._signed("HEAD"), key_id, secret)
        if asked is None:
            return None
        parts = urlsplit(asked)
        bounds = CallBounds(settings.first_byte_timeout_s, settings.hub_timeout_s)
        try:
            with asking(f"{parts.scheme}://{parts.netloc}", bounds, network, bucket_of(self._address)) as client:
                answer = client.head(asked, headers=dict([CHECKSUM_HEADER]), follow_redirects=False)
        except HubRefused as error:
            # As S3 does it: with no address, for who asks is to sign for another region.
            if error.details.get("status") == HTTPStatus.MOVED_PERMANENTLY:
                raise self._in_another_region("") from None
            return None
        region = answer.headers.get("x-amz-bucket-region", "")
        if answer.status_code == HTTPStatus.BAD_REQUEST and _REGION.fullmatch(region):
            raise self._in_another_region(region)
        found = _sha256_of(answer.headers) if answer.is_success else None
        etag = answer.headers.get("etag", "") if found else ""
        self._etag = etag if _STRONG_ETAG.fullmatch(etag) else ""
        return found

    def _in_another_region(self, region: str) -> ModelAccessDenied:
        name, setting = (f"the region {region}", f"AWS_REGION={region}") if region else ("another region", "AWS_REGION")
        return ModelAccessDenied(f"{bucket_of(self._address)} is in {name}: set {setting} where the workers run.")

    def _signed(self, method: Literal["GET", "HEAD"]) -> str:
        import obstore

        scheme, _, key = parts_of(self._address)
        try:
            # Twice at the same time makes two stores, of which either will do.
            store = self._store = self._store or self._made()
            return _mended(scheme, obstore.sign(store, method, key, timedelta(seconds=SIGNED_FOR_S)))
        except (obstore.exceptions.BaseError, ValueError, TypeError, OSError) as error:
            raise HubUnavailable(
                f"No URL of {bucket_of(self._address)} can be signed ({type(error).__name__}): set"
                f" {_CREDENTIALS[scheme]} where the workers run, or give their machine a role."
            ) from None

    def explain(self, refusal: Refusal) -> HiveError:
        """What it means that the store refuses what was signed just now."""
        bucket, said = bucket_of(self._address), f" It says: {refusal.body}" if refusal.body else ""
        if refusal.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return ModelAccessDenied(
                f"{bucket} refuses what the workers sign ({refusal.status}): their credentials"
                f" ({_CREDENTIALS[parts_of(self._address).scheme]}) are wrong or may not read this object, it is not"
                f" there, or their clock is wrong.{said}"
            )
        if refusal.status == HTTPStatus.NOT_FOUND:
            return FileNotFound(f"There is no {self._address}.{said}")
        if refusal.status == HTTPStatus.PRECONDITION_FAILED:
            return SourceChanged()
        return DownloadError(f"{bucket} answers {refusal.status}.{said}")

    def _made(self) -> S3Store | GCSStore | AzureStore:
        from obstore.store import AzureStore, GCSStore, S3Store

        scheme, bucket, _ = parts_of(self._address)
        timeout, tries = timedelta(seconds=CREDENTIALS_TIMEOUT_S), timedelta(seconds=CREDENTIALS_TRIES_S)
        if scheme == "gs":
            return GCSStore(bucket, client_options={"timeout": timeout}, retry_config={"retry_timeout": tries})
        if scheme == "az":
            return AzureStore(bucket, client_options={"timeout": timeout}, retry_config={"retry_timeout": tries})
        config: S3Config = {"endpoint": self._endpoint} if self._endpoint else {}
        return S3Store(
            bucket, config=config, client_options={"timeout": timeout}, retry_config={"retry_timeout": tries}
        )


def _sha256_of(headers: Mapping[str, str]) -> str | None:
    """S3's checksum of an object in hex; None of one that is made of those of parts, which is no digest of the file.
    That ends in the number of parts, which some that speak S3's protocol leave out; their ETag has it then.
    """
    if _OF_PARTS.search(headers.get("etag", "")):
        return None
    try:
        digest = base64.b64decode(headers.get("x-amz-checksum-sha256", ""), validate=True)
    except ValueError:
        return None
    return digest.hex() if len(digest) == hashlib.sha256().digest_size else None


def _mended(scheme: str, signed: str) -> str:
    """The signed URL as the store wants it. Raises HubUnavailable, ValueError, TypeError, OSError."""
    if scheme == "az":
        key = next(filter(None, map(os.environ.get, _AZURE_KEYS)), None)
        if is_delegated(signed):
            if is_encoded(signed):
                raise HubUnavailable(
                    "The object's name has characters that a URL encodes, for which a role cannot sign: set"
                    " AZURE_STORAGE_ACCOUNT_KEY where the workers run, or rename it."
                )
            return signed
        account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
        return signed_for_azure(signed, account, key) if key and account else signed
    if scheme == "gs" and (private_key := _google_key()):
        return signed_for_google(signed, private_key)
    return signed


def _google_key() -> str:
    """The private key of the service account that the environment names; "" where it names none."""
    account = os.environ.get("GOOGLE_SERVICE_ACCOUNT_KEY")
    if account is None:
        path = next(filter(None, map(os.environ.get, _GOOGLE_ACCOUNTS)), None)
        account = Path(path).read_text() if path else "{}"
    return msgspec.json.decode(account, type=_ServiceAccount).private_key
