"""Objects of a server of S3's that nobody here wrote, with signatures that Amazon's own library compares."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import obstore
import pytest
import requests
from obstore.store import S3Store

from hive.processes.embedded_redis import EmbeddedRedis
from tests.hub import SyntheticFile
from tests.hub.content import read_all
from tests.support.content import MIB
from tests.support.moto_server import KEY, ROLE, SECRETS, MotoServer
from tests.support.object_store import check_none_in, written_below
from tests.support.private_pull import pull
from tests.support.processes import children, environment, stopping
from tests.support.service import Service, hive, under_way
from tests.support.sse_client import SseClient


def limit(service: Service, bytes_per_s: int | None) -> None:
    url = f"{service.server.url}/v1/settings/bandwidth"
    assert requests.put(url, json={"bytes_per_second": bytes_per_s}, timeout=60).status_code == 200


def half_way(service: Service, ref: str, at_least: int) -> tuple[str, SseClient]:
    """A download of which so many bytes have arrived and which is slow from then on, and one who watches it."""
    limit(service, SLOW_BYTES_PER_S)
    found = under_way(service, ref, at_least)
    limit(service, MIB)
    return found


def gguf(size: int, seed: int) -> bytes:
    return b"GGUF\3\0\0\0" + b"\1" * 16 + read_all(SyntheticFile(size, seed=seed))


SMALL = gguf(1000, 1)
PARTS = gguf(12 * MIB, 2)
LARGE, OTHER = gguf(40 * MIB, 3), gguf(40 * MIB, 4)
#: Bytes a second that leave time to see how far a download is.
SLOW_BYTES_PER_S = 8 * MIB


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with stopping(MotoServer()) as made:
        yield made
    assert "Traceback" not in made.output, made.output


@pytest.fixture(scope="module")
def service(moto: MotoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """With one worker. What it has written in the end has no secret."""
    folder = tmp_path_factory.mktemp("s")
    with EmbeddedRedis(tmp_path_factory.mktemp("r")) as redis:
        env = environment(redis.url, folder, HIVE_DRAIN_S="0.2", HF_TOKEN="", HIVE_LOG_LEVEL="debug", **KEY)
        made = Service({**env, "HIVE_BUCKETS": "s3://models,s3://none", "AWS_ENDPOINT_URL": moto.url}, 1)
        try:
            yield made
        finally:
            made.stop()
        places = [
            ("the server's log", made.server.output.encode()),
            ("the workers' log", made.workers.output.encode()),
            *written_below(redis.home, folder),
        ]
    check_none_in(places, SECRETS)


@pytest.mark.parametrize(
    "key",
    ["a folder/m 1+2.gguf", "é/ü%.gguf", "%41%2F+.gguf", "q?x=1&y#z;,.gguf", "(1)'*!~@:$.gguf", "模型/🦙.gguf"],
)
def test_an_object_comes_whatever_it_is_called(service: Service, moto: MotoServer, key: str) -> None:
    moto.put(key, SMALL, SMALL)
    end = service.bring(f"s3://models/{quote(key)}")
    assert (end["stage"], end["verified"]) == ("complete", True), end
    assert Path(end["local_path"]).read_bytes() == SMALL


def test_the_checksum_of_an_object_is_compared_and_that_of_its_parts_is_none(
    service: Service, moto: MotoServer
) -> None:
    moto.put("sum.gguf", SMALL, SMALL)
    moto.put("wrong.gguf", SMALL, LARGE)
    parts = S3Store(
        "models",
        config={"endpoint": moto.url, "checksum_algorithm": "sha256", "access_key_id": "a", "secret_access_key": "b"},
        client_options={"allow_http": True},
    )
    obstore.put(parts, "parts.gguf", PARTS, use_multipart=True, chunk_size=5 * MIB)
    end = service.bring("s3://models/sum.gguf")
    assert (end["stage"], end["verified"]) == ("complete", True)
    assert service.bring("s3://models/wrong.gguf")["code"] == "CHECKSUM_MISMATCH"
    end = service.bring("s3://models/parts.gguf")
    assert (end["stage"], end["verified"]) == ("complete", False), end
    assert Path(end["local_path"]).read_bytes() == PARTS


def test_what_is_not_there_is_told_as_that(service: Service, moto: MotoServer) -> None:
    moto.put("gone.gguf", SMALL)
    moto.delete("gone.gguf")
    for ref in ("s3://models/none.gguf", "s3://models/gone.gguf"):
        end = service.bring(ref)
        said = f"There is no {ref}. It says: The specified key does not exist."
        assert (end["code"], end["message"]) == ("FILE_NOT_FOUND", said)
    done = hive(service, "pull", "s3://none/m.gguf")
    assert done.returncode == 1
    assert "There is no s3://none/m.gguf. It says: The specified bucket does not exist" in done.stderr


def test_a_killed_worker_s_object_goes_on_where_it_was(service: Service, moto: MotoServer) -> None:
    moto.put("large.gguf", LARGE)
    download_id, client = half_way(service, "s3://models/large.gguf", 20 * MIB)
    (horse,) = children(service.busy_worker(download_id)["pid"])
    before = len(moto.asked("large.gguf"))
    os.kill(horse, signal.SIGKILL)
    limit(service, None)
    end = client.wait(60).last
    assert (end["stage"], end["attempt"]) == ("complete", 2), end
    assert Path(end["local_path"]).read_bytes() == LARGE
    again = [re.findall(r"\d+", entry["range"]) for entry in moto.asked("large.gguf")[before:]]
    # With room for what was not in the journal yet, and for ends of parts that two connections asked for.
    assert sum(int(last) - int(first) + 1 for first, last in filter(None, again)) < len(LARGE) - 8 * MIB, again


@pytest.mark.parametrize("summed", [False, True], ids=["without a checksum", "with a checksum"])
def test_an_object_that_is_replaced_half_way_comes_as_it_is_then_or_is_told_as_that(
    service: Service, moto: MotoServer, summed: bool
) -> None:
    ref, key = f"s3://models/changing-{summed}.gguf", f"changing-{summed}.gguf"
    moto.put(key, LARGE, LARGE if summed else None)
    _, client = half_way(service, ref, 4 * MIB)
    moto.put(key, OTHER, OTHER if summed else None)
    limit(service, None)
    end = client.wait(60).last
    if summed:
        assert (end["stage"], end["code"]) == ("error", "SOURCE_CHANGED"), end
        # Once on each connection: another try would be refused as well.
        assert 1 <= [entry["status"] for entry in moto.asked(key)].count(412) <= 4
        end = service.bring(ref)
    assert (end["stage"], end["verified"]) == ("complete", summed), end
    assert Path(end["local_path"]).read_bytes() == OTHER


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ", verified"),
        ({"AWS_SESSION_TOKEN": "another"}, "It says: InvalidToken [MODEL_ACCESS_DENIED]"),
        ({"AWS_SECRET_ACCESS_KEY": "another"}, "It says: SignatureDoesNotMatch [MODEL_ACCESS_DENIED]"),
    ],
    ids=["right", "another token", "another secret"],
)
def test_the_token_of_a_role_opens_an_object_to_a_command_on_its_own(
    moto: MotoServer, tmp_path: Path, changed: dict[str, str], said: str
) -> None:
    moto.put("role.gguf", SMALL, SMALL)
    env = environment("", tmp_path, AWS_ENDPOINT_URL=moto.url, HIVE_HOST="127.0.0.1:1", **{**ROLE, **changed})
    done = pull({name: value for name, value in env.items() if value}, "s3://models/role.gguf")
    assert done.code == len(changed), done.err
    assert said in done.err
    check_none_in([("output", (done.out + done.err).encode()), *written_below(tmp_path)], SECRETS)
