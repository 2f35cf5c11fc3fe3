"""What goes wrong in one of several processes ends all of them, and is told once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from halobench.scale.__main__ import main as scale
from halobench.train.__main__ import main
from halobench.train.processes import LOST, Processes
from halobench.train.unusable import Unusable
from tests import training_data
from tests.training_runs import command

ROOT = Path(__file__).parent.parent


def torchrun(*arguments):
    """Two processes of ``python -m halobench.train``."""
    command_line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*command_line, "-m", "halobench.train", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def ours(done):
    """Our lines; torchrun has a summary of its own."""
    return [line for line in done.stderr.splitlines() if line.startswith("halobench.train: ")]


@pytest.mark.fault
def test_a_file_that_one_process_cannot_read_ends_both(tmp_path):
    """The other one waits for its gradients: it ends without a word and without a traceback of ours."""
    folder = training_data.image_folder(tmp_path / "images")
    bad = folder / "val" / "class0" / "10.png"  # the second image of the test part: the second process's
    bad.write_bytes(b"")
    done = torchrun(*command(folder, tmp_path / "run", batch=8, epochs=1, model="resnet_mini"))
    assert done.returncode != 0
    assert [line.partition(" (")[0] for line in ours(done)] == [
        f"halobench.train: {bad} cannot be read as an image: it is empty"
    ]
    assert "halobench/train" not in done.stderr.replace(str(ROOT), "")


@pytest.fixture
def two():
    """Two processes of one run, as far as they only talk."""
    store = torch.distributed.HashStore()
    return [Processes(rank, 2, rank, store) for rank in range(2)]


def test_options_that_cannot_be_are_told_once(two, tmp_path, monkeypatch, capsys):
    """By whoever comes first; the other ends alike."""
    for epochs, said in ((0, "halobench.train: --epochs must be"), ("x", "invalid int value: 'x'")):
        for number, process in enumerate(reversed(two)):
            monkeypatch.setattr(Processes, "of_environment", lambda process=process: process)
            with pytest.raises(SystemExit) as end:
                main(command(tmp_path, tmp_path, epochs=epochs))
            assert end.value.code == 2
            assert (said in capsys.readouterr().err) == (number == 0)


def test_the_first_to_have_a_problem_tells_it(two):
    one, other = two
    assert other.tells("no such folder")
    assert not one.tells("no such folder")
    assert one.tells("something else")
    assert not other.tells(LOST)


def test_a_process_that_ended_without_a_word_is_told_once(two):
    """Killed by the system, for example."""
    one, other = two
    assert one.lost(RuntimeError("[../gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1"))
    assert not one.lost(RuntimeError("shape '[2]' is invalid"))
    assert not Processes().lost(torch.distributed.DistNetworkError("gone"))
    assert one.tells(LOST)
    assert not other.tells(LOST)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    joined = Processes(2, 3, 2).joined(torch.device("cuda", 2))
    with pytest.raises(Unusable, match="each process on this host needs a GPU of its own, got 2 GPUs"):
        joined.__enter__()


def test_processes_that_do_not_find_each_other_are_one_line(tmp_path, fashion, monkeypatch, capsys):
    """The port is nobody's, and nobody comes."""
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "localhost")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "1")

    def refused(*_, **__):
        raise torch.distributed.DistNetworkError("The client socket has timed out\nafter 300 s")

    monkeypatch.setattr("halobench.train.processes.rendezvous", refused)
    assert main(command(fashion, tmp_path)) == 2
    said = "halobench.train: the 2 processes do not find each other: The client socket has timed out\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("of", ["train", "scale"])
@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE"])
def test_what_torchrun_tells_is_numbers(tmp_path, fashion, monkeypatch, capsys, of, name):
    monkeypatch.setenv(name, "x")
    started = {"train": lambda: main(command(fashion, tmp_path)), "scale": lambda: scale(["--output", "mine.json"])}
    assert started[of]() == 2
    said = f"halobench.{of}: {name} in the environment must be a number, as torchrun sets it, got 'x'\n"
    assert capsys.readouterr().err == said


def test_processes_that_are_not_told_of_each_other_are_one_line(tmp_path, fashion, monkeypatch, capsys):
    """As those of a launcher that counts processes as torchrun does, and says no more."""
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert main(command(fashion, tmp_path)) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("halobench.train: the 2 processes do not find each other: ")
    assert "MASTER_ADDR expected, but not set" in line
