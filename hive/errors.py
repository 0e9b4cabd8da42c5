"""One error tree for every process; hive/error_codes.py draws it.

The docstring of a class is its default message. `code` is what a program reads, `status` what HTTP answers with,
`details` the figures behind the sentence. The same code travels in an `error` event of the progress stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class HiveError(Exception):
    """Something went wrong in hive."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "INTERNAL_ERROR"

    def __init__(self, message: str | None = None, **details: Any) -> None:
        self.message = message or " ".join((type(self).__doc__ or "").split("\n\n")[0].split())
        self.details = details
        super().__init__(self.message)


class BadRequest(HiveError):
    """The request is not one hive understands."""

    status = 400
    code = "INVALID_REQUEST"


class InvalidModelRef(BadRequest):
    """The model reference is not valid. Write hf:org/name, hf:org/name@revision, hf:org/name:Q4_K_M or an http(s)
    URL.
    """

    code = "INVALID_MODEL_REF"


class InvalidId(BadRequest):
    """The id is not a UUID. Use the download_id that POST /v1/models/download returned."""

    code = "INVALID_ID"


class UnsafeUrl(BadRequest):
    """hive does not fetch from this address. Private addresses must be listed in HIVE_ALLOW_HOSTS."""

    code = "UNSAFE_URL"


class BodyTooLarge(BadRequest):
    """The request body is over 64 KiB."""

    status = 413
    code = "BODY_TOO_LARGE"


class UnsupportedMediaType(BadRequest):
    """A browser must send its body as application/json."""

    status = 415
    code = "UNSUPPORTED_MEDIA_TYPE"


class HeadersTooLarge(BadRequest):
    """The request's address and headers are over 32 KiB, or more than 100."""

    status = 431
    code = "HEADERS_TOO_LARGE"


class RequestTimeout(BadRequest):
    """The request did not come in time: 10 s for its headers, 30 s for its body."""

    status = 408
    code = "REQUEST_TIMEOUT"


class InvalidFields(BadRequest):
    """Some fields of the request are not what they may be; `errors` names each."""

    def __init__(self, message: str | None = None, faults: Sequence[Mapping[str, Any]] = (), **details: Any) -> None:
        """`faults`: `field`, `constraint`, `message` and `value` of each."""
        self.faults = tuple(faults)
        super().__init__(message or " ".join(str(fault["message"]) for fault in self.faults[:4]) or None, **details)


class ModelNotServable(BadRequest):
    """The engine loads GGUF files, and this model is none, or is broken. Name a GGUF variant."""

    code = "MODEL_NOT_SERVABLE"


class BackendUnavailable(BadRequest):
    """No machine of this hive has this backend or device. `details` has what there is."""

    code = "BACKEND_UNAVAILABLE"


class ForeignOrigin(HiveError):
    """A page of another origin may change nothing here. HIVE_ALLOW_ORIGINS names the origins that may."""

    status = 403
    code = "FOREIGN_ORIGIN"


class MisdirectedRequest(HiveError):
    """The request's Host is no name of this server. Use localhost or its address, or list the name in
    HIVE_PUBLIC_HOSTS.
    """

    status = 421
    code = "MISDIRECTED_REQUEST"


class NotFound(HiveError):
    """There is nothing at this address."""

    status = 404
    code = "NOT_FOUND"


class DownloadNotFound(NotFound):
    """No download has this id. Ended downloads are forgotten after a day."""

    code = "DOWNLOAD_NOT_FOUND"


class LlmWorkerNotFound(NotFound):
    """No LLM worker has this id. `GET /v1/workers/list` has those that run."""

    code = "WORKER_NOT_FOUND"


class ModelNotOnDisk(NotFound):
    """This model is not in the store. Download it first with POST /v1/models/download."""

    code = "MODEL_NOT_ON_DISK"


class ModelNotFound(NotFound):
    """The Hub has no such model, or it is private and the token does not see it."""

    code = "MODEL_NOT_FOUND"


class RevisionNotFound(NotFound):
    """The model has no such branch, tag or commit."""

    code = "REVISION_NOT_FOUND"


class FileNotFound(NotFound):
    """The model has no such file."""

    code = "FILE_NOT_FOUND"


class VariantNotFound(NotFound):
    """The model has no such quantisation. Choose one of the variants in details."""

    code = "VARIANT_NOT_FOUND"


class MethodNotAllowed(HiveError):
    """This address does not answer this method."""

    status = 405
    code = "METHOD_NOT_ALLOWED"


class MissingApiKey(HiveError):
    """This server wants an API key: `Authorization: Bearer hive_...`. Who runs it makes one with `hive key new`; for
    the command line and the clients set HIVE_API_KEY_FILE or HIVE_API_KEY.
    """

    status = 401
    code = "MISSING_API_KEY"


class InvalidApiKey(HiveError):
    """The API key is not one of this server's, has expired or was revoked. Who runs it makes one with `hive key new`;
    check HIVE_API_KEY_FILE and HIVE_API_KEY.
    """

    #: Whether somebody may have guessed it; False for what was right once (a ticket that is over).
    is_guess: bool = True

    status = 401
    code = "INVALID_API_KEY"


class InsufficientScope(HiveError):
    """The API key may not do this: it does not have the scope. Who runs the server makes keys with
    `hive key new --scopes`.
    """

    status = 403
    code = "INSUFFICIENT_SCOPE"


class KeyFileUnusable(HiveError):
    """The server cannot read its key file, so nobody is let in. Its log says why and what to do."""

    status = 503
    code = "KEY_FILE_UNUSABLE"


class TooManyFailedKeys(HiveError):
    """Too many requests with a wrong API key came from this address. Wait a minute, and check the key."""

    status = 429
    code = "TOO_MANY_FAILED_KEYS"


class ModelAccessDenied(HiveError):
    """Access to this model is denied. Accept its terms on the Hub, then set HF_TOKEN for the workers or send
    hf_token.
    """

    status = 403
    code = "MODEL_ACCESS_DENIED"


class Conflict(HiveError):
    """The request does not fit the present state."""

    status = 409
    code = "CONFLICT"


class ModelInUse(Conflict):
    """A download is using this model. Cancel it or wait for its end."""

    code = "MODEL_IN_USE"


class DownloadEnded(Conflict):
    """This download has ended already."""

    code = "DOWNLOAD_ENDED"


class TooManyWebhooks(Conflict):
    """This download has as many webhooks as it may have. It goes on; watch it in another way."""

    code = "TOO_MANY_WEBHOOKS"


class TooManyDownloads(HiveError):
    """Too many downloads are waiting. Try again when some have started."""

    status = 429
    code = "TOO_MANY_DOWNLOADS"


class QuotaExceeded(TooManyDownloads):
    """This key has used up its bytes of the day. The day ends at midnight, UTC."""

    code = "QUOTA_EXCEEDED"


class TooManyRequests(HiveError):
    """Too many requests came from this key or address. Try again as Retry-After says."""

    status = 429
    code = "TOO_MANY_REQUESTS"


class TooManyStreams(TooManyRequests):
    """This key or address has as many streams open as it may. Close some, or watch many downloads with one."""

    code = "TOO_MANY_STREAMS"


class RedisUnavailable(HiveError):
    """Redis does not answer. Nothing is lost; try again in a moment."""

    status = 503
    code = "STORE_UNAVAILABLE"


class ServerBusy(HiveError):
    """Too many requests wait for the server's disk. Try again in a moment."""

    status = 503
    code = "SERVER_BUSY"


class WorkersSilent(HiveError):
    """No worker has answered. Is one running on this Redis (hive worker), and of this version?"""

    status = 503
    code = "WORKERS_SILENT"


class HubUnavailable(HiveError):
    """The Hub does not answer. Try again later, or check HF_ENDPOINT and HTTPS_PROXY."""

    status = 503
    code = "HUB_UNAVAILABLE"


class HubRefused(HubUnavailable):
    """The Hub gives an answer that another try does not change. Check HF_ENDPOINT and the model's name."""

    status = 502
    code = "HUB_REFUSED"


class ServerUnreachable(HiveError):
    """No hive server answers. Start one with `hive up`, or name one with HIVE_HOST."""

    status = 503
    code = "SERVER_UNREACHABLE"


class CannotListen(HiveError):
    """The address is in use, or may not be used. Choose another with --host and --port."""

    status = 503
    code = "CANNOT_LISTEN"


class ResourcesExhausted(HiveError):
    """hive has no more memory, threads or open files on its machine. Raise its limits, or end other programs there."""

    status = 503
    code = "RESOURCES_EXHAUSTED"


class InternalError(HiveError):
    """hive made a mistake. The log has the details under this request_id."""


class DownloadError(HiveError):
    """The download failed after several attempts. Start it again to resume from what is on disk."""

    status = 502
    code = "DOWNLOAD_FAILED"


class CredentialsLost(DownloadError):
    """The URL's query, which may be a signature, was kept in Redis alone and is gone. Ask for the whole URL again; it
    goes on from what is on disk.
    """

    code = "CREDENTIALS_LOST"


class TlsRefused(DownloadError):
    """The server's TLS certificate is not trusted, or it speaks no TLS. Set SSL_CERT_FILE, or check the address."""

    code = "TLS_REFUSED"


class ProxyRefused(DownloadError):
    """The proxy does not let hive through. Check HTTPS_PROXY and HTTP_PROXY."""

    code = "PROXY_REFUSED"


class DownloadTimeout(DownloadError):
    """No byte arrived for too long. Start it again to resume from what is on disk."""

    status = 504
    code = "DOWNLOAD_TIMEOUT"


class ChecksumMismatch(DownloadError):
    """The source keeps sending bytes that do not match their digest. Nothing was published; the file was set aside."""

    code = "CHECKSUM_MISMATCH"


class SourceChanged(DownloadError):
    """The file changed at its source during the download. Start it again to fetch the new content."""

    code = "SOURCE_CHANGED"


class NotAModel(DownloadError):
    """The server sent something else than the file. Open the address in a browser, or give the file's sha256."""

    code = "NOT_A_MODEL"


class LengthUnknown(DownloadError):
    """The server does not say how long the file is, so hive cannot tell whether it is complete. Give the file's sha256,
    and its digest proves it.
    """

    code = "LENGTH_UNKNOWN"


class DiskFull(DownloadError):
    """There is not enough free space in the store. Free some and start it again to resume."""

    status = 507
    code = "DISK_FULL"


class StoreNotWritable(DownloadError):
    """The store cannot be written. Check that HIVE_STORE exists, is writable and is not mounted read-only."""

    status = 507
    code = "STORE_NOT_WRITABLE"


class StoreMissing(StoreNotWritable):
    """The store is not where it was. Is a mount missing?"""

    status = 503
    code = "STORE_MISSING"


class Cancelled(DownloadError):
    """The download was cancelled."""

    status = 409
    code = "CANCELLED"


class WorkerLost(DownloadError):
    """The workers that ran this download died too often without progress. Start it again to resume from what is on
    disk.
    """

    code = "WORKER_LOST"
