"""A client of hive's HTTP API: `Client`, and the same with `await` as `AsyncClient`."""

from hive.client.async_client import AsyncClient
from hive.client.client import Client
from hive.client.connection import DEFAULT_URL
from hive.errors import HiveError, ServerUnreachable

__all__ = ["DEFAULT_URL", "AsyncClient", "Client", "HiveError", "ServerUnreachable"]
