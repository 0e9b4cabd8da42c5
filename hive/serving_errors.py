"""What goes wrong with models in memory: a branch of the error tree (hive/error_codes.py)."""

from __future__ import annotations

from hive.errors import HiveError


class ServingError(HiveError):
    """A model in memory has failed."""

    status = 500
    code = "INTERNAL"


class ModelNotLoaded(ServingError):
    """No worker has this model in memory. Load it with POST /v1/workers/spawn, or set HIVE_AUTOLOAD=1."""

    status = 503
    code = "MODEL_NOT_LOADED"


class ModelLoading(ServingError):
    """The model is being loaded. Watch it at GET /v1/loading/progress, or try again as Retry-After says."""

    status = 503
    code = "MODEL_LOADING"


class AllSlotsBusy(ServingError):
    """Every slot of the model is taken. Try again in a moment, or spawn the worker with more `slots`."""

    status = 503
    code = "ALL_SLOTS_BUSY"


class WorkerDraining(ServingError):
    """The worker is ending. Load the model again with POST /v1/workers/spawn."""

    status = 503
    code = "WORKER_DRAINING"


class NoPortFree(ServingError):
    """Every port of HIVE_LLM_PORTS is taken. End a worker with DELETE /v1/workers/{id}, or allow more ports."""

    status = 503
    code = "NO_PORT_FREE"


class InsufficientRam(ServingError):
    """There is not enough memory for this model. End other workers, choose a smaller variant or a smaller context."""

    status = 507
    code = "INSUFFICIENT_RAM"


class VramExhausted(ServingError):
    """The device has not enough memory for this model. Choose a smaller variant, another device, or the cpu."""

    status = 507
    code = "VRAM_EXHAUSTED"


class LoadingTimeout(ServingError):
    """The engine does not get ready. Its log says how far it came."""

    status = 504
    code = "LOADING_TIMEOUT"


class EngineFailed(ServingError):
    """The engine ended while it loaded the model. `details` has its last lines."""

    status = 502
    code = "ENGINE_FAILED"


class InferenceFailed(ServingError):
    """The engine could not answer."""

    status = 502
    code = "INFERENCE_FAILED"
