"""A run: cases go to a worker process, rows come back; a worker that hangs or dies becomes a row and is replaced."""

import multiprocessing
import signal
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

from halobench.cases.network import AnyCase
from halobench.machine.cgroup import Cgroup
from halobench.measure.engine import Settings
from halobench.measure.worker import serve
from halobench.records.roofline import Ceilings

Fields = dict[str, Any]
Target = Callable[[Connection, Settings, Path], None]
KILLED = getattr(signal, "SIGKILL", 9)  # Windows knows no such signal, and no negative exit codes
TIMEOUT_S = 180.0  # one case, compilation included; a case's ``patience`` multiplies it


class Session:
    """Measures cases one after the other in a worker process. A context manager: leaving it ends the worker.

    ``timeout_s`` bounds one case; a worker that takes longer is killed and the case's status is ``TIMEOUT``. ``target``
    is what the worker runs: it answers requests from the pipe, and writes what is printed to the file.
    """

    _context = multiprocessing.get_context("spawn")  # a forked child could not use CUDA

    def __init__(self, settings: Settings, timeout_s: float = TIMEOUT_S, target: Target = serve) -> None:
        self.settings = settings
        self.timeout_s = timeout_s
        self.target = target
        self._folder = tempfile.TemporaryDirectory(prefix="halobench-")
        self._log = Path(self._folder.name) / "worker.log"
        self._log_start = 0  # bytes of the log that earlier requests wrote
        self._pipe: Connection | None = None
        self._process: BaseProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker and remove what it wrote."""
        self.stop()
        self._folder.cleanup()

    def environment(self, dtype: str, known: Ceilings | None = None) -> Fields:
        """The fingerprint, the ceilings of the device for ``dtype`` (``None`` when nothing is timed), and their time.

        Ceilings that are known already are not measured again.

        Raises:
            RuntimeError: the device cannot be used at all; the message holds the worker's last words.
        """
        reply = self.request("environment", dtype, known)
        if "status" in reply:
            raise RuntimeError(f"the device {self.settings.device!r} cannot be used: {reply['reason']}")
        return reply

    def measure(self, case: AnyCase) -> Fields:
        """The row of a case: its own columns, and what the worker measured or why it could not."""
        measured = self.request("case", case, timeout_s=self.timeout_s * case.patience)
        return {**case.row(), **measured}

    @property
    def alive(self) -> bool:
        """Whether there is a worker; the next request starts one otherwise."""
        return self._process is not None and self._process.is_alive()

    def kill(self) -> None:
        """End the worker at once, from any thread: a request under way is answered with its death."""
        process = self._process
        if process is not None:
            process.kill()

    def stop(self) -> None:
        """End the worker, if there is one."""
        if self._process is None or self._pipe is None:
            return
        self._pipe.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process = self._pipe = None

    def request(self, *request: object, timeout_s: float | None = None) -> Fields:
        """What the worker answers; its death and its silence are answers too, ``CRASHED`` and ``TIMEOUT``."""
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        if not self.alive:
            self._start()
        assert self._pipe is not None
        assert self._process is not None
        self._log_start = self._log.stat().st_size
        killed = Cgroup().killed()
        try:
            self._pipe.send(request)
            if self._pipe.poll(timeout_s):
                reply, last = self._pipe.recv()
                if last:
                    self.stop()
                return dict(reply)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode or 0
            self._process = self._pipe = None
            if code == -KILLED and (reason := killed_for_memory(killed)):
                return {"status": "OOM", "reason": reason}
            end = f"signal {-code}" if code < 0 else f"exit status {code}"
            return {"status": "CRASHED", "reason": f"the worker ended with {end}{self._last_words()}"}
        self._process.kill()
        self._process.join()
        self._process = self._pipe = None
        return {"status": "TIMEOUT", "reason": f"no answer within {timeout_s:.0f} s"}

    def _start(self) -> None:
        self.stop()
        self._log.write_text("")
        self._pipe, far_end = self._context.Pipe()
        self._process = self._context.Process(target=self.target, args=(far_end, self.settings, self._log), daemon=True)
        self._process.start()
        far_end.close()

    def _last_words(self) -> str:
        said = self._log.read_bytes()[self._log_start :].decode(errors="replace")
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        return f": {lines[-1][:300]}" if lines else ""


def killed_for_memory(before: int | None) -> str | None:
    """Why the kernel killed the worker, if it has killed more for want of memory than ``before``."""
    group = Cgroup()
    after, limit = group.killed(), group.memory_limit()
    if before is None or after is None or after <= before:
        return None
    within = "" if limit is None else f" within the container's limit of {limit / 2**30:.1f} GiB"
    return f"memory ran out{within}: the kernel killed the worker"
