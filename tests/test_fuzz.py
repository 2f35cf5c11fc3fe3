"""The fuzzer: planted faults of every kind are found, named and shrunk; what is drawn depends on the seed alone."""

import json
from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from halobench import Geometry, Problem, RelativeTables, backends
from halobench.attention import formula
from halobench.fuzz import draw, tensors
from halobench.fuzz.__main__ import main
from halobench.fuzz.draw import DTYPES, Trial
from halobench.fuzz.judge import Judgement, judge
from halobench.fuzz.shrink import simpler
from halobench.fuzz.tensors import lay
from halobench.measure.session import Session
from tests import forked, third_party

START = """
import ctypes, time, torch
from halobench import Unsupported
from halobench.attention import formula
def attend(query, key, value, relative, geometry):
    right = formula.attend(query, key, value, relative, geometry)
"""
SOURCES = {
    "right": "    return right",
    "wrong": "    return right * 1.1 if geometry.stride == 2 and key.shape[2] % 2 else right",
    "refusing": "    raise Unsupported(f'nothing works today, got {geometry.block}')",
    "crashing": "    if key.shape[3] > 9: print('low on ink', flush=True); ctypes.string_at(0)\n    return right",
    "hanging": "    if key.shape[3] > 9: time.sleep(600)\n    return right",
}
PROBLEM = Problem(Geometry(4, 1), 10, 9, batch=3, heads=2, key_dim=8, value_dim=16)
Mutant = Callable[[Tensor, Tensor, Tensor, RelativeTables, Geometry], Tensor]


@pytest.fixture(scope="module", autouse=True)
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Backends of another package, for this process and for workers."""
    folder = tmp_path_factory.mktemp("packages")
    third_party.install(folder, {name: f"{START}{body}\n" for name, body in SOURCES.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", third_party.python_path(folder))
        patch.syspath_prepend(folder)
        patch.setattr(Session, "_context", forked.Workers)
        yield


def fuzz(tmp_path, capfd, command: str):
    """Exit status, rows and what was printed of a run on float32, on stderr first."""
    path = tmp_path / "fuzz.jsonl"
    status = main([*f"{command} --device cpu --dtype float32 --members 3 --output".split(), str(path)])
    printed = capfd.readouterr()
    return status, [json.loads(line) for line in path.read_text().splitlines()], printed.err + printed.out


def test_a_right_backend_passes_and_a_wrong_one_is_shrunk(tmp_path, capfd):
    """Wrong only for odd maps under stride 2: what is printed is that and little else, and it fails when pasted."""
    command = "right wrong --cases 40 --workers 1 --shrink 60 --seed 1"
    status, rows, said = fuzz(tmp_path, capfd, command)
    assert status == 1
    assert {row["status"] for row in rows if row["backend"] == "right"} == {"OK", "UNSUPPORTED"}
    wrong = [row for row in rows if row["status"] == "INCORRECT"]
    assert wrong
    assert all((row["backend"], row["stride"], row["height"] % 2) == ("wrong", 2, 1) for row in wrong)
    assert all(row["errors"]["output"] > row["budgets"]["output"] for row in wrong)
    assert f"{len(wrong)} wrong" in said
    made: dict[str, Callable[[], None]] = {}
    exec(said[said.index("def test_wrong") :], {**globals()}, made)
    with pytest.raises(AssertionError, match="output is off by"):
        made["test_wrong_on_a_drawn_problem"]()
    assert "Problem(Geometry(1, 0, 2), 1, 1, key_dim=1, value_dim=1, relative=False)" in said


def test_the_same_seed_draws_the_same_problems_for_any_number_of_workers(tmp_path, capfd):
    runs = []
    for workers in (1, 2):
        status, rows, _ = fuzz(tmp_path, capfd, f"right --cases 24 --workers {workers} --seed 5")
        assert status == 0
        for row in rows:
            row.pop("seconds")
        runs.append(sorted(rows, key=lambda row: (row["family"], row["trial"])))
    assert runs[0] == runs[1]
    assert sum(row["status"] == "OK" for row in runs[0]) >= 24


@pytest.mark.fault
def test_crashes_and_hangs_are_named_and_the_run_goes_on(tmp_path, capfd):
    """Each is a trial of its own; those after it are tried in another worker."""
    command = "crashing hanging --cases 3 --workers 1 --timeout 2 --shrink 0 --seed 34"
    status, rows, said = fuzz(tmp_path, capfd, command)
    assert status == 1
    reasons = {"crashing": "the worker ended with signal 11: low on ink", "hanging": "no answer within 2 s"}
    for name, kind in (("crashing", "CRASHED"), ("hanging", "TIMEOUT")):
        mine = [row for row in rows if row["backend"] == name]
        failed = [row for row in mine if row["width"] > 9 and row["status"] != "UNSUPPORTED"]
        assert failed
        assert {(row["status"], row["reason"]) for row in failed} == {(kind, reasons[name])}
        assert {row["status"] for row in mine if row["width"] <= 9} <= {"OK", "UNSUPPORTED"}
        assert any(row["status"] == "OK" for row in mine[mine.index(failed[0]) :])
        assert f"{kind} {name}, family {failed[0]['family']}, trial {failed[0]['trial']}" in said


def test_refusals_are_counted_by_reason_and_end(tmp_path, capfd, monkeypatch):
    """A backend that refuses everything is asked no more after a while, and not found right."""
    monkeypatch.setattr("halobench.fuzz.pool.MOST_REFUSED", 20)
    status, rows, said = fuzz(tmp_path, capfd, "refusing --cases 5 --workers 1")
    assert status == 2
    assert {row["status"] for row in rows} == {"UNSUPPORTED"}
    assert len(rows) == 20
    assert "nothing works today  " in " ".join(said.split("\n"))
    assert "0 tried, 20 refused" in said
    assert "halobench.fuzz: nothing was tried of refusing: all was refused, or time was too short\n" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody"], "no backend is called 'nobody'"),
        (["conv"], "conv is no attention operator"),
        (["sdpa", "--cases", "0"], "--cases must be positive, got 0"),
        (["sdpa", "--seconds", "nan"], "--seconds must be positive, got nan"),
        (["sdpa", "--output", "/no/such/folder/file"], "/no/such/folder/file"),
    ],
)
def test_unusable_arguments_are_one_line(capsys, arguments, said):
    assert main([*arguments, "--device", "cpu"]) == 2
    captured = capsys.readouterr().err
    assert said in captured
    assert captured.count("\n") == 1


def judged(mutant: Mutant, trial: Trial = Trial(PROBLEM), device: str = "cpu") -> Judgement:  # noqa: B008 - frozen
    return judge(replace(backends.load("strided_gather"), attend=mutant), trial, device)


def unwritten(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables, geometry: Geometry) -> Tensor:
    """Leaves the last row of queries as the memory was."""
    output = formula.attend(query, key, value, relative, geometry)
    written = torch.empty_like(output)
    written[:, :, :-1] = output[:, :, :-1]
    return written + 0 * output


def not_a_number(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables, geometry: Geometry) -> Tensor:
    """Has one NaN, in the middle of the batch."""
    output = formula.attend(query, key, value, relative, geometry).clone()
    output[1, 0, 0, 0, 0] = torch.nan
    return output


def wrong_middle_image(
    query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables, geometry: Geometry
) -> Tensor:
    """Gives the second image the output of the first."""
    output = formula.attend(query, key, value, relative, geometry)
    return torch.cat([output[:1], output[:1], output[2:]])


def writes_beside(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables, geometry: Geometry) -> Tensor:
    """Writes one number behind its values."""
    memory = value.detach()
    torch.as_strided(memory, (1,), (1,), memory.storage_offset() + memory.numel()).fill_(0)
    return formula.attend(query, key, value, relative, geometry)


def reads_beside(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables, geometry: Geometry) -> Tensor:
    """Multiplies by zero what stands before its keys."""
    memory = key.detach()
    before = torch.as_strided(memory, (1,), (1,), memory.storage_offset() - 1)
    return formula.attend(query, key, value, relative, geometry) + 0 * before


def wrong_shape(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables, geometry: Geometry) -> Tensor:
    """Swaps rows and columns."""
    return formula.attend(query, key, value, relative, geometry).transpose(2, 3)


@pytest.mark.parametrize(
    ("mutant", "reason"),
    [
        (unwritten, "output is not finite"),
        (not_a_number, "output is not finite"),
        (wrong_middle_image, "output is off by"),
        (writes_beside, "the call changed its inputs, or memory beside them"),
        (reads_beside, "output is not finite"),
        (wrong_shape, "output is (3, 2, 9, 10, 16) torch.float32, expected (3, 2, 10, 9, 16) torch.float32"),
    ],
)
def test_planted_faults_have_their_reason(mutant: Mutant, reason: str, device: str) -> None:
    """Also on a GPU, where memory comes from another allocator."""
    found = judged(mutant, device=device)
    assert found.status == "INCORRECT"
    assert reason in (found.reason or "")
    assert judged(formula.attend, device=device).status == "OK"


@pytest.mark.parametrize("magnitude", ["standard", "tiny", "large_query", "large_tables", "large_value", "huge_key"])
def test_a_table_off_by_one_shows_at_every_magnitude(magnitude: draw.Magnitude) -> None:
    """In float32; tiny tables do not matter to the output, and their gradients show it."""

    def off_by_one(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables, geometry: Geometry) -> Tensor:
        return formula.attend(query, key, value, relative._replace(rows=relative.rows.roll(1, 0)), geometry)

    assert judged(off_by_one, Trial(PROBLEM, magnitude=magnitude)).status == "INCORRECT"
    assert judged(formula.attend, Trial(PROBLEM, magnitude=magnitude)).status == "OK"


def test_what_a_dtype_cannot_hold_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend is not to be blamed for an answer beyond 65504 in float16."""
    monkeypatch.setitem(tensors.COTANGENT_SCALES, "large", 3000)
    trial = Trial(replace(PROBLEM, dtype="float16"), magnitude="large_value", cotangent="large")
    found = judged(formula.attend, trial)
    assert found.status == "UNJUDGED"
    assert "float16 cannot hold query" in (found.reason or "")
    assert judged(writes_beside, trial).status == "INCORRECT"


@pytest.mark.parametrize("layout", get_args(draw.Layout))
@pytest.mark.parametrize("stride", [1, 2])
def test_layouts_hold_the_numbers_of_the_problem(layout: draw.Layout, stride: int) -> None:
    """Whatever lies between them, tensors have shape, values and, for one, the alignment that their layout says."""
    problem = replace(PROBLEM, geometry=Geometry(4, 1, stride))
    laid = lay(Trial(problem, layout, layout), "cpu")
    plain = problem.inputs(seed=0)
    for name, tensor in laid.inputs.tensors.items():
        wanted = plain.tensors[name].detach()
        wanted = wanted[:1].expand(wanted.shape) if layout == "expanded" else wanted
        assert torch.equal(tensor, wanted), name
        assert (tensor.data_ptr() % 16 != 0) == (layout == "offset")
    assert laid.cotangent.shape == (*laid.inputs.query.shape[:-1], 16)
    strides = laid.inputs.key.stride()
    assert (strides[-1] == 1) == (layout != "transposed")
    assert (strides[0] == 0) == (layout == "expanded")
    assert laid.inputs.key.is_contiguous() == (layout == "contiguous")


def test_draws_are_what_they_promise() -> None:
    """Families differ, trials of one share what is compiled for; sizes are of the family's kind, costs bounded."""
    families = [draw.family(7, number, DTYPES) for number in range(60)]
    assert families == [draw.family(7, number, DTYPES) for number in range(60)]
    assert families != [draw.family(8, number, DTYPES) for number in range(60)]
    for family in families:
        trials = [draw.trial(7, family, number) for number in range(8)]
        assert len(set(trials)) == 8
        assert trials == [draw.trial(7, family, number) for number in range(8)]
        for trial in trials:
            problem = trial.problem
            assert replace(problem, height=1, width=1, batch=1) == family.problem
            assert (trial.layout, trial.cotangent_layout) == (family.layout, family.cotangent_layout)
            for size, kind in ((problem.height, family.height_kind), (problem.width, family.width_kind)):
                assert {"one": size == 1, "sixteens": size % 16 == 0, "any": size > 1 and size % 16 != 0}[kind]


def test_shrinking_never_grows() -> None:
    """Every candidate is simpler, so that shrinking ends."""
    geometry = Geometry(6, 2, 3, "zero")
    trial = Trial(replace(PROBLEM, geometry=geometry, width=1, heads=1), "packed", "padded", "tiny", "large", 3)

    def size(trial: Trial) -> int:
        plain = Trial(replace(trial.problem, geometry=replace(trial.problem.geometry, border="masked"), relative=False))
        numbers = [*astuple(trial.problem.geometry), *astuple(trial.problem)[1:]]
        unlike = sum(a != b for a, b in zip(flat(trial), flat(plain), strict=True))
        return unlike + sum(number for number in numbers if isinstance(number, int) and number is not True)

    def flat(trial: Trial) -> tuple[object, ...]:
        return *astuple(trial)[1:-1], *astuple(trial.problem)[1:], *astuple(trial.problem.geometry)

    candidates = list(simpler(trial))
    assert len(candidates) > 15
    assert all(size(candidate) < size(trial) for candidate in candidates)
