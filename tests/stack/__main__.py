"""`scripts/stack-test`: the compose file on a Docker engine.

scripts/stack-test                    all of it; further arguments go to pytest
scripts/stack-test --budget 600       what can be over after so many seconds; the rest is left out, aloud
HIVE_STACK_CACHE=DIR scripts/stack-test --prepare      only makes what the images are made of, which needs no engine
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Final

from tests.stack import images
from tests.stack.budget import ENDS_AT, remaining_s
from tests.stack.compose import sweep
from tests.stack.engine import NoEngine, running_engine, see_that_it_runs_containers
from tests.stack.world import PROJECT

#: The exit code that says: nothing was tested, for there is no engine and there can be none.
NO_ENGINE: Final = 77
#: Seconds for the tests to take their containers away when they are stopped.
CLEAN_UP_S: Final = 60.0
#: Seconds that are left when the image is built, below which the stack is not even started.
WORTH_S: Final = 120.0


def main(arguments: list[str]) -> int:
    """Run the tests with an engine; pytest takes the arguments that are not ours."""
    try:
        if arguments == ["--prepare"]:
            print(images.prepare())
            return 0
        if arguments[:1] == ["--budget"]:
            os.environ[ENDS_AT] = str(time.monotonic() + float(arguments[1]))
            arguments = arguments[2:]
        with running_engine() as address:
            os.environ["DOCKER_HOST"] = os.environ["HIVE_TEST_ENGINE"] = address
            _prepare()
            # Both stacks at once: most of the time is waiting for containers.
            command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "-n", "2", "--dist", "loadfile"]
            try:
                return _run([*command, "tests/stack", *arguments])
            finally:
                sweep(PROJECT)
    except NoEngine as error:
        print(f"stack-test: NOTHING WAS TESTED: {error}", file=sys.stderr)
        return NO_ENGINE


def _run(command: list[str]) -> int:
    """The exit code of a command, which is told when this process is, and cleans up."""
    with subprocess.Popen(command) as child:
        try:
            return child.wait()
        except (KeyboardInterrupt, SystemExit):
            child.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                child.wait(CLEAN_UP_S)
            raise


def _prepare() -> None:
    """The images that the stack begins with, and hive's own, built by the Dockerfile."""
    start_s = time.monotonic()
    for name, what in images.provide().items():
        print(f"{name}: {what}", flush=True)
    see_that_it_runs_containers(images.wanted()[0])
    print(f"base images after {time.monotonic() - start_s:.0f} s", flush=True)
    start_s = time.monotonic()
    image = os.environ.setdefault("HIVE_TEST_IMAGE", "hive-stack-test")
    subprocess.run(["docker", "build", "--quiet", "--tag", image, str(images.ROOT)], check=True)
    print(f"the image is built after {time.monotonic() - start_s:.0f} s", flush=True)
    if remaining_s() < WORTH_S:
        raise NoEngine(f"the images took so long that {remaining_s():.0f} s of the budget are left")


def _end(signum: int, frame: object) -> None:
    sys.exit(128 + signum)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main(sys.argv[1:]))
