"""Models that are not on the Hub, end to end: a server, a worker, a registry."""

from __future__ import annotations

import base64
import json
import os
import signal
from pathlib import Path

from tests.hub import SyntheticFile
from tests.hub.content import read_all
from tests.hub.server import HubServer
from tests.support.content import MIB
from tests.support.oci_registry import OciRegistry
from tests.support.processes import children
from tests.support.service import SLOW_BYTES_PER_S, Service
from tests.support.waiting import wait_for

#: Long enough to be fetched in parts.
GGUF = b"GGUF" + read_all(SyntheticFile(24 * MIB, seed=4))


def test_a_private_model_of_ollamas_goes_on_after_its_worker_was_killed_and_no_secret_is_seen(
    env: dict[str, str], hub: HubServer, tmp_path: Path
) -> None:
    with OciRegistry(hub) as registry:
        registry.tokens, registry.password = True, "robot:s3cret"
        basic = base64.b64encode(registry.password.encode()).decode()
        login = tmp_path / "auth.json"
        login.write_text(json.dumps({"auths": {registry.host: {"auth": basic}}}))
        login.chmod(0o600)
        layer = registry.layer(GGUF, "application/vnd.ollama.image.model")
        registry.put("library/tiny", "1b", {"layers": [layer]})
        own = {
            "HIVE_OLLAMA_REGISTRY": f"http://{registry.host}",
            "HIVE_ALLOW_HOSTS": hub.endpoint.removeprefix("http://"),
            "HIVE_REGISTRY_AUTH_FILE": str(login),
        }
        service = Service({**env, **own, "HF_TOKEN": "hf_workers"}, 1)
        try:
            hub.limit_rate_bytes_per_s = SLOW_BYTES_PER_S
            download_id = service.post("ollama:tiny:1b", hf_token="hf_mine")["download_id"]
            joined = service.post("ollama:library/tiny:1b")
            assert (joined["download_id"], joined["joined"]) == (download_id, True)
            client = service.watch(download_id)
            wait_for(lambda: client.events and client.last.get("bytes_downloaded", 0) >= 2 * MIB)
            (horse,) = children(service.busy_worker(download_id)["pid"])
            os.kill(horse, signal.SIGKILL)
            hub.limit_rate_bytes_per_s = None
            hub.close_connections()
            client.wait(60)
        finally:
            service.stop()
    end = client.last
    assert (end["stage"], end["verified"], end["attempt"]) == ("complete", True, 2)
    assert Path(end["local_path"]).read_bytes() == GGUF
    assert hub.bytes_sent("/store/*") < 2 * len(GGUF)
    assert "hf_" not in repr(registry.requests)
    told = {path.partition("?")[0] for path, authorization in registry.requests if authorization == f"Basic {basic}"}
    assert told == {"/token"}
    said = "\n".join((service.server.output, service.workers.output, repr(client.events)))
    for secret in ("s3cret", basic, "repository:library/tiny:pull#"):
        assert secret not in said
    assert all("authorization" not in hit.headers for hit in hub.hits())
