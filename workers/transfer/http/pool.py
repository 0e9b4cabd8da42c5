"""What the fetches of one process share.

Kept connections, a cap per host, and the cool-down of hosts that asked for a rest.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import Protocol

import urllib3

from hive.net.egress import Network
from hive.net.proxies import Proxy
from hive.net.urls import Url
from workers.transfer.control import Control
from workers.transfer.http.session import GuardedSession
from workers.transfer.http.sockets import pool_manager
from workers.transfer.limits import Limits

#: Seconds between two looks at a host whose slots are all taken.
SLOT_POLL_S = 0.05


class Cooldown(Protocol):
    """Which hosts asked to be left alone, and for how long. A shared one (in Redis) makes all workers wait."""

    def remaining_s(self, host: str) -> float:
        """Seconds to wait before the next request; 0.0 as a rule. Asked before every request, so it should be quick."""

    def set(self, host: str, seconds: float) -> None:
        """The host asked to be left alone for so long."""


class LocalCooldown:
    """The cool-down of this process alone. Safe from any thread."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def remaining_s(self, host: str) -> float:
        """See Cooldown."""
        with self._lock:
            return max(0.0, self._until.get(host, 0.0) - time.monotonic())

    def set(self, host: str, seconds: float) -> None:
        """See Cooldown. A shorter rest never ends a longer one."""
        now = time.monotonic()
        with self._lock:
            self._until = {name: until for name, until in self._until.items() if until > now}
            self._until[host] = max(self._until.get(host, 0.0), now + seconds)


class HostPool:
    """Connections to share between fetches, in one process and by many threads.

    Close it, or use it as a context manager.
    """

    def __init__(self, network: Network, limits: Limits | None = None, cooldown: Cooldown | None = None) -> None:
        self.network = network
        self.cooldown: Cooldown = cooldown or LocalCooldown()
        self._limits = limits or Limits()
        self._managers: dict[tuple[str, Proxy | None], urllib3.PoolManager] = {}
        self._slots: dict[str, threading.BoundedSemaphore] = defaultdict(self._new_slots)
        #: Hosts and ports that may be asked of a proxy; looked up once, since there may be no resolver behind a proxy.
        self._proxied: set[tuple[str, int]] = set()
        self._lock = threading.Lock()
        self.session = GuardedSession(self.manager)

    def manager(self, url: Url) -> urllib3.PoolManager:
        """The urllib3 pool for this URL. Raises UnsafeUrl for one that a proxy would fetch from a forbidden address."""
        host = url.host.strip("[]")
        proxy = self.network.proxy_for(url)
        if proxy is not None and (host, url.port) not in self._proxied:
            self.network.check_proxied(host, url.port)
            self._proxied.add((host, url.port))
        with self._lock:
            key = (url.scheme, proxy)
            if key not in self._managers:
                self._managers[key] = pool_manager(self.network, url.scheme, proxy, self._limits.connections_max)
            return self._managers[key]

    def take_slot(self, host: str, control: Control) -> threading.BoundedSemaphore:
        """Wait for one of the host's connections; release what it gives. Raises the error of `control.cancel`."""
        with self._lock:
            slots = self._slots[host]
        while not slots.acquire(timeout=SLOT_POLL_S):
            control.check()
        return slots

    def close(self) -> None:
        """Close the kept connections."""
        with self._lock:
            managers, self._managers = self._managers, {}
        for manager in managers.values():
            manager.clear()

    def __enter__(self) -> HostPool:
        """The pool itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _new_slots(self) -> threading.BoundedSemaphore:
        return threading.BoundedSemaphore(self._limits.connections_max)
