"""A stand-in of llama-server that makes tokens at a set rate and costs little: `token_source.py` with its options.

How many tokens a second each stream gets is in TOKENS_PER_S, because hive passes on nothing of its own to an engine.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
import time
from pathlib import Path

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"


def write_program(path: Path, tokens_per_s: float) -> Path:
    """An executable that makes so many tokens a second for each stream."""
    here = Path(__file__).resolve()
    path.write_text(f'#!/bin/sh\nTOKENS_PER_S={tokens_per_s} exec {sys.executable} {here} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate_per_s: float) -> None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if head.startswith("GET"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
            await writer.drain()
            return
        length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])
        asked = json.loads(await reader.readexactly(length))
        count = asked.get("n_predict") or asked.get("max_tokens") or 16
        writer.write(_HEAD)
        began_s = time.monotonic()
        for number in range(count):
            event = {"index": 0, "content": f" w{number}", "stop": False, "tokens_predicted": number + 1}
            writer.write(_chunk(b"data: " + json.dumps(event).encode() + b"\n\n"))
            await writer.drain()
            await asyncio.sleep(max(began_s + (number + 1) / rate_per_s - time.monotonic(), 0))
        end = {"content": "", "stop": True, "tokens_predicted": count, "stop_type": "limit"}
        writer.write(_chunk(b"data: " + json.dumps(end).encode() + b"\n\n") + b"0\r\n\r\n")
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _main() -> None:
    rate_per_s = float(os.environ["TOKENS_PER_S"])
    path = sys.argv[sys.argv.index("--host") + 1]
    server = await asyncio.start_unix_server(lambda r, w: _answer(r, w, rate_per_s), path, backlog=1024)
    print('cmd_child_to_router:state:{"state":"ready","payload":{}}', flush=True)
    end = asyncio.create_task(asyncio.to_thread(sys.stdin.buffer.read))
    async with server:
        await end


if __name__ == "__main__":
    asyncio.run(_main())
