"""Workers on several GPUs of one host, side by side: each measures a shard of the run's cases on a GPU of its own."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from halobench.cases.network import AnyCase
from halobench.cases.shard import Shard
from halobench.measure.engine import Settings
from halobench.measure.session import Session
from halobench.measure.worker import serve
from halobench.records.roofline import Ceilings

Fields = dict[str, Any]
VISIBLE = "CUDA_VISIBLE_DEVICES"


class Fleet:
    """As one session, whose cases were begun before they are asked for; each session has a thread that waits for it."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self.sessions = sessions
        self._rows: dict[str, Future[Fields]] = {}
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()

    @classmethod
    def of_all_gpus(cls, settings: Settings, count: int) -> "Fleet":
        """A session on each of the ``count`` GPUs that this process sees."""
        named = [name for name in os.environ.get(VISIBLE, "").split(",") if name] or [*map(str, range(count))]
        return cls([Session(settings, target=partial(serve_on, name)) for name in named[:count]])

    def environment(self, dtype: str, known: Ceilings | None = None) -> Fields:
        """That of the first GPU; its ceilings hold for all.

        Raises:
            RuntimeError: a device cannot be used, or they are of several kinds.
        """
        first, *others = self.sessions
        found = first.environment(dtype, known)
        measured = Ceilings(**found["ceilings"]) if found["ceilings"] else None
        for session in others:
            other = session.environment(dtype, measured)
            kinds = [((each["fingerprint"] or {}).get("gpu") or {}).get("name") for each in (found, other)]
            if kinds[0] != kinds[1]:
                raise RuntimeError(f"--devices all needs GPUs of one kind, got {kinds[0]} and {kinds[1]}")
        return found

    def begin(self, cases: Sequence[AnyCase], keep: Callable[[Fields], None]) -> None:
        """Measure these cases; ``keep`` gets each row as soon as it is there, one at a time."""
        self._rows = {case.name: Future() for case in cases}
        lock = threading.Lock()
        for number, session in enumerate(self.sessions, 1):
            taken = Shard(number, len(self.sessions)).takes(cases)
            own = [case for case, mine in zip(cases, taken, strict=True) if mine]
            thread = threading.Thread(target=self._work, args=(session, own, keep, lock), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(
        self, session: Session, cases: Sequence[AnyCase], keep: Callable[[Fields], None], lock: threading.Lock
    ) -> None:
        for case in cases:
            if self._closed.is_set():
                return
            try:
                row = session.measure(case)
                with lock:
                    if self._closed.is_set():  # the row is that of a worker that was ended
                        return
                    keep(row)
            except Exception as error:  # noqa: BLE001 - whoever asks for the row is to see it
                self._rows[case.name].set_exception(error)
            else:
                self._rows[case.name].set_result(row)

    def measure(self, case: AnyCase) -> Fields:
        """The row of a case, once it is there."""
        return self._rows[case.name].result()

    def close(self) -> None:
        """End all workers; what they have not measured is not measured."""
        self._closed.set()
        for session in self.sessions:
            session.kill()
        for thread in self._threads:
            thread.join()
        for session in self.sessions:
            session.close()


def serve_on(gpu: str, pipe: Connection, settings: Settings, log: Path) -> None:
    """``worker.serve``, with this GPU the only one to be seen; nothing has asked for one before."""
    os.environ[VISIBLE] = gpu
    serve(pipe, settings, log)
