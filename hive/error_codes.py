"""The codes of errors: which there are, and from a code back to its class.

    HiveError
    |-- BadRequest            400  INVALID_REQUEST
    |   |-- InvalidModelRef   400  INVALID_MODEL_REF
    |   |-- InvalidId         400  INVALID_ID
    |   |-- UnsafeUrl         400  UNSAFE_URL
    |   |-- UnsupportedMediaType 415  UNSUPPORTED_MEDIA_TYPE
    |   |-- HeadersTooLarge   431  HEADERS_TOO_LARGE
    |   |-- RequestTimeout    408  REQUEST_TIMEOUT
    |   |-- InvalidFields     400  INVALID_REQUEST         (all faults at once)
    |   |-- ModelNotServable  400  MODEL_NOT_SERVABLE
    |   |-- BackendUnavailable 400  BACKEND_UNAVAILABLE
    |   `-- BodyTooLarge      413  BODY_TOO_LARGE
    |-- NotFound              404  NOT_FOUND
    |   |-- DownloadNotFound  404  DOWNLOAD_NOT_FOUND
    |   |-- LlmWorkerNotFound 404  WORKER_NOT_FOUND
    |   |-- ModelNotOnDisk    404  MODEL_NOT_ON_DISK
    |   |-- ModelNotFound     404  MODEL_NOT_FOUND
    |   |-- RevisionNotFound  404  REVISION_NOT_FOUND
    |   |-- FileNotFound      404  FILE_NOT_FOUND
    |   `-- VariantNotFound   404  VARIANT_NOT_FOUND
    |-- MethodNotAllowed      405  METHOD_NOT_ALLOWED
    |-- MissingApiKey         401  MISSING_API_KEY
    |-- InvalidApiKey         401  INVALID_API_KEY
    |-- InsufficientScope     403  INSUFFICIENT_SCOPE
    |-- KeyFileUnusable       503  KEY_FILE_UNUSABLE
    |-- TooManyFailedKeys     429  TOO_MANY_FAILED_KEYS
    |-- ModelAccessDenied     403  MODEL_ACCESS_DENIED
    |-- ForeignOrigin         403  FOREIGN_ORIGIN
    |-- MisdirectedRequest    421  MISDIRECTED_REQUEST
    |-- Conflict              409  CONFLICT
    |   |-- ModelInUse        409  MODEL_IN_USE
    |   |-- DownloadEnded     409  DOWNLOAD_ENDED
    |   `-- TooManyWebhooks   409  TOO_MANY_WEBHOOKS
    |-- TooManyDownloads      429  TOO_MANY_DOWNLOADS
    |   `-- QuotaExceeded     429  QUOTA_EXCEEDED
    |-- TooManyRequests       429  TOO_MANY_REQUESTS
    |   `-- TooManyStreams    429  TOO_MANY_STREAMS
    |-- RedisUnavailable      503  STORE_UNAVAILABLE       (Redis)
    |-- ServerBusy            503  SERVER_BUSY
    |-- WorkersSilent         503  WORKERS_SILENT
    |-- HubUnavailable        503  HUB_UNAVAILABLE
    |   `-- HubRefused        502  HUB_REFUSED             (final)
    |-- ServingError          500  INTERNAL                (models in memory)
    |   |-- ModelNotLoaded    503  MODEL_NOT_LOADED
    |   |-- ModelLoading      503  MODEL_LOADING
    |   |-- AllSlotsBusy      503  ALL_SLOTS_BUSY
    |   |-- WorkerDraining    503  WORKER_DRAINING
    |   |-- NoPortFree        503  NO_PORT_FREE
    |   |-- InsufficientRam   507  INSUFFICIENT_RAM
    |   |-- VramExhausted     507  VRAM_EXHAUSTED
    |   |-- LoadingTimeout    504  LOADING_TIMEOUT
    |   |-- EngineFailed      502  ENGINE_FAILED
    |   `-- InferenceFailed   502  INFERENCE_FAILED
    |-- ServerUnreachable     503  SERVER_UNREACHABLE      (the client's)
    |-- CannotListen          503  CANNOT_LISTEN           (at start)
    |-- ResourcesExhausted    503  RESOURCES_EXHAUSTED     (of the process or machine)
    |-- InternalError         500  INTERNAL_ERROR
    `-- DownloadError         502  DOWNLOAD_FAILED
        |-- CredentialsLost   502  CREDENTIALS_LOST
        |-- TlsRefused        502  TLS_REFUSED
        |-- ProxyRefused      502  PROXY_REFUSED
        |-- DownloadTimeout   504  DOWNLOAD_TIMEOUT
        |-- ChecksumMismatch  502  CHECKSUM_MISMATCH
        |-- SourceChanged     502  SOURCE_CHANGED
        |-- NotAModel         502  NOT_A_MODEL
        |-- LengthUnknown     502  LENGTH_UNKNOWN
        |-- DiskFull          507  DISK_FULL
        |-- StoreNotWritable  507  STORE_NOT_WRITABLE
        |   `-- StoreMissing  503  STORE_MISSING
        |-- Cancelled         409  CANCELLED
        `-- WorkerLost        502  WORKER_LOST

A code crosses process boundaries: in an HTTP answer, an event, a record. Whoever reads it there raises the class again
that it was made from, with its message and its figures.
"""

from __future__ import annotations

from typing import Any

from hive import serving_errors  # noqa: F401 - a class is found by its code once its module is loaded
from hive.errors import HiveError, InternalError


def all_errors() -> list[type[HiveError]]:
    """Every error class, parents before children; documentation and tests walk it."""
    found: list[type[HiveError]] = [HiveError]
    for error in found:
        found.extend(error.__subclasses__())
    return found


def by_code() -> dict[str, type[HiveError]]:
    """The class of each code; where a child has its parent's code, the parent."""
    return {kind.code: kind for kind in reversed(all_errors())}


def from_code(code: str, message: str, details: dict[str, Any]) -> HiveError:
    """The error of this code as another process of hive had it; InternalError for a code that is none of ours."""
    kind = by_code().get(code)
    return kind(message, **details) if kind is not None else InternalError()
