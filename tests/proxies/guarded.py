"""Two replicas that want keys."""

from __future__ import annotations

from typing import NamedTuple

from hive.downloads.context import DownloadContext
from hive.settings import Settings
from tests.support.processes import Server


class Guarded(NamedTuple):
    """Two replicas that want keys, what they have in Redis, a key for everything, and their settings."""

    servers: list[Server]
    downloads: DownloadContext
    key: str
    settings: Settings

    @property
    def ports(self) -> list[int]:
        return [server.port for server in self.servers]

    @property
    def header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}
