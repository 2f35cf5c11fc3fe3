"""The process that touches the device. It measures cases for its parent, and may die without taking the run along.

The parent (``halobench.measure.session``) sends cases through a pipe and gets rows back. An illegal memory access, a
hang or a crash ends this process only; the parent starts another and goes on with the next case.
"""

import io
import os
import signal
import sys
import threading
import time
import warnings
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from halobench.attention import backends
from halobench.attention.problem import Unsupported
from halobench.cases.network import AnyCase, NetworkCase
from halobench.machine import ceilings, cgroup, load
from halobench.machine.clock import Clock, clock_for
from halobench.machine.environment import fingerprint
from halobench.machine.memory import ran_out
from halobench.measure import engine, graphs
from halobench.measure.engine import Incorrect, Settings
from halobench.measure.graphs import Uncapturable
from halobench.measure.memory import release
from halobench.measure.rivals import Rivals

Reply = dict[str, Any]
BEFORE_S = 0.3  # for which the machine is watched before anything is measured
LEAK_BYTES = 2**30  # more than caches of compilers and of the oracle, less than what the next case would miss


def serve(pipe: Connection, settings: Settings, log: Path) -> None:
    """Answer requests until the pipe closes: ``("environment", dtype, known ceilings)`` or ``("case", case)``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it closes the pipe
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    redirect_output(log)
    warnings.simplefilter("ignore")
    # float32 means float32: convolutions use TF32 by default, attention does not.
    torch.backends.cudnn.allow_tf32 = False
    limit_threads()
    graphs.adopt(settings.device)
    clock = clock_for(settings.device, hot=settings.hot)
    rivals = Rivals[Any]()
    scope: object = None
    compiled = False
    held = held_bytes(settings.device)
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        if request[0] == "environment":
            started = time.monotonic()
            before = asdict(load.watch(settings.device, BEFORE_S))
            best = (request[2] or ceilings.measure(settings.device, request[1])) if settings.timed else None
            measured_s = time.monotonic() - started
            reply: Reply = {"fingerprint": fingerprint(settings.device), "load": before, "measured_s": measured_s}
            reply["ceilings"] = None if best is None else asdict(best)
            pipe.send((reply, False))
            continue
        _, case = request
        if case.scope != scope:
            scope = case.scope
            rivals.clear()
            if compiled:
                torch.compiler.reset()  # the compiler keeps eight shapes of a function, then gives up
                compiled = False
            release()
        stuck = False
        try:
            reply = answer(case, clock, settings, rivals)
        except Uncapturable as error:
            reply, stuck = {"status": "CRASHED", "reason": str(error)}, True
        compiled = compiled or case.compiles or compiles(case.backend)
        left = held_bytes(settings.device) - held - rivals.held_bytes
        if left > LEAK_BYTES:
            reply["leaked_bytes"] = left
        # A CUDA error sticks to its process, and so do a broken capture and what leaked: the parent starts another one.
        last = stuck or left > LEAK_BYTES or not healthy(settings.device)
        pipe.send((reply, last))
        if last:
            return


def limit_threads() -> None:
    """Use no more threads than the container's quota has processors, unless the user has said how many.

    PyTorch knows the processors that a process may be put on, and no quota; threads beyond it would be throttled.
    """
    if not any(name in os.environ for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")):
        torch.set_num_threads(min(torch.get_num_threads(), cgroup.workers()))


def end_with(parent: int) -> None:
    """End this process soon after its parent is gone, even in the middle of a call that hangs."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


@cache  # it is asked after every case, and looking for backends takes some ms
def compiles(name: str) -> bool:
    """Whether a backend has compiled something by now."""
    try:
        return backends.load(name).compiles
    except Exception:  # noqa: BLE001 - whatever kept it from loading, it has compiled nothing
        return False


def answer(case: AnyCase, clock: Clock, settings: Settings, rivals: Rivals[Any]) -> Reply:
    """The measured fields of a case's row with its status and, where it failed, the reason.

    Raises:
        Uncapturable: a call could not be captured as a CUDA graph, and this process is worth nothing any more.
    """
    try:
        return {"status": "OK", "reason": None, **measured(case, clock, settings, rivals)}
    except Uncapturable:
        raise
    except ModuleNotFoundError as error:
        return {"status": "MISSING", "reason": f"needs the package {error.name}, which is not installed"}
    except Unsupported as error:
        return {"status": "UNSUPPORTED", "reason": str(error)}
    except Incorrect as error:
        return {"status": "INCORRECT", "reason": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever a backend raises is a row, and the run goes on
        status = "OOM" if ran_out(error) else "CRASHED"
        failure = {"status": status, "reason": one_line(error)}
    release()  # after the exception is gone, with the tensors its frames held
    if torch.cuda.is_initialized():
        with suppress(RuntimeError):  # the device may be lost: ``healthy`` ends this process then
            torch.cuda.empty_cache()
    return failure


def measured(case: AnyCase, clock: Clock, settings: Settings, rivals: Rivals[Any]) -> Reply:
    """The measured fields of a case's row."""
    if not isinstance(case, NetworkCase):
        return engine.measure(case, clock, settings)
    from halobench.measure import networks  # noqa: PLC0415 - it imports timm: three seconds that other cases need not wait

    return networks.measure(case, clock, settings, rivals)


def one_line(error: Exception) -> str:
    """An exception as one line of a report."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


def held_bytes(device: str) -> int:
    """Memory that this process holds: tensors on the GPU, everything on the CPU (0 where nobody can say)."""
    if torch.device(device).type == "cuda":
        return torch.cuda.memory_allocated()
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def healthy(device: str) -> bool:
    """Whether the device still answers."""
    if torch.device(device).type != "cuda":
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def redirect_output(log: Path) -> None:
    """Send everything that backends and compilers print, C code included, to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a line belongs to the case that printed it
