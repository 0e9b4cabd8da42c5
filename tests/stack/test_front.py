"""What clients and neighbours see of the stack: addresses, keys, TLS, and what the containers may do."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import time

import pytest
import requests

from tests.stack.compose import LOOK_S, Project, inspect, run
from tests.stack.images import wanted
from tests.stack.world import GID, REQUEST_S, UID, World, free_port
from tests.support.waiting import wait_for

#: Bytes of the image on top of its base.
MAX_IMAGE_BYTES = 120_000_000
#: A token that must not be found anywhere.
SECRET = "hf_canary"
IMAGE = os.environ.get("HIVE_TEST_IMAGE", "hive")


def test_nothing_but_the_balancer_is_published(quiet_world: World) -> None:
    for service in ("api", "worker", "redis", "balancer"):
        for container in quiet_world.project.containers(service):
            published = [ports for ports in inspect(container)["NetworkSettings"]["Ports"].values() if ports]
            assert bool(published) == (service == "balancer")
            assert all(port["HostIp"] == "127.0.0.1" for ports in published for port in ports)


def test_containers_run_as_the_user_that_was_named_and_change_nothing_of_the_image(quiet_world: World) -> None:
    for service in ("api", "worker"):
        container = quiet_world.project.containers(service)[0]
        assert run("docker", "exec", container, "id", "-u").stdout.strip() == str(UID)
        assert run("docker", "exec", container, "id", "-g").stdout.strip() == str(GID)
        assert run("docker", "exec", container, "touch", "/app/x", check=False).returncode != 0
        host = inspect(container)["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["Memory"]
        assert host["PidsLimit"]


def test_the_image_is_small_and_has_no_tools_to_build_with() -> None:
    sizes = {
        name: json.loads(run("docker", "image", "inspect", name).stdout)[0]["Size"] for name in (wanted()[0], IMAGE)
    }
    added = sizes[IMAGE] - sizes[wanted()[0]]
    print(f"the image adds {added / 1e6:.0f} MB to its base")
    assert added <= MAX_IMAGE_BYTES
    found = run(
        "docker",
        "run",
        "--rm",
        "--network",
        "none",
        "--entrypoint",
        "sh",
        IMAGE,
        "-c",
        "for tool in cc gcc make hatchling; do command -v $tool; done; ls /app/bin; id -u; id -g",
    ).stdout
    assert not {"cc", "gcc", "make", "pip", "hatchling"} & {line.rpartition("/")[2] for line in found.split()}
    config = json.loads(run("docker", "image", "inspect", IMAGE).stdout)[0]["Config"]
    assert config["Healthcheck"]["Test"]
    assert config["User"] == "1000:0"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_a_client_is_known_by_its_own_address_and_not_by_what_it_says(quiet_world: World) -> None:
    """A neighbour in the balancer's network asks for a model, with a forged header."""
    code = (
        "import socket, urllib.request as u\n"
        'body = b\'{"model_ref": "hf:stack/no-such/model.gguf"}\'\n'
        "request = u.Request('http://balancer:8080/v1/models/download', body, {'X-Forwarded-For': '203.0.113.9'})\n"
        "print(socket.gethostbyname(socket.gethostname()), u.urlopen(request, timeout=20).status)"
    )
    network = quiet_world.project.network("edge")
    said = run(
        "docker", "run", "--rm", "--network", network, "--entrypoint", "python", IMAGE, "-c", code
    ).stdout.split()
    assert said[1] == "202"
    logged = quiet_world.project("logs", "--no-color", "--tail=200", "api").stdout
    addresses = re.findall(r'"address": "([^"]+)", "method": "POST"', logged)
    assert said[0] in addresses
    assert "203.0.113.9" not in logged


def test_the_password_of_redis_stands_in_its_files_only(quiet_world: World) -> None:
    (redis,) = quiet_world.project.containers("redis")
    password = run("docker", "exec", redis, "cat", "/run/redis-auth/password").stdout
    assert len(password) == 64
    for service in ("api", "worker", "redis", "prepare"):
        for container in quiet_world.project.containers(service):
            assert password not in json.dumps(inspect(container))
            assert password not in run("docker", "logs", container).stdout
    refused = run("docker", "exec", redis, "valkey-cli", "ping")
    assert "NOAUTH" in refused.stdout + refused.stderr


@pytest.fixture
def beyond(quiet_world: World, project: Project) -> str:
    """An address of this machine that is none of the loopback, and that nobody outside reaches: a network's gateway."""
    network = json.loads(run("docker", "network", "inspect", quiet_world.project.network("edge")).stdout)[0]
    address: str = network["IPAM"]["Config"][0]["Gateway"]
    project.env |= {"HIVE_BIND": address, "HIVE_PORT": str(free_port())}
    return address


@pytest.mark.takes(150)
def test_beyond_the_loopback_it_takes_a_key_and_tls_has_a_name(
    quiet_world: World, project: Project, beyond: str
) -> None:
    url = f"http://{beyond}:{project.env['HIVE_PORT']}"
    project("up", "-d", "balancer")
    wait_for(lambda: "does not serve at" in project("logs", "api").stdout, "the server does not refuse", look_s=LOOK_S)
    answer = requests.get(f"{url}/v1/models?ticket={SECRET}", headers={"X-HF-Token": SECRET}, timeout=REQUEST_S)
    assert answer.status_code in (502, 503)
    said = project("logs", "balancer").stdout
    assert "/v1/models" in said
    assert SECRET not in said

    # Made before a server runs, and from then on everybody needs one.
    key = project("run", "--rm", "-T", "api", "key", "new", "--name", "me", "--scopes", "admin").stdout.strip()
    key = re.findall(r"hive_[\w-]+", key)[-1]
    wait_for(lambda: _status(f"{url}/v1/models") == 401, "the server does not start with a key", 120.0, LOOK_S)
    assert _status(f"{url}/v1/models", key) == 200
    assert _status(f"{url}/v1/models", key + "x") == 401

    project.env["HIVE_SITE"] = "hive.local"
    start_s = time.monotonic()
    project("up", "-d", "balancer")
    (balancer,) = project.containers("balancer")
    root = "/data/caddy/pki/authorities/local/root.crt"
    certificate = wait_for(
        lambda: run("docker", "exec", balancer, "cat", root, check=False).stdout, "no certificate", look_s=LOOK_S
    )
    port = int(project.env["HIVE_HTTPS_PORT"])
    wait_for(lambda: _status_over_tls(beyond, port, certificate, key) == 200, "no TLS by the name", look_s=LOOK_S)
    quiet_world.note("TLS by HIVE_SITE: ready after", time.monotonic() - start_s)
    assert _status_over_tls(beyond, port, certificate, "") == 401


def _status(url: str, key: str = "") -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        return requests.get(url, headers=headers, timeout=REQUEST_S).status_code
    except requests.ConnectionError:
        return 0


def _status_over_tls(address: str, port: int, certificate: str, key: str) -> int:
    """The status of a request to hive.local at this address, whose certificate must be of this authority."""
    context = ssl.create_default_context(cadata=certificate)
    try:
        with (
            socket.create_connection((address, port), REQUEST_S) as plain,
            context.wrap_socket(plain, server_hostname="hive.local") as secure,
        ):
            lines = ["GET /v1/models HTTP/1.1", "Host: hive.local", "Connection: close"]
            lines += [f"Authorization: Bearer {key}"] if key else []
            secure.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
            return int(secure.recv(64).split()[1])
    except (OSError, IndexError):
        return 0
