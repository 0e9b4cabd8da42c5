"""nchan, the pub/sub module of nginx in C: the peer of hive's stream. With its Redis backend, as hive has one."""

from __future__ import annotations

from pathlib import Path

from benchmarks.machine import program
from benchmarks.running import NCHAN_MODULE, Nginx, answer

#: One message is kept, as hive keeps the latest state: a new subscriber gets it at once.
_HTTP = """
    upstream store { nchan_redis_server REDIS; }
    server {
        listen 127.0.0.1:PORT backlog=4096;
        location /publish {
            nchan_publisher;
            nchan_channel_id $arg_id;
            nchan_redis_pass store;
            nchan_message_buffer_length 1;
            nchan_message_timeout 10m;
        }
        location /subscribe {
            nchan_subscriber eventsource;
            nchan_channel_id $arg_id;
            nchan_redis_pass store;
            nchan_subscriber_first_message oldest;
            nchan_eventsource_ping_interval 10;
        }
    }
"""


def has_nchan() -> bool:
    """Whether nginx and the module are here; says how to get them where they are not."""
    if program("nginx", "nginx libnginx-mod-nchan") is None:
        return False
    if not NCHAN_MODULE.exists():
        program("nchan (the module of nginx)", "libnginx-mod-nchan")
        return False
    return True


class Nchan(Nginx):
    """nginx that serves events of `publish` at `subscribe`."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        super().__init__(folder, _HTTP.replace("REDIS", redis_url.removesuffix("/0")), modules=(NCHAN_MODULE,))
        self.wait_for(self._publishes, "nchan")

    def _publishes(self) -> bool:
        """Whether it has found its Redis: until then it refuses what is published."""
        return b" 20" in answer(self.port, "/publish?id=probe", "POST", b"{}").partition(b"\r\n")[0]
