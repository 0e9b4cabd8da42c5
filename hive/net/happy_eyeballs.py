"""Happy Eyeballs (RFC 8305): the addresses of a name are raced, and what was learned of them is remembered.

Problem: a name has a dead IPv6 address in front, or one server of three is down, and a connect that nobody answers
takes the whole time-out, for every connection of every file. The easy way, IPv4 only, fails where there is none. So the
next address is tried a quarter of a second after the last, or at once when one is refused; the first that answers wins.
It is tried first from then on, and those that were refused or too slow last, for ten minutes.

All of it happens in the thread that wants the connection. Whoever wakes it does so by `given_up`, which is asked often.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any, Final

#: An answer of getaddrinfo: family, kind, protocol, canonical name, socket address.
AddressInfo = tuple[Any, Any, int, str, tuple[Any, ...]]

#: Seconds between two attempts: RFC 8305 recommends it.
ATTEMPT_DELAY_S: Final = 0.25
#: Addresses of one name that are tried.
MAX_ADDRESSES: Final = 16
#: Seconds between two looks whether the connection is still wanted.
LOOK_S: Final = 0.02
#: Seconds for which an address counts as good or bad, and how many are remembered.
REMEMBERED_S: Final = 600.0
MAX_REMEMBERED: Final = 1024


class _Memory:
    """Which addresses answered lately, and which did not. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Socket address -> whether it answered, and until when that is believed.
        self._known: dict[tuple[Any, ...], tuple[bool, float]] = {}

    def note(self, address: tuple[Any, ...], *, good: bool) -> None:
        """An address answered, or did not."""
        with self._lock:
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            self._known[address] = good, time.monotonic() + REMEMBERED_S

    def sorted(self, found: Sequence[AddressInfo]) -> list[AddressInfo]:
        """Good ones first; bad ones last, and of those the one that failed longest ago first. The families of the
        others take turns, the resolver's first one first.
        """
        now_s = time.monotonic()
        with self._lock:
            known = {info[4]: self._known.get(info[4], (None, 0.0)) for info in found}
        said = {address: good if until_s > now_s else None for address, (good, until_s) in known.items()}
        unique = list({info[4]: info for info in found}.values())
        first = [info for info in unique if said[info[4]] is True]
        last = sorted((info for info in unique if said[info[4]] is False), key=lambda info: known[info[4]][1])
        return [*first, *_in_turns([info for info in unique if said[info[4]] is None]), *last]

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._known.clear()


MEMORY = _Memory()


def connect(
    found: Sequence[AddressInfo],
    timeout_s: Callable[[], float | None],
    *,
    hold: Callable[[socket.socket], None] = lambda sock: None,
    given_up: Callable[[], bool] = lambda: False,
) -> socket.socket:
    """A connection to the first address that answers, in `timeout_s()` seconds for all of them together.

    `hold` sees each socket before it connects, and the one that is given last.

    Raises:
        OSError: of the last address. TimeoutError where none answered in time.
    """
    race = _Race(MEMORY.sorted(found)[:MAX_ADDRESSES], hold)
    wait_s = timeout_s()
    try:
        sock = race.run(None if wait_s is None else time.monotonic() + wait_s, given_up)
        sock.settimeout(timeout_s())
        return sock
    finally:
        race.close()


class _Race:
    """Attempts under way, in one thread."""

    def __init__(self, addresses: list[AddressInfo], hold: Callable[[socket.socket], None]) -> None:
        self._left = addresses
        self._hold = hold
        self._selector = selectors.DefaultSelector()
        self._problem: OSError = OSError(errno.EADDRNOTAVAIL, "no address")

    def run(self, deadline_s: float | None, given_up: Callable[[], bool]) -> socket.socket:
        """The winner's socket, which is no longer the race's."""
        next_s = 0.0
        while self._left or self._selector.get_map():
            now_s = time.monotonic()
            if given_up():
                raise _given_up()
            if deadline_s is not None and now_s >= deadline_s:
                self._note_pending()
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            if self._left and (now_s >= next_s or not self._selector.get_map()):
                next_s = now_s + ATTEMPT_DELAY_S
                self._start(self._left.pop(0))
            if (winner := self._finished(given_up)) is not None:
                return winner
        raise self._problem

    def close(self) -> None:
        """Close those that have lost."""
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _start(self, info: AddressInfo) -> None:
        family, kind, protocol, _, address = info
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            # This machine has no such family.
            self._problem = error
            return
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._hold(sock)
            sock.connect(address)
        except BlockingIOError:
            pass
        except OSError as error:
            sock.close()
            self._failed(address, error)
            return
        self._selector.register(sock, selectors.EVENT_WRITE, address)

    def _finished(self, given_up: Callable[[], bool]) -> socket.socket | None:
        """A socket that is connected; those that failed are dropped. Who gives up shuts a socket down, and that is no
        failure of its address.
        """
        if not self._selector.get_map():
            return None
        for key, _ in self._selector.select(LOOK_S):
            sock, address = key.fileobj, key.data
            assert isinstance(sock, socket.socket)
            self._selector.unregister(sock)
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number == 0:
                try:
                    self._hold(sock)
                except OSError:
                    sock.close()
                    raise
                self._note_pending()
                MEMORY.note(address, good=True)
                return sock
            sock.close()
            if given_up():
                raise _given_up()
            self._failed(address, OSError(number, os.strerror(number)))
        return None

    def _failed(self, address: tuple[Any, ...], error: OSError) -> None:
        self._problem = error
        MEMORY.note(address, good=False)

    def _note_pending(self) -> None:
        """What was asked and has not answered is tried last from now on."""
        for key in self._selector.get_map().values():
            MEMORY.note(key.data, good=False)


def _given_up() -> OSError:
    return ConnectionAbortedError(errno.ECONNABORTED, "given up")


def _in_turns(found: list[AddressInfo]) -> list[AddressInfo]:
    """One of each family after the other, the first one's family first."""
    first = [info for info in found if info[0] == found[0][0]]
    others = [info for info in found if info[0] != found[0][0]]
    return [info for pair in zip_longest(first, others) for info in pair if info is not None]
