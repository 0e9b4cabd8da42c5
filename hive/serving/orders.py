"""Orders: what a machine that runs models is asked to do, and the machines that there are.

A machine offers itself as download workers do, by a heartbeat; an order lies in a list of its own in Redis, which
expires. An order that gets lost with its machine is noticed by whoever waits for the worker's address.
"""

from __future__ import annotations

from typing import Final

import msgspec

from hive.downloads.registry import HeartbeatRegistry
from hive.redis.client import RedisClient
from hive.serving.record import LlmRecord
from hive.wire import keys
from hive.wire.llm import Backend

#: Seconds that a silent machine stays listed, and between two heartbeats.
HOST_TTL_S: Final = 20
HOST_BEAT_S: Final = 5.0
#: Seconds that an order may lie before it is forgotten, and the most that may lie there.
ORDER_TTL_S: Final = 60
MAX_ORDERS: Final = 100


class SpawnOrder(msgspec.Struct, frozen=True, kw_only=True, tag_field="order", tag="spawn"):
    """Start a worker. `path` is "" where `download_id` is to bring the model first; `size` 0 where nobody knows it."""

    worker_id: str
    model_ref: str
    model_id: str = ""
    path: str = ""
    size: int = 0
    download_id: str = ""
    backend: Backend = "cpu"
    device: int = 0
    context: int = 4096
    slots: int = 1
    idle_s: float = 300.0
    flight: str = ""
    host: str = ""
    request_id: str = ""

    def record(self) -> LlmRecord:
        """What stands in the worker's record from the order until its end."""
        return LlmRecord(
            id=self.worker_id,
            model_ref=self.model_ref,
            model_id=self.model_id,
            path=self.path,
            flight=self.flight,
            backend=self.backend,
            device=self.device,
            context=self.context,
            slots_total=self.slots,
            idle_s=self.idle_s,
            host=self.host,
            download_id=self.download_id,
        )


class StopOrder(msgspec.Struct, frozen=True, kw_only=True, tag_field="order", tag="stop"):
    """End a worker."""

    worker_id: str


Order = SpawnOrder | StopOrder
_orders: Final[msgspec.json.Decoder[Order]] = msgspec.json.Decoder(Order)


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One device of a machine. Bytes are 0 where nobody knows them."""

    backend: Backend
    index: int
    name: str
    memory_bytes: int = 0
    available_bytes: int = 0


class HostInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that runs models, as it says of itself. Bytes of its memory; `devices` is JSON."""

    name: str
    host: str
    pid: int
    version: str
    engine: str = ""
    devices: str = "[]"
    ram_total: int = 0
    ram_available: int = 0
    seen_at: float = 0.0

    def device(self, backend: Backend, index: int) -> Device | None:
        """This device, where the machine has it."""
        return next((d for d in self.device_list() if d.backend == backend and d.index == index), None)

    def with_ram_available(self, available: int) -> HostInfo:
        """The same with another figure."""
        return msgspec.structs.replace(self, ram_available=available)

    def device_list(self) -> list[Device]:
        """All of them."""
        try:
            return msgspec.json.decode(self.devices, type=list[Device])
        except msgspec.DecodeError:
            return []


def host_registry(client: RedisClient) -> HeartbeatRegistry[HostInfo]:
    """The machines that run models."""
    return HeartbeatRegistry(client, HostInfo, names=keys.LLM_HOSTS, key=keys.llm_host, ttl_s=HOST_TTL_S)


def give_order(client: RedisClient, host: str, order: Order) -> None:
    """Ask a machine to do this. Raises redis-py's errors."""
    with client.pipeline(transaction=True) as pipeline:
        pipeline.rpush(keys.llm_orders(host), msgspec.json.encode(order))
        pipeline.ltrim(keys.llm_orders(host), -MAX_ORDERS, -1)
        pipeline.expire(keys.llm_orders(host), ORDER_TTL_S)
        pipeline.execute()


def take_order(client: RedisClient, host: str, timeout_s: int) -> Order | None:
    """The next order for this machine; None where none came in time, or what came is none. Raises redis-py's errors."""
    found = client.blpop([keys.llm_orders(host)], timeout=timeout_s)
    return read_order(found[1]) if found else None


def read_order(data: bytes | str) -> Order | None:
    """The order in this JSON; None where it is none."""
    try:
        return _orders.decode(data)
    except msgspec.DecodeError:
        return None
