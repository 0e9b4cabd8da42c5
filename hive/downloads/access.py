"""Access control for restricted models: on the disk they are for those alone whom the Hub lets in.

Problem: a gated or private model lies in the store because one caller's token opened it; another caller has another
token, or none. Only the Hub knows whom it lets in, and it may change its mind. The easy way, to ask it at each request,
makes a list of models as slow as the Hub and as often out of order. So its answers are remembered: a yes for ten
minutes, a no for one, by a keyed hash of the token; and an owner whom it has let in is let in on requests without a
token for as long. The Hub is asked by a resolver (resolutions.py), which has the way out; where it cannot be asked,
those owners are let in whom it has let in within a week, and nobody else.

Who runs the service is not asked for anything: who may administer it can read its disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import time
import uuid
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from hive import logs
from hive.auth.principal import Principal
from hive.downloads.questions import Questions
from hive.downloads.resolutions import Access, AccessQuestion, Resolutions
from hive.downloads.threads import Threads
from hive.errors import RedisUnavailable
from hive.redis.client import CommandThread
from hive.secrets import Credentials, seal, token_purpose
from hive.settings import Settings
from hive.store.catalog import ModelCatalog, OnDisk
from hive.store.restricted import PUBLIC, YES_TTL_S, AccessNotes, Known, ProbeFile
from hive.wire.api import Model
from hive.wire.refs import RefError, parse_ref
from hive.wire.spec import DownloadSpec

#: Seconds that a no of the Hub is remembered, and that nothing is asked again after it said neither yes nor no.
NO_TTL_S: Final = 60.0
UNKNOWN_TTL_S: Final = 10.0
#: Seconds for which it is remembered that somebody may use a model in memory.
USED_TTL_S: Final = 60.0
#: Answers that a process remembers; the oldest are forgotten.
MAX_REMEMBERED: Final = 10_000
#: Files of one question, which a resolver asks for one by one; and of one request, the rest comes with the next.
PLACES_A_QUESTION: Final = 16
MAX_PLACES_A_REQUEST: Final = 64
#: Seconds to wait for the answer, and between two looks whether it is there.
ANSWER_TIMEOUT_S: Final = 10.0
ANSWER_POLL_S: Final = 0.02
#: Requests that may wait for one at a time, and those of one owner; who comes then is answered by what is known.
MAX_WAITING: Final = 32
MAX_WAITING_OF_ONE: Final = 8
#: The file that is asked for where there is no model: an answer must not come sooner for that.
_ANY_FILE: Final = "config.json"
_TTL_S: Final[dict[Access, float]] = {"yes": YES_TTL_S, "no": NO_TTL_S, "unknown": UNKNOWN_TTL_S}


class ModelAccess:
    """Who may see which model. Its methods belong to the event loop, but for `is_let_in`, which reads the disk."""

    def __init__(
        self, settings: Settings, commands: CommandThread, catalog: ModelCatalog, resolutions: Resolutions
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._questions = Questions(commands, resolutions)
        self._notes = AccessNotes(settings.hive_dir)
        self._disk = Threads("access", 1, MAX_WAITING)
        self._key = os.urandom(32)
        self._remembered: OrderedDict[tuple[bytes, ProbeFile], tuple[Access, float]] = OrderedDict()
        self._waiting: Counter[str] = Counter()
        #: Who may use which file, until when; and who is looked up at the moment.
        self._used: OrderedDict[tuple[bytes, str, str], float] = OrderedDict()
        self._looking: dict[tuple[bytes, str, str], asyncio.Task[bool]] = {}

    def close(self) -> None:
        """Let go of the thread."""
        self._disk.close()

    def is_let_in(self, spec: DownloadSpec, found: OnDisk) -> bool:
        """Whether what is on the disk may be the answer to this request, by what is known without asking. Who is not
        let in yet gets a download, which asks the Hub and needs to fetch nothing. Blocking.
        """
        if spec.as_operator:
            return True
        if spec.ref.url is not None:
            # Who knows the whole URL has its query, if it has one.
            if "?" in spec.ref.url:
                with contextlib.suppress(OSError):  # a store that is only read: they know the URL all the same
                    self._notes.note_url(spec.ref.url, spec.owner)
            return True
        if not found.commit:
            return True
        known = self._notes.known(spec.ref.repo, found.commit, spec.owner)
        if not known.places or known.let_in:
            return True
        if self._settings.hf_hub_offline:
            return known.let_in_before
        return all(self._recall(spec.hf_token, place) == "yes" for place in known.places)

    async def visible(self, models: Sequence[Model], principal: Principal, token: str | None) -> list[Model]:
        """Those of these models that the principal may see; `token` is the Hub's, as it came with the request.

        Raises:
            ServerBusy: too many wait for the disk.
        """
        if principal.sees_everything:
            return list(models)
        known = await self._disk.run(self._known, models, principal.owner)
        asked = dict.fromkeys(place for each in known if each and not each.let_in for place in each.places)
        answers = await self._ask(list(asked)[:MAX_PLACES_A_REQUEST], token, principal.owner)
        return [model for model, each in zip(models, known, strict=True) if each and _is_open(each, answers)]

    async def ask_in_vain(self, model_id: str, principal: Principal, token: str | None) -> None:
        """Ask the Hub of a model that is not on the disk, as would be asked of one that is: how long an answer takes
        must not tell what others have fetched.
        """
        if principal.sees_everything:
            return
        try:
            ref = parse_ref(model_id, self._settings.hf_endpoint)
        except RefError:
            return
        if ref.repo and ref.registry is None:
            await self._ask([ProbeFile(ref.repo, ref.rev, ref.path or _ANY_FILE)], token, principal.owner)

    async def may_use(self, path: str, principal: Principal, token: str | None) -> bool:
        """Whether the principal may have what a worker makes of this file of the store. A yes is remembered for a
        while, because it is asked with each request to a model, and those that ask at once share one look.

        Raises:
            ServerBusy: too many wait for the disk.
        """
        if principal.sees_everything or not path:
            return True
        key = (self._hash(token), principal.owner, path)
        if time.monotonic() < self._used.get(key, 0.0):
            return True
        looking = self._looking.get(key)
        if looking is None:
            looking = self._looking[key] = asyncio.create_task(self._look(path, principal.owner, token))
            looking.add_done_callback(lambda done: (self._looking.pop(key, None), done.cancelled() or done.exception()))
        if not await asyncio.shield(looking):
            return False
        self._used[key] = time.monotonic() + USED_TTL_S
        self._used.move_to_end(key)
        while len(self._used) > MAX_REMEMBERED:
            self._used.popitem(last=False)
        return True

    async def _look(self, path: str, owner: str, token: str | None) -> bool:
        known = await self._disk.run(self._notes.known_of_file, self._settings.hub_dir, Path(path), owner)
        if known is None or known.let_in:
            return known is not None
        return _is_open(known, await self._ask(known.places[:MAX_PLACES_A_REQUEST], token, owner))

    # -- the disk ----------------------------------------------------------------------------------------------------

    def _known(self, models: Sequence[Model], owner: str) -> list[Known | None]:
        """Of each model what is known; None for one that only others may see, whatever the Hub says."""
        restricted = self._notes.restricted()
        return [self._known_of(model, owner, restricted) for model in models]

    def _known_of(self, model: Model, owner: str, restricted: frozenset[tuple[str, str]]) -> Known | None:
        repo = self._catalog.origin(model).repo
        if repo is None or model.revision is None:
            may_see = self._notes.may_see_url(Path(model.path).parent.name, owner)
            return PUBLIC if may_see else None
        if (repo, model.revision) not in restricted:
            return PUBLIC
        return self._notes.known(repo, model.revision, owner)

    # -- the Hub -----------------------------------------------------------------------------------------------------

    async def _ask(self, places: Sequence[ProbeFile], token: str | None, owner: str) -> dict[ProbeFile, Access]:
        """What the Hub says of these files to this token."""
        answers: dict[ProbeFile, Access] = {}
        for place in places:
            if (known := self._recall(token, place)) is not None:
                answers[place] = known
        missing = [place for place in places if place not in answers]
        for start in range(0, len(missing), PLACES_A_QUESTION):
            batch = missing[start : start + PLACES_A_QUESTION]
            found = await self._ask_resolver(batch, token, owner)
            if found is None:
                break  # which is no answer to remember: others share it
            for place, answer in zip(batch, found, strict=True):
                self._remember(token, place, answer)
                answers[place] = answer
            if set(found) == {"unknown"}:
                break  # nobody answers now: one time-out a request is enough
        return answers

    async def _ask_resolver(self, places: Sequence[ProbeFile], token: str | None, owner: str) -> list[Access] | None:
        """Its answers; None where too many wait for some."""
        unknown: list[Access] = ["unknown"] * len(places)
        if self._waiting.total() >= MAX_WAITING or self._waiting[owner] >= MAX_WAITING_OF_ONE:
            return None
        self._waiting[owner] += 1
        try:
            question = await self._disk.run(self._question, tuple(places), token)
            answer = await self._questions.answer(question, ANSWER_TIMEOUT_S, ANSWER_POLL_S)
            found = unknown if answer is None else msgspec.json.decode(answer, type=list[Access])
            return found if len(found) == len(places) else unknown
        except (RedisUnavailable, msgspec.DecodeError):
            return unknown
        finally:
            self._waiting[owner] -= 1
            self._waiting += Counter()  # forgets those who have none

    def _question(self, places: tuple[ProbeFile, ...], token: str | None) -> AccessQuestion:
        question_id, sealed = str(uuid.uuid4()), b""
        if token:
            purpose = token_purpose("access", question_id, self._settings.hf_endpoint)
            sealed = seal(Credentials(hf_token=token), self._settings.secret_key_path, purpose)
        request_id = logs.bound_field("request_id")
        return AccessQuestion(id=question_id, places=places, sealed=sealed, request_id=request_id)

    # -- what is remembered ------------------------------------------------------------------------------------------

    def _recall(self, token: str | None, place: ProbeFile) -> Access | None:
        found = self._remembered.get((self._hash(token), place))
        return found[0] if found is not None and time.monotonic() < found[1] else None

    def _remember(self, token: str | None, place: ProbeFile, answer: Access) -> None:
        key = (self._hash(token), place)
        self._remembered[key] = answer, time.monotonic() + _TTL_S[answer]
        self._remembered.move_to_end(key)
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)

    def _hash(self, token: str | None) -> bytes:
        """What a token is known by here: of no use elsewhere, nor after this process."""
        return hmac.digest(self._key, token.encode(), "sha256") if token else b""


def _is_open(known: Known, answers: dict[ProbeFile, Access]) -> bool:
    if known.let_in:
        return True
    said = {answers.get(place, "unknown") for place in known.places}
    return "no" not in said and (said == {"yes"} or known.let_in_before)
