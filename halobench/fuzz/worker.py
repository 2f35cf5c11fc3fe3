"""The process that tries a backend, trial by trial; a crash or a hang ends it alone (see ``measure.session``)."""

import os
import signal
import threading
import time
import warnings
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

from halobench.attention import backends
from halobench.attention.problem import Unsupported
from halobench.fuzz.draw import Trial
from halobench.fuzz.judge import judge
from halobench.machine.memory import ran_out
from halobench.measure import graphs
from halobench.measure.engine import Settings
from halobench.measure.memory import release
from halobench.measure.worker import end_with, healthy, one_line, redirect_output

Reply = dict[str, Any]


class Request(NamedTuple):
    """A trial of a backend, or with ``None`` only its import. ``scope``: a compiler starts afresh where it changes."""

    backend: str
    trial: Trial | None
    scope: object = None


def serve(pipe: Connection, settings: Settings, log: Path) -> None:
    """Answer requests, the fields of a ``Request``, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    redirect_output(log)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # there are several workers, and small problems
    torch.backends.cudnn.allow_tf32 = False
    graphs.adopt(settings.device)
    scope: object = None
    while True:
        try:
            request = Request(*pipe.recv())
        except EOFError:
            return
        if request.trial is not None and request.scope != scope:
            scope = request.scope
            begin_anew(request.backend)
        reply = answer(request, settings.device)
        last = not healthy(settings.device)
        pipe.send((reply, last))
        if last:
            return


def begin_anew(name: str) -> None:
    """Forget what compilers know of earlier shapes: they give up after a few."""
    if backends.load(name).compiles:
        torch.compiler.reset()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def answer(request: Request, device: str) -> Reply:
    """What became of a request: status, reason, and for a trial errors, budgets, wrong tensors and seconds."""
    started = time.monotonic()
    try:
        backend = backends.load(request.backend)
        if request.trial is None:
            return {"status": "OK", "reason": None}
        judged = asdict(judge(backend, request.trial, device))
    except Unsupported as refusal:
        judged = {"status": "UNSUPPORTED", "reason": str(refusal)}
    except Exception as error:  # noqa: BLE001 - whatever a backend raises is a result
        judged = {"status": "OOM" if ran_out(error) else "CRASHED", "reason": one_line(error)}
        release()
    return {**judged, "seconds": round(time.monotonic() - started, 4)}
