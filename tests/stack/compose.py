"""The compose file as a running project: up, down, its containers, and what is done to them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.support.waiting import wait_for

ROOT: Final = Path(__file__).parents[2]
#: Seconds for any one command.
COMMAND_S: Final = 300.0
#: Seconds until a container is healthy, and between two looks, each of which starts a program.
HEALTHY_S: Final = 120.0
LOOK_S: Final = 0.5
#: Lines of a container's log that are shown where a test fails.
TAIL_LINES: Final = 30
#: What a container needs of the environment; what else is there must not decide what the stack does.
KEPT: Final = ("PATH", "HOME", "DOCKER_HOST")


def run(*command: str, env: Mapping[str, str] | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command of the engine. Raises AssertionError with what it said."""
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=COMMAND_S, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0 or not check, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
    return done


def compose_command() -> tuple[str, ...]:
    """Compose 2 where it is there, else 1."""
    has_v2 = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    found = ("docker", "compose") if has_v2 else ("docker-compose",)
    assert shutil.which(found[0]), "no compose is installed"
    return found


class Project:
    """The stack under a name of its own, with settings that take the place of .env."""

    def __init__(self, name: str, env: Mapping[str, str], *files: str) -> None:
        self.name = name
        self.env = {key: os.environ[key] for key in KEPT if key in os.environ} | dict(env)
        self._files = [part for file in ("docker-compose.yml", *files) for part in ("-f", file)]

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`docker compose ARGUMENT...`"""
        command = (*compose_command(), "-p", self.name, "--env-file", ".env.example", *self._files, *arguments)
        return run(*command, env=self.env, check=check)

    def containers(self, service: str) -> list[str]:
        """Ids of a service's containers, in the order of their numbers."""
        label = f"label=com.docker.compose.service={service}"
        project = f"label=com.docker.compose.project={self.name}"
        out = run("docker", "ps", "-a", "-q", "--no-trunc", "--filter", project, "--filter", label).stdout.split()
        return sorted(out, key=lambda id: str(inspect(id)["Name"]))

    def wait_until_healthy(self, service: str) -> None:
        """All containers of a service are."""
        for container in self.containers(service):
            wait_for(
                lambda container=container: health(container) == "healthy",  # type: ignore[misc]
                f"{service} is not healthy",
                HEALTHY_S,
                LOOK_S,
            )

    def logs(self) -> str:
        """What all of them said last."""
        return self("logs", "--no-color", f"--tail={TAIL_LINES}", check=False).stdout

    def network(self, name: str) -> str:
        """The engine's name of one of its networks."""
        return f"{self.name}_{name}"

    def down(self) -> None:
        """No container, network or volume of it is left."""
        self("--profile", "monitoring", "down", "-v", "--remove-orphans", "-t", "5", check=False)


def sweep(prefix: str) -> None:
    """No container, network or volume is left of projects whose names begin so, whoever was killed before its end."""
    listed = {
        "container": ("ps", "-a", "--format", '{{.ID}} {{.Label "com.docker.compose.project"}}'),
        "network": ("network", "ls", "--format", '{{.ID}} {{.Label "com.docker.compose.project"}}'),
        "volume": ("volume", "ls", "--format", '{{.Name}} {{.Label "com.docker.compose.project"}}'),
    }
    for kind, command in listed.items():
        lines = [line.split() for line in run("docker", *command, check=False).stdout.splitlines()]
        if found := [line[0] for line in lines if len(line) > 1 and line[1].startswith(prefix)]:
            force = () if kind == "network" else ("--force",)
            run("docker", kind, "rm", *force, *found, check=False)


def inspect(container: str) -> dict[str, Any]:
    """What the engine knows of it."""
    found: list[dict[str, Any]] = json.loads(run("docker", "inspect", container).stdout)
    return found[0]


def health(container: str) -> str:
    """`starting`, `healthy`, `unhealthy`, or "" where nobody looks."""
    return str(inspect(container)["State"].get("Health", {}).get("Status", ""))
