"""ModelProvisioner: on disk already? under way already? else a new download on the queue.

The record is written first and the job second, so that an id which somebody holds is never unknown; a process that
dies between the two leaves a queued record without a job, which the reaper puts on the queue.
"""

from __future__ import annotations

import logging
import time
import uuid
from typing import Final, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from hive.downloads.events import first_event, on_disk_event
from hive.downloads.intents import Intent
from hive.downloads.jobqueue import JobQueue
from hive.downloads.quota import quota_exceeded
from hive.downloads.record import New
from hive.downloads.resolutions import Question, Resolutions
from hive.downloads.tracker import DownloadTracker, Outcome
from hive.errors import InvalidModelRef, TooManyDownloads
from hive.secrets import SECRET_TTL_S, Credentials, fingerprint, purpose_of, seal
from hive.settings import Settings
from hive.store.catalog import ModelCatalog, OnDisk
from hive.store.disk_plan import plan_on_disk
from hive.wire.api import DownloadPlan
from hive.wire.refs import ModelRef, RefError, dedup_key, parse_ref
from hive.wire.spec import DownloadSpec, request_of

log = logging.getLogger("hive.downloads.provisioner")

#: What people are told when there are as many records as HIVE_MAX_RECORDS says.
TOO_MANY_RECORDS = (
    "As many downloads are remembered as may be. Ended ones are forgotten after HIVE_ENDED_TTL_S; whoever runs the "
    "server may raise HIVE_MAX_RECORDS."
)

_REFUSALS: Final[dict[Outcome, str | None]] = {
    "full": None,
    "crowded": TOO_MANY_RECORDS,
    "own_full": "As many downloads of this key wait as may. Try again when some have started.",
    "own_crowded": "As many downloads of this key are remembered as may be. Ended ones are forgotten by themselves.",
}


class Provisioned(NamedTuple):
    """The answer: the id to watch, the path where the model is on disk, and whether an earlier download is shared.

    `intent` is for the intent log, where the download is new; `webhook_secret` for the receiver of its webhook.
    """

    download_id: str
    local_path: str | None
    joined: bool
    intent: Intent | None = None
    webhook_secret: str | None = None


class ModelProvisioner:
    """Answers requests for models. `look` reads the disk, `start` talks to Redis: they run in different threads."""

    def __init__(
        self,
        settings: Settings,
        tracker: DownloadTracker,
        queue: JobQueue,
        catalog: ModelCatalog,
        resolutions: Resolutions,
    ) -> None:
        self._resolutions = resolutions
        self._settings = settings
        self._tracker = tracker
        self._queue = queue
        self._catalog = catalog

    def look(self, spec: DownloadSpec) -> OnDisk | None:
        """Where the model is on disk, completely; None where it must be fetched, or looked for again (`update`)."""
        if spec.update and not spec.ref.is_pinned:
            return None
        found = self._catalog.find(spec.ref, spec.include, spec.exclude, spec.sha256, spec.name)
        if found is None and self._settings.hf_hub_offline:
            found = self._catalog.find_unlisted(spec.ref, spec.include, spec.exclude)
        return found

    def plan_on_disk(self, spec: DownloadSpec, found: OnDisk) -> DownloadPlan:
        """What a download of a model that is on the disk would bring: nothing more. Reads the disk."""
        return plan_on_disk(self._catalog, spec, found)

    def look_unlisted(self, spec: DownloadSpec) -> OnDisk | None:
        """What the disk has where the Hub cannot be asked, as the download itself would end; None where nothing."""
        return None if spec.update else self._catalog.find_unlisted(spec.ref, spec.include, spec.exclude)

    def question(self, spec: DownloadSpec) -> Question:
        """The same asked of a resolver. Makes the key file where a token has to be sealed."""
        question_id = str(uuid.uuid4())
        return Question(
            id=question_id,
            request=request_of(spec),
            sealed=self._sealed("plan", question_id, spec),
            request_id=spec.request_id,
        )

    def start(self, spec: DownloadSpec, on_disk: OnDisk | None, retry_of: str = "") -> Provisioned:
        """Create the download and enqueue it, or join the one under way, or record that the model is on disk.

        Raises:
            TooManyDownloads: when the queue is full, or this key has as much as it may.
        """
        made = self._create(spec, on_disk, retry_of)
        if made.joined and self._lend(made.download_id, spec) == "ended":
            # Between two steps of ours, perhaps for want of this token: with it there is a new one, if it is needed.
            made = self._create(spec, on_disk, retry_of)
        return made

    def _create(self, spec: DownloadSpec, on_disk: OnDisk | None, retry_of: str) -> Provisioned:
        download_id = str(uuid.uuid4())
        new = msgspec.structs.replace(self._new(download_id, spec, on_disk), retry_of=retry_of)
        download_id, outcome = self._tracker.create(new, download_id)
        if outcome in _REFUSALS:
            raise TooManyDownloads(_REFUSALS[outcome])
        if outcome == "spent":
            raise quota_exceeded()
        _say(download_id, "on disk" if on_disk else "joined" if outcome == "joined" else "asked for", spec, retry_of)
        if outcome == "created" and on_disk is None:
            log.info("queued", extra={"fields": {"download_id": download_id, "attempt": 1}})
            with self._resolutions.pipeline() as pipeline:
                self._queue.enqueue(download_id, 1, pipeline)
                self._resolutions.call(download_id, pipeline)
            return Provisioned(download_id, None, False, _intent(download_id, new))
        return Provisioned(download_id, on_disk.local_path if on_disk else None, outcome == "joined")

    def _lend(self, download_id: str, spec: DownloadSpec) -> Literal["lent", "kept", "ended"]:
        """Give a download that was joined the credentials that it lacks."""
        permission = self._permission(spec) if spec.as_operator else ""
        if not permission:
            return "kept"
        sealed = self._sealed("download", download_id, spec)
        return self._tracker.lend_secret(download_id, permission, sealed, SECRET_TTL_S)

    def _new(self, download_id: str, spec: DownloadSpec, on_disk: OnDisk | None) -> New:
        permission = self._permission(spec)
        # Who runs the service joins any download, and lends it a token. Others see of each other's models only what
        # the Hub shows to each of them.
        apart = "" if spec.as_operator else permission
        key = dedup_key(spec.ref, spec.include, spec.exclude, spec.sha256, spec.name, apart)
        if on_disk is not None:
            complete = on_disk_event(on_disk.local_path, on_disk.size, len(on_disk.files), on_disk.note)
            return New(
                dedup_key=key,
                ref=spec.ref.display,
                request=request_of(spec),
                event=complete,
                local_path=on_disk.local_path,
                request_id=spec.request_id,
                owner=spec.owner,
            )
        return New(
            dedup_key=key,
            ref=spec.ref.display,
            request=request_of(spec),
            event=first_event(spec.priority),
            secret=self._sealed("download", download_id, spec),
            secret_ttl_s=SECRET_TTL_S,
            priority=spec.priority,
            request_id=spec.request_id,
            owner=spec.owner,
            permission=permission if spec.as_operator else "",
        )

    def _sealed(self, kind: Literal["download", "plan"], id_: str, spec: DownloadSpec) -> bytes:
        """What is secret of a request, for this one thing; nothing where it has none."""
        credentials = _credentials(spec)
        if not credentials:
            return b""
        purpose = purpose_of(kind, id_, spec.ref, self._settings.hf_endpoint)
        return seal(credentials, self._settings.secret_key_path, purpose)

    def _permission(self, spec: DownloadSpec) -> str:
        """By what the Hub lets this request in: a name for its own token, which tells nothing of it; "" for that of the
        workers, which only who runs the service may use; else "no token". The query of a plain URL is part of the URL.
        """
        if spec.ref.url is not None or spec.ref.registry is not None:
            return ""
        if spec.hf_token:
            return f"token {fingerprint(f'hub token {spec.hf_token}', self._settings.secret_key_path)}"
        return "" if spec.as_operator else "no token"


def _credentials(spec: DownloadSpec) -> Credentials:
    query = urlsplit(spec.ref.url).query if spec.ref.url else None
    # A registry never sees a token of the Hub's.
    hf_token = spec.hf_token if spec.ref.registry is None else None
    return Credentials(hf_token=hf_token, url_query=query or None)


def read_ref(text: str, revision: str | None = None, endpoint: str = "") -> ModelRef:
    """The reference in a request; `endpoint` is the Hub that hive asks, or a mirror of it.

    Raises:
        InvalidModelRef: says what is wrong with it.
    """
    try:
        ref = parse_ref(text, endpoint)
        if revision is None:
            return ref
        if ref.revision not in (None, revision) or ref.kind != "hf":
            raise RefError("Give the revision once: behind an '@' in the reference, or as 'revision'.")
        return parse_ref(str(msgspec.structs.replace(ref, revision=revision)))
    except RefError as error:
        raise InvalidModelRef(str(error)) from None


def _say(download_id: str, message: str, spec: DownloadSpec, retry_of: str) -> None:
    """The first line of the download's life (docs/logs.md), or that another request shares it."""
    fields: dict[str, str | int] = {"download_id": download_id}
    if message == "asked for":
        fields.update(attempt=1, priority=spec.priority)
    if retry_of:
        fields["retry_of"] = retry_of
    log.info(message, extra={"fields": {**fields, "model_ref": spec.ref.display}})


def _intent(download_id: str, new: New) -> Intent:
    """What the intent log keeps of a request that was just made."""
    return Intent(
        id=download_id,
        dedup_key=new.dedup_key,
        ref=new.ref,
        request=new.request,
        priority=new.priority,
        created_ms=int(time.time() * 1000),
        retry_of=new.retry_of,
        request_id=new.request_id,
        owner_lines=new.owner,
    )
