"""Several workers at a time: families are handed out, and what becomes of each trial comes back.

A family stays with one worker, which compiles its kernels once. A worker that dies or hangs is replaced, and its family
goes on with the next trial; the trial that it had is a result.
"""

import queue
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from halobench.fuzz.draw import Family, Trial, family, trial
from halobench.fuzz.worker import Request, serve
from halobench.measure.engine import Settings
from halobench.measure.session import Session

START_S = 180.0  # for a worker to import PyTorch and the backend, beside others that do
MOST_DEATHS = 2  # of workers in a family: then the rest of it is left out
MOST_REFUSED = 1000  # families in a row, then a backend is asked no more


@dataclass(frozen=True)
class Result:
    """A trial of a backend and what became of it; ``answer`` as in ``worker.answer``."""

    backend: str
    family: int
    number: int
    trial: Trial
    answer: dict[str, Any]

    @property
    def status(self) -> str:
        """``OK``, ``UNSUPPORTED``, ``INCORRECT``, ``UNJUDGED``, ``CRASHED``, ``TIMEOUT`` or ``OOM``."""
        return str(self.answer["status"])

    @property
    def tried(self) -> bool:
        """Whether the backend did it, right or wrong."""
        return self.status != "UNSUPPORTED"

    @property
    def failed(self) -> bool:
        """Whether this speaks against the backend."""
        return self.status in FAILURES


FAILURES = ("INCORRECT", "CRASHED", "TIMEOUT")


@dataclass(frozen=True)
class Plan:
    """What is to be done. It ends after ``cases`` trials of each backend that were not refused, or ``seconds``."""

    backends: tuple[str, ...]
    device: str
    dtypes: tuple[str, ...]
    seed: int
    workers: int
    members: int
    timeout_s: float
    cases: int | None
    seconds: float | None


@dataclass
class Course:
    """How far one backend is: families handed out, trials done, and trials that are under way at most."""

    next_family: int = 0
    done: int = 0
    reserved: int = 0
    refused_in_a_row: int = 0


@dataclass
class Schedule:
    """Hands out families, in their order, to the backend with the fewest trials.

    A family that may yet be refused is counted as done in full, so that which families are handed out by the end does
    not depend on how many workers there are.
    """

    plan: Plan
    courses: dict[str, Course] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)
    stopped: bool = False

    def __post_init__(self) -> None:
        self.courses = {name: Course() for name in self.plan.backends}
        self.deadline = None if self.plan.seconds is None else time.monotonic() + self.plan.seconds

    @property
    def over(self) -> bool:
        """Whether nobody should begin another trial."""
        return self.stopped or (self.deadline is not None and time.monotonic() >= self.deadline)

    def take(self) -> tuple[str, Family] | None:
        """The next backend and family; waits while others may make it needless; ``None`` at the end."""
        with self.changed:
            while not self.over:
                wanting = {name: course for name, course in self.courses.items() if self._wants(course)}
                if not wanting:
                    return None
                free = {name: course for name, course in wanting.items() if self._room(course)}
                if free:
                    name = min(free, key=lambda each: free[each].done + free[each].reserved)
                    course = free[name]
                    course.reserved += self.plan.members
                    course.next_family += 1
                    return name, family(self.plan.seed, course.next_family - 1, self.plan.dtypes)
                self.changed.wait(timeout=0.5)
        return None

    def give_back(self, name: str, tried: int) -> None:
        """A family is done, with so many trials that were not refused."""
        with self.changed:
            course = self.courses[name]
            course.reserved -= self.plan.members
            course.done += tried
            course.refused_in_a_row = 0 if tried else course.refused_in_a_row + 1
            self.changed.notify_all()

    def stop(self) -> None:
        """Begin no more trials."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()

    def _wants(self, course: Course) -> bool:
        return course.refused_in_a_row < MOST_REFUSED and (self.plan.cases is None or course.done < self.plan.cases)

    def _room(self, course: Course) -> bool:
        return self.plan.cases is None or course.done + course.reserved < self.plan.cases


def results(plan: Plan, patience_s: float) -> Generator[Result | None, None, None]:
    """All results as they come; ``None`` every ``patience_s`` without one. Closing the generator ends the workers.

    Raises:
        RuntimeError: a worker cannot start.
    """
    schedule, came = Schedule(plan), queue.SimpleQueue[Result | Exception | None]()
    sessions = [Session(Settings(plan.device), plan.timeout_s, serve) for _ in range(plan.workers)]
    threads = [threading.Thread(target=work, args=(session, schedule, came), daemon=True) for session in sessions]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            try:
                result = came.get(timeout=patience_s)
            except queue.Empty:
                yield None
                continue
            if result is None:
                running -= 1
            elif isinstance(result, Exception):
                raise result
            else:
                yield result
    finally:
        schedule.stop()
        for session in sessions:
            session.kill()
        for thread in threads:
            thread.join()
        for session in sessions:
            session.close()


def work(session: Session, schedule: Schedule, came: "queue.SimpleQueue[Result | Exception | None]") -> None:
    """Try families one after the other in one worker, until there are none; then put ``None``."""
    try:
        while (taken := schedule.take()) is not None:
            name, drawn = taken
            tried = 0
            for result in tried_family(session, schedule, name, drawn):
                came.put(result)
                tried += result.tried
            schedule.give_back(name, tried)
    except Exception as error:  # noqa: BLE001 - raised again by whoever reads the results
        came.put(error)
    came.put(None)


def tried_family(session: Session, schedule: Schedule, name: str, drawn: Family) -> Iterator[Result]:
    """The trials of a family. It ends where its first one is refused, and at the second death of a worker."""
    plan, deaths = schedule.plan, 0
    for number in range(plan.members):
        if schedule.over:
            return
        tried = trial(plan.seed, drawn, number)
        answered = attempt(session, name, tried, (name, drawn.number))
        if schedule.stopped:
            return  # and what was under way was killed
        result = Result(name, drawn.number, number, tried, answered)
        yield result
        deaths += not session.alive
        if (number == 0 and not result.tried) or deaths == MOST_DEATHS:
            return


def attempt(session: Session, name: str, tried: Trial, scope: object) -> dict[str, Any]:
    """One trial in the worker, which is started first where there is none, so that starting it takes no trial's time.

    Raises:
        RuntimeError: the worker cannot start, or not load the backend.
    """
    if not session.alive:
        ready = session.request(*Request(name, None), timeout_s=START_S)
        if ready["status"] != "OK":
            raise RuntimeError(f"a worker cannot start: {ready['reason']}")
    return session.request(*Request(name, tried, scope))
