"""Objects of buckets, end to end: a server, a worker, a store that compares signatures."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
from pathlib import Path
from urllib.parse import quote

import pytest
import requests

from hive.processes.embedded_redis import EmbeddedRedis
from hive.redis.client import connect
from tests.hub import SyntheticFile
from tests.hub.content import read_all
from tests.support.azure_server import AzureServer
from tests.support.content import MIB
from tests.support.google_server import GoogleServer
from tests.support.object_store import ObjectStore, check_none_in, written_below
from tests.support.private_pull import pull
from tests.support.processes import children, environment
from tests.support.pubsub import pending
from tests.support.s3_server import S3Server
from tests.support.service import Service
from tests.support.waiting import wait_for

GGUF = b"GGUF\3\0\0\0" + b"\1" * 16 + read_all(SyntheticFile(16 * MIB, seed=5))
REF = "s3://models/a folder/m.gguf"
ADDRESS = "s3://models/a%20folder/m.gguf"


#: What is to be written otherwise in a URL, or in what is signed.
ODD = "a b/c+=('1')&é,%/m.gguf"


def test_an_object_comes_signed_anew_where_its_url_ran_out_and_no_signature_is_anywhere(
    own_redis: EmbeddedRedis, tmp_path: Path
) -> None:
    with S3Server({"/models/a folder/m.gguf": GGUF, "/private/x.gguf": GGUF}) as store, connect(own_redis.url) as redis:
        channels = redis.pubsub()
        channels.psubscribe("*")
        env = environment(own_redis.url, tmp_path, HIVE_DRAIN_S="0.2", HF_TOKEN="", HIVE_LOG_LEVEL="debug")
        service = Service({**env, **store.env, "HIVE_BUCKETS": "s3://models"}, 1)
        try:
            refused = requests.post(
                f"{service.server.url}/v1/models/download", json={"model_ref": "s3://private/x.gguf"}, timeout=60
            )
            plan = requests.post(f"{service.server.url}/v1/models/plan", json={"model_ref": REF}, timeout=60)
            store.expire_after = 6 * MIB
            first = service.post(REF)
            assert service.post(ADDRESS)["download_id"] == first["download_id"]
            client = service.watch(first["download_id"]).wait(60)
            missing = service.bring("s3://models/none.gguf")
            shown, again = service.show(first["download_id"]), service.post(ADDRESS)
            listed = requests.get(f"{service.server.url}/v1/models", timeout=60).json()
            heard = b"".join(str(message["data"]).encode() for message in pending(channels))
        finally:
            service.stop()
        answers, signatures = list(store.answers), store.signatures
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "UNSAFE_URL")
    assert "HIVE_BUCKETS=s3://private" in refused.json()["error"]["message"]
    assert not [path for path, _ in answers if "private" in path]
    assert (plan.json()["model_ref"], plan.json()["bytes_total"]) == (ADDRESS, len(GGUF))

    end = client.last
    assert (end["stage"], end["verified"], end["attempt"]) == ("complete", False, 1)
    assert Path(end["local_path"]).read_bytes() == GGUF
    assert (shown["model_ref"], again["local_path"]) == (ADDRESS, end["local_path"])
    assert missing["code"] == "FILE_NOT_FOUND"
    # Refused with the URL that ran out, and served with another.
    assert 403 in [status for _, status in answers]
    assert len(signatures) > 1

    places = [
        ("the server's log", service.server.output.encode()),
        ("the workers' log", service.workers.output.encode()),
        ("events", heard + str(client.events).encode()),
        ("answers", str((shown, again, listed, missing, plan.text, refused.text)).encode()),
        *written_below(own_redis.home, tmp_path),
    ]
    assert any("aof" in name and first["download_id"].encode() in data for name, data in places)
    assert b"complete" in heard
    check_none_in(places, (*store.secrets, *store.signatures))


def bring_over_a_kill(service: Service, store: ObjectStore) -> None:
    """An object whose URL runs out, and whose worker is killed."""
    store.expire_after, store.hold_after = 3 * MIB, 9 * MIB
    download_id = service.post(f"{store.scheme}://models/{quote(ODD)}")["download_id"]
    client = service.watch(download_id)
    wait_for(lambda: client.events and client.last.get("bytes_downloaded", 0) >= 6 * MIB)
    (horse,) = children(service.busy_worker(download_id)["pid"])
    os.kill(horse, signal.SIGKILL)
    store.let_go()
    end = client.wait(60).last
    assert (end["stage"], end["verified"], end["attempt"]) == ("complete", False, 2), end
    assert Path(end["local_path"]).read_bytes() == GGUF
    assert store.bytes_sent < 2 * len(GGUF)
    # Refused with the URL that ran out, and served with another.
    assert 403 in [status for _, status in store.answers]
    assert len(store.signatures) > 1
    assert service.show(download_id)["model_ref"].startswith(f"{store.scheme}://models/a%20b/")


def test_objects_of_azure_and_google_go_on_after_a_kill_and_a_url_that_ran_out(
    own_redis: EmbeddedRedis, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    objects = {f"/models/{ODD}": GGUF}
    azure, google = AzureServer(objects), GoogleServer(objects, tmp_path_factory.mktemp("account"))
    env = environment(own_redis.url, tmp_path, HIVE_DRAIN_S="0.2", HF_TOKEN="", HIVE_LOG_LEVEL="debug")
    env |= {"HIVE_BUCKETS": "az://models,gs://models", "HIVE_ALLOW_HOSTS": f"{azure.host},{google.host}"}
    with azure, google:
        service = Service({**env, **azure.env, **google.env}, 1)
        try:
            for store in (azure, google):
                bring_over_a_kill(service, store)
        finally:
            service.stop()
    places = [
        ("the server's log", service.server.output.encode()),
        ("the workers' log", service.workers.output.encode()),
        *written_below(own_redis.home, tmp_path),
    ]
    for store in (azure, google):
        check_none_in(places, (*store.secrets, *store.signatures))


def test_a_command_on_its_own_needs_its_credentials_and_no_setting(tmp_path: Path) -> None:
    content = b"GGUF\3\0\0\0" + b"\1" * 16
    with S3Server({"/models/m.gguf": content}) as store:
        store.checksums["/models/m.gguf"] = base64.b64encode(hashlib.sha256(content).digest()).decode()
        env = {
            name: value
            for name, value in environment("", tmp_path, HIVE_HOST="127.0.0.1:1", **store.env).items()
            if value
        }
        done = pull(env, "s3://models/m.gguf")
    assert done.code == 0, done.err
    assert Path(done.out.strip()).read_bytes() == content
    assert ", verified" in done.err
    assert "X-Amz" not in done.out + done.err
