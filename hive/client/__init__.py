"""A client of hive's HTTP API: `Client`, and the same with `await` as `AsyncClient`."""

from hive.client.calls import DEFAULT_URL
from hive.client.client import AsyncClient, Client
from hive.errors import HiveError, ServerUnreachable

__all__ = ["DEFAULT_URL", "AsyncClient", "Client", "HiveError", "ServerUnreachable"]
