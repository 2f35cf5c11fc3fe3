"""What a container may use, by made-up control groups of both versions, and by a real one where it may be."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from halobench import doctor
from halobench.machine import cgroup, memory
from halobench.machine.cgroup import Cgroup, whole
from halobench.measure import engine, worker
from tests import third_party

GIB = 2**30
V1 = "30 25 0:26 {start} /sys/fs/cgroup/{name} rw,nosuid shared:10 - cgroup cgroup rw,{name}\n"
V2 = "30 25 0:26 {start} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.fixture(autouse=True)
def eight(monkeypatch):
    monkeypatch.setattr(cgroup, "affinity", lambda: 8)


def tree(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return Cgroup(root)


def of_v2(root, files, *, path="/outer/inner", start="/"):
    base = {"proc/self/cgroup": f"0::{path}\n", "proc/self/mountinfo": V2.format(start=start)}
    (root / "sys/fs/cgroup/outer/inner").mkdir(parents=True)
    return tree(root, base | {f"sys/fs/cgroup/{name}": content for name, content in files.items()})


def of_v1(root, files, *, path="/outer/inner", start="/"):
    names = ("memory", "cpu", "cpuset")
    base = {
        "proc/self/cgroup": "".join(f"{at}:{name}:{path}\n" for at, name in enumerate(names, 2)) + "1:name=systemd:/\n",
        "proc/self/mountinfo": "".join(V1.format(name=name, start=start) for name in names),
    }
    return tree(root, base | {f"sys/fs/cgroup/{name}": content for name, content in files.items()})


def test_the_least_limit_along_the_path_counts(tmp_path):
    found = of_v2(
        tmp_path,
        {
            "outer/inner/memory.max": str(8 * GIB), "outer/inner/memory.current": str(GIB),
            "outer/memory.max": str(4 * GIB), "outer/memory.current": str(3 * GIB),
            "outer/memory.stat": f"anon 1\ninactive_file {GIB}\n",
            "outer/inner/cpu.max": "max 100000\n", "outer/cpu.max": "150000 100000\n",
            "outer/inner/cpuset.cpus.effective": "0-2,8\n",
        },
    )  # fmt: skip
    assert found.memory_limit() == 4 * GIB
    assert found.memory_free() == 2 * GIB  # what is cached of files is given back
    assert found.processors() == 1.5


def test_an_inner_limit_may_be_the_tighter_one(tmp_path):
    files = {"outer/inner/memory.max": str(GIB), "outer/inner/memory.current": str(2 * GIB), "outer/memory.max": "max"}
    found = of_v2(tmp_path, files | {"outer/inner/cpuset.cpus.effective": "3"})
    assert (found.memory_limit(), found.memory_free(), found.processors()) == (GIB, 0, 1.0)


def test_version_one(tmp_path):
    found = of_v1(
        tmp_path,
        {
            "memory/outer/inner/memory.limit_in_bytes": "9223372036854771712",
            "memory/outer/memory.limit_in_bytes": str(2 * GIB), "memory/outer/memory.usage_in_bytes": str(GIB),
            "memory/outer/memory.stat": f"total_inactive_file {GIB // 2}\n",
            "memory/outer/inner/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
            "cpu/outer/inner/cpu.cfs_quota_us": "-1", "cpu/outer/inner/cpu.cfs_period_us": "100000",
            "cpu/outer/cpu.cfs_quota_us": "250000", "cpu/outer/cpu.cfs_period_us": "100000",
            "cpu/outer/inner/cpu.stat": "nr_periods 9\nnr_throttled 4\nthrottled_time 1500000000\n",
            "cpuset/outer/inner/cpuset.cpus": "0-3",
        },
    )  # fmt: skip
    assert (found.memory_limit(), found.memory_free()) == (2 * GIB, GIB + GIB // 2)
    assert found.processors() == 2.5
    assert found.throttled_s() == pytest.approx(1.5)
    assert found.killed() == 3


def test_what_version_two_counts(tmp_path):
    files = {"outer/inner/cpu.stat": "usage_usec 5\nnr_throttled 2\nthrottled_usec 250000\n"}
    found = of_v2(tmp_path, files | {"outer/inner/memory.events": "low 0\noom 2\noom_kill 1\n"})
    assert found.throttled_s() == pytest.approx(0.25)
    assert found.killed() == 1


@pytest.mark.parametrize("make", [of_v1, of_v2])
def test_a_container_sees_its_own_group_at_the_mount_point(tmp_path, make):
    """Without a namespace of its own, its path is the host's, and begins with what is mounted."""
    memory = "memory/" if make is of_v1 else ""
    name = "memory.limit_in_bytes" if make is of_v1 else "memory.max"
    for start, path in (("/docker/abc", "/docker/abc"), ("/docker/abc", "/"), ("/", "/docker/abc")):
        root = tmp_path / f"{len(start)}-{len(path)}"
        assert make(root, {f"{memory}{name}": str(GIB)}, path=path, start=start).memory_limit() == GIB


def test_without_control_groups_nothing_is_limited(tmp_path):
    found = Cgroup(tmp_path)
    assert (found.memory_limit(), found.memory_free(), found.throttled_s(), found.killed()) == (None,) * 4
    assert found.processors() == 8.0


def test_the_machine_counts_kills_where_no_group_does(tmp_path):
    assert tree(tmp_path, {"proc/vmstat": "pgfault 1\noom_kill 7\n"}).killed() == 7


def test_nonsense_is_unknown(tmp_path):
    files = {"outer/memory.max": "many", "outer/cpu.max": "max", "outer/cpuset.cpus.effective": "a-b"}
    found = of_v2(tmp_path, files | {"outer/inner/cpu.max": "100000 0"})
    assert (found.memory_limit(), found.processors()) == (None, 8.0)


@pytest.mark.parametrize(
    "line",
    [
        b"30 25 0:26 / /home/Jos\xe9 rw - ext4 /dev/sda rw",
        b"30 25 0:26 /",
        b"30 25 0:26 / /sys rw - cgroup2",
        b" - ",
        b"?",
    ],
)
def test_a_mount_of_any_name_or_form_hides_no_limit(tmp_path, line):
    """The bytes of a name need not be UTF-8; what runs containers may make up lines of its own."""
    found = of_v2(tmp_path, {"outer/memory.max": str(GIB)})
    mounts = tmp_path / "proc/self/mountinfo"
    mounts.write_bytes(line + b"\n" + mounts.read_bytes())
    (tmp_path / "proc/self/cgroup").write_bytes(b"nothing\n0::/outer/inner\n")
    assert found.memory_limit() == GIB


def test_the_kernel_writes_a_space_in_a_mount_point_as_its_number(tmp_path):
    found = of_v2(tmp_path, {})
    (tmp_path / "my groups/outer/inner").mkdir(parents=True)
    (tmp_path / "my groups/outer/memory.max").write_text(str(GIB))
    (tmp_path / "proc/self/mountinfo").write_text(V2.format(start="/").replace("/sys/fs/cgroup", "/my\\040groups"))
    assert found.memory_limit() == GIB


@pytest.mark.parametrize(("processors", "count"), [(0.5, 1), (1.0, 1), (1.5, 1), (1.999, 2), (2.0, 2), (63.9, 63)])
def test_a_part_of_a_processor_runs_no_thread(processors, count):
    assert whole(processors) == count


def test_the_memory_guard_keeps_to_the_limit(monkeypatch):
    monkeypatch.setattr(Cgroup, "memory_free", lambda _: 5)
    assert memory.available_bytes("cpu") == 5
    monkeypatch.setattr(Cgroup, "memory_free", lambda _: 2**60)
    assert memory.available_bytes("cpu") < 2**50


@pytest.mark.fault
def test_memory_of_which_the_system_says_nothing_is_unknown_and_refuses_no_case(monkeypatch, tmp_path):
    """As on Windows, which has no /proc, no control groups and no sysconf."""
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.delattr(memory.os, "sysconf")
    monkeypatch.setattr(Cgroup, "memory_free", lambda _: None)
    assert memory.available_bytes("cpu") is None
    engine.refuse_what_cannot_fit(2**60, "cpu")
    assert "unknown" in doctor.memory().said


@pytest.mark.parametrize(("named", "chosen"), [(None, 1), ("2", None)])
def test_threads_keep_to_the_quota_unless_they_are_chosen(monkeypatch, named, chosen):
    set_to = []
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    if named:
        monkeypatch.setenv("OMP_NUM_THREADS", named)
    monkeypatch.setattr(Cgroup, "processors", lambda _: 1.5)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    worker.limit_threads()
    assert set_to == ([] if chosen is None else [chosen])


GREEDY = """
import torch
def attend(query, key, value, relative, geometry):
    torch.ones(3 * 2**30, dtype=torch.uint8)
    return query
"""
INSIDE = """
import os, sys
from pathlib import Path
from halobench import Geometry, Problem
from halobench.cases.case import Case
from halobench.measure.engine import Settings
from halobench.measure.session import Session
from tests import forked

if __name__ == "__main__":
    Session._context = forked.Children
    Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
    with Session(Settings("cpu", timed=False)) as session:
        for backend in ("greedy", "sdpa"):
            row = session.measure(Case("operator", backend, Problem(Geometry(4, 1), 8, 8), "forward", "cpu"))
            print(row["status"], row["reason"])
"""


@pytest.fixture
def small_group():
    """A real control group of 2 GiB, where this process may make one."""
    v2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    folder = Path("/sys/fs/cgroup" if v2 else "/sys/fs/cgroup/memory") / f"halobench-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error.strerror}")
    try:
        try:
            (folder / ("memory.max" if v2 else "memory.limit_in_bytes")).write_text(str(2 * GIB))
        except OSError as error:
            pytest.skip(f"no limit of memory can be set here: {error.strerror}")
        yield folder
    finally:
        remove(folder)


def remove(folder):
    """Remove a control group as soon as its last process, which may be ending still, has left it."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return folder.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.mark.fault
def test_a_worker_that_the_kernel_kills_for_its_memory_is_oom(small_group, tmp_path):
    """In a real container's limit; the next case is measured by another worker."""
    third_party.install(tmp_path, {"greedy": GREEDY})
    (tmp_path / "inside.py").write_text(INSIDE)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "inside.py"), str(small_group)],
        env={**os.environ, "PYTHONPATH": third_party.python_path(tmp_path)},
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "OOM memory ran out within the container's limit of 2.0 GiB: the kernel killed the worker", "OK None"
    ]  # fmt: skip
