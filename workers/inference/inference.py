"""One inference: the engine's tokens, as they come, in the words of `POST /v1/inference`.

Problem: every token counts, in order, and each is to leave as it comes; a reader may take ten a second or go away, and
the engine makes hundreds. The easy way, a queue between the two, grows. So there is none: what one read of the engine
brought becomes one write, and while the client has not taken it, the engine is not read, which it feels by itself.

The engine holds back a token that ends within a character, and one that may be the beginning of a stop sequence; it
says how many it has made, so these are sent as tokens without text: `i` counts tokens, the joined texts are the text.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from hive.errors import HiveError, RequestTimeout
from hive.serving.endpoint import Endpoint
from hive.serving.inference_request import InferenceRequest
from hive.serving.record import iso
from hive.serving.upstream import Upstream, send
from hive.serving_errors import InferenceFailed
from hive.wire.encoding import encode_json
from hive.wire.llm import (
    InferenceEnd,
    InferenceError,
    InferenceEvent,
    InferenceMetrics,
    InferenceStarted,
    StopReason,
    Token,
    data_frame,
)
from workers.inference.http1 import Response
from workers.inference.loading import DONE, STREAM_HEADERS
from workers.inference.slots import Slots

log = logging.getLogger("workers.inference")

#: Seconds between two `metrics` events.
METRICS_INTERVAL_S: Final = 1.0
#: Bytes of one event of the engine, the last of which repeats the prompt.
MAX_EVENT_BYTES: Final = 4 << 20
#: Bytes of an error of the engine.
MAX_ERROR_BYTES: Final = 65_536
_PREFIX: Final = b"data: "
#: How it says in the middle of an answer that it failed: its present releases, and the older ones.
_ERROR_PREFIXES: Final = (b'data: {"error"', b"error: {")
_JSON: Final = ((b"content-type", b"application/json"),)


class EngineChunk(msgspec.Struct):
    """One event of the engine's own stream."""

    content: str = ""
    stop: bool = False
    tokens_predicted: int = 0
    tokens_evaluated: int = 0
    stop_type: str = "none"
    stopping_word: str = ""


class InferenceResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer where `stream` is false."""

    job_id: str
    model: str
    text: str
    tokens_out: int
    decode_time_ms: int
    stop_reason: StopReason
    stop_sequence_matched: str | UnsetType = UNSET


class _EngineError(msgspec.Struct):
    message: str = ""
    type: str = ""


class _EngineErrorReply(msgspec.Struct):
    error: _EngineError


_chunks: Final = msgspec.json.Decoder(EngineChunk)
_errors: Final = msgspec.json.Decoder(_EngineErrorReply)


class Inference:
    """One request to the model: it takes a slot, asks the engine, and lets go. A sink of the engine's answer."""

    def __init__(self, asked: InferenceRequest, response: Response, slots: Slots, model: str, vram_bytes: int) -> None:
        self.id = asked.job_id or str(uuid.uuid4())
        self._asked = asked
        self._response = response
        self._slots = slots
        self._model = model
        self._vram_bytes = vram_bytes
        self._upstream: Upstream | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._rest = b""
        self._status = 0
        self._texts: list[str] = []
        self._began_s = self._moved_s = self._metrics_s = time.monotonic()
        self._first_s = 0.0
        self._measured = 0
        self.tokens = 0
        #: Tokens of the prompt; 0 while the engine has not said.
        self.prompt_tokens = 0
        self.over = asyncio.Event()
        #: How it ended: a stop reason, or the code of an error.
        self.outcome = ""

    @property
    def first_token_s(self) -> float:
        """Seconds until the first token; 0 where there was none."""
        return self._first_s and self._first_s - self._began_s

    @property
    def decode_s(self) -> float:
        """Seconds from the first token to the latest."""
        return max(self._moved_s - self._first_s, 0.0) if self._first_s else 0.0

    async def run(self, engine: Endpoint, token_timeout_s: float, deadline_s: float | None) -> None:
        """Answer; returns when it is over. `deadline_s`: seconds from now.

        Raises:
            AllSlotsBusy, Conflict: there is no slot for it.
            RequestTimeout: its deadline has passed.
        """
        if deadline_s is not None and deadline_s <= 0:
            raise RequestTimeout("The request's deadline has passed.")
        self._slots.take(self)
        try:
            self._response.on_gone = self._on_gone
            self._response.on_writable = self._on_writable
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(token_timeout_s, self._on_silence, token_timeout_s)
            if deadline_s is not None:
                self._deadline = loop.call_later(deadline_s, self._on_deadline)
            if self._asked.stream:
                self._response.start(200, STREAM_HEADERS)
                self._send(
                    [InferenceStarted(job_id=self.id, model=self._model, started_at=iso(int(time.time() * 1000)))]
                )
            try:
                body = msgspec.json.encode(self._asked.for_engine())
                self._upstream = await send(engine, "POST", "/completion", _JSON, body, self)
            except OSError as error:
                self.stop("INFERENCE_FAILED", f"The engine does not answer: {error or 'not in time'}.")
            if self.over.is_set() and self._upstream is not None:
                self._upstream.close()  # it was stopped while it connected
            await self.over.wait()
        finally:
            self._let_go("CANCELLED")

    def stop(self, code: str, message: str) -> None:
        """End it with an error."""
        self._finish([InferenceError(code=code, message=message)], code)

    # -- the engine's answer -----------------------------------------------------------------------------------------

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """The engine answers."""
        self._status = status

    def on_data(self, data: bytes) -> None:
        """What one read brought: whole events, and the beginning of one."""
        self._rest += data
        if self._status != 200:
            if len(self._rest) > MAX_ERROR_BYTES:
                self.stop("INFERENCE_FAILED", "The engine refuses with an answer of any length.")
            return
        *lines, self._rest = self._rest.split(b"\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            self.stop("INFERENCE_FAILED", "The engine sends an event without an end.")
            return
        events: list[InferenceEvent] = []
        for line in lines:
            if line.startswith(_ERROR_PREFIXES):
                if events:
                    self._send(events)
                self.stop(*_refusal(500, line.partition(b":")[2]))
                return
            if line.startswith(_PREFIX) and self._take(line[len(_PREFIX) :], events):
                return
        if events:
            self._moved_s = time.monotonic()
            if self._moved_s - self._metrics_s >= METRICS_INTERVAL_S:
                events.append(self._metrics())
            self._send(events)

    def on_end(self) -> None:
        """The engine has said all, and nothing of an end: it refuses, or has failed."""
        if self._status == 200:
            self.stop("INFERENCE_FAILED", "The engine ended its answer without an end.")
            return
        code, message = _refusal(self._status, self._rest)
        self.stop(code, message)

    def on_failed(self, reason: str) -> None:
        """The engine has gone."""
        self.stop("INFERENCE_FAILED", f"The engine has gone away: {reason}.")

    def _take(self, data: bytes, events: list[InferenceEvent]) -> bool:
        """Read one event of the engine; True where it was the last, and all is said."""
        try:
            chunk = _chunks.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.stop(*_refusal(500, data, "The engine sends an event that is none of llama.cpp's server."))
            return True
        self.prompt_tokens = chunk.tokens_evaluated
        if not chunk.stop and self.tokens >= self._asked.max_tokens:
            # It does not count: nobody asked for more, and its slot is somebody else's.
            self._finish([*events, self._end("MAX_TOKENS", "")], "MAX_TOKENS")
            return True
        if not chunk.stop:
            self._fill(chunk.tokens_predicted - 1, events)
            self._add(chunk.content, events)
            return False
        if chunk.content:
            self._fill(chunk.tokens_predicted - 1, events)
            self._add(chunk.content, events)
        reason = _stop_reason(chunk.stop_type)
        if reason is None:
            self._finish(
                [*events, InferenceError(code="INFERENCE_FAILED", message="The engine stopped without a reason.")],
                "INFERENCE_FAILED",
            )
            return True
        if reason == "MAX_TOKENS":
            self._fill(chunk.tokens_predicted, events)
        self._finish([*events, self._end(reason, chunk.stopping_word)], reason)
        return True

    def _fill(self, count: int, events: list[InferenceEvent]) -> None:
        """Tokens that were made and have no text of their own, up to so many, or those asked for."""
        while self.tokens < min(count, self._asked.max_tokens):
            self._add("", events)

    def _add(self, text: str, events: list[InferenceEvent]) -> None:
        if not self._first_s:
            self._first_s = time.monotonic()
        if self._asked.stream:
            events.append(Token(t=text, i=self.tokens, token=text, index=self.tokens))
        else:
            self._texts.append(text)
            self._moved_s = time.monotonic()
        self.tokens += 1

    def _metrics(self) -> InferenceMetrics:
        seconds = self._moved_s - self._metrics_s
        rate = (self.tokens - self._measured) / seconds if seconds > 0 else 0.0
        self._metrics_s, self._measured = self._moved_s, self.tokens
        return InferenceMetrics(tokens_per_sec=round(rate, 2), vram_bytes=self._vram_bytes)

    def _end(self, reason: StopReason, word: str) -> InferenceEnd:
        milliseconds = int((time.monotonic() - (self._first_s or self._began_s)) * 1000)
        return InferenceEnd(
            tokens_out=self.tokens,
            decode_time_ms=milliseconds,
            stop_reason=reason,
            stop_sequence_matched=word if reason == "STOP_SEQUENCE" else UNSET,
            done=True,
            total_tokens=self.tokens,
            duration_ms=int((time.monotonic() - self._began_s) * 1000),
        )

    # -- the client --------------------------------------------------------------------------------------------------

    def _send(self, events: list[InferenceEvent]) -> None:
        if not self._asked.stream:
            return
        self._response.write(b"".join([data_frame(event) for event in events]))
        if self._response.paused and self._upstream is not None:
            self._upstream.pause()

    def _finish(self, events: list[InferenceEvent], outcome: str) -> None:
        """Say the last, and let go."""
        if self.over.is_set():
            return
        if self._response.is_gone:
            pass
        elif self._asked.stream:
            self._response.end(b"".join([data_frame(event) for event in events]) + DONE)
        else:
            self._answer_whole(events[-1])
        self._let_go(outcome)

    def _answer_whole(self, last: InferenceEvent) -> None:
        if isinstance(last, InferenceError):
            self._response.error(_error_of(last))
            return
        assert isinstance(last, InferenceEnd)
        result = InferenceResult(
            job_id=self.id,
            model=self._model,
            text="".join(self._texts),
            tokens_out=last.tokens_out,
            decode_time_ms=last.decode_time_ms,
            stop_reason=last.stop_reason,
            stop_sequence_matched=last.stop_sequence_matched,
        )
        self._response.whole(200, encode_json(result), ((b"content-type", b"application/json"),))

    def _let_go(self, outcome: str) -> None:
        """Close what is open, and give the slot back."""
        for timer in (self._timer, self._deadline):
            if timer is not None:
                timer.cancel()
        if self._upstream is not None:
            self._upstream.close()
        self._slots.release(self)
        self.outcome = self.outcome or outcome
        self.over.set()

    def _on_gone(self) -> None:
        self._let_go("CANCELLED")

    def _on_writable(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()

    def _on_deadline(self) -> None:
        self.stop("TIMEOUT", "The request's deadline has passed.")

    def _on_silence(self, timeout_s: float) -> None:
        """Look at how long no token came; one that the client does not take is no silence of the engine."""
        silent_s = 0.0 if self._response.paused else time.monotonic() - self._moved_s
        if silent_s >= timeout_s:
            self.stop("TIMEOUT", f"The engine gave no token for {timeout_s:g} s.")
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(timeout_s - silent_s, 0.05), self._on_silence, timeout_s)


def _stop_reason(stop_type: str) -> StopReason | None:
    return {"limit": "MAX_TOKENS", "eos": "EOS", "word": "STOP_SEQUENCE"}.get(stop_type)  # type: ignore[return-value]


def _refusal(status: int, body: bytes, otherwise: str = "") -> tuple[str, str]:
    """Why the engine does not answer, as a code and a sentence without the prompt; `otherwise` where it says none."""
    otherwise = otherwise or f"The engine answers with {status}."
    try:
        error = _errors.decode(body.strip()).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "INFERENCE_FAILED", otherwise
    if "memory" in error.message.lower() and status >= 500:
        return "VRAM_OOM", error.message[:500]
    if status == 400:
        return "INVALID_REQUEST", error.message[:500]
    return "INFERENCE_FAILED", error.message[:500] or otherwise


def _error_of(event: InferenceError) -> HiveError:
    """An error event as an answer of its own, with its code."""
    found = InferenceFailed(event.message)
    found.code = event.code  # type: ignore[misc]
    found.status = {"TIMEOUT": 504, "INVALID_REQUEST": 400}.get(event.code, 502)  # type: ignore[misc]
    return found
