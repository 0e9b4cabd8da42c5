"""llama.cpp's server of the package xllamacpp, as a program: `python -m workers.inference.xllamacpp_server JSON`.

The package runs the server in threads of the process that makes it; a process of its own is what keeps a crash, or a
kill for want of memory, away from everything else.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

import xllamacpp


def parameters(options: dict[str, Any]) -> Any:
    """The server's parameters for what `EngineSpec` says."""
    found = xllamacpp.CommonParams()
    found.model.path = options["path"]
    found.hostnames = [options["socket"]]
    found.n_parallel = options["slots"]
    found.n_ctx = options["context"] * options["slots"]
    found.load_mode = getattr(xllamacpp.llama_load_mode, f"LLAMA_LOAD_MODE_{options['load_mode'].upper()}")
    found.n_gpu_layers = 0
    if options["threads"]:
        found.cpuparams.n_threads = found.cpuparams_batch.n_threads = options["threads"]
    found.fit_params = False
    found.ui = False
    found.offline = True
    found.model_alias = {options["name"]}
    if options["embeddings"]:
        found.embedding = True
    if options["batch_tokens"]:
        found.n_batch = found.n_ubatch = options["batch_tokens"]
    return found


def main() -> None:
    """Serve until standard input ends."""
    try:
        server = xllamacpp.Server(parameters(json.loads(sys.argv[1])))
    except RuntimeError as error:  # the engine has said why
        sys.exit(str(error))
    assert server.listening_address
    threading.Event().wait()


if __name__ == "__main__":
    main()
