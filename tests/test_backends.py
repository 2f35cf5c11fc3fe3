"""The registry: names, loading, entry points, and what is said of the broken."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from halobench import Geometry, Problem, RelativeTables, backends, formula

OWN = {
    "compiled",
    "conv",
    "flex",
    "fused",
    "fused_cuda",
    "global_sa",
    "lucidrains",
    "naive_unfold",
    "sdpa",
    "strided_gather",
    "timm_halo",
}


def test_names_are_the_modules_of_the_folder() -> None:
    """Every public module of ``implementations/`` is a backend, in alphabetical order, and private ones are not."""
    folder = Path(importlib.import_module("halobench.implementations").__path__[0])
    modules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert set(backends.names()) >= OWN
    assert backends.names() == sorted(name for name in modules if not name.startswith("_"))


@pytest.mark.parametrize("name", sorted(OWN))
def test_load(name: str) -> None:
    """A backend knows its name, has a one-line summary, and builds a layer."""
    backend = backends.load(name)
    assert backend.name == name
    assert backend.summary.endswith((".", ","))
    assert "\n" not in backend.summary
    assert (backend.attend is None) == (name == "conv")
    assert set(backend.borders) <= {"masked", "zero"}


def test_wrong_name_lists_the_right_ones() -> None:
    """One clear error that names the value and what there is."""
    with pytest.raises(ValueError, match=r"no backend is called 'navie_unfold'; there are .*naive_unfold, .*sdpa"):
        backends.load("navie_unfold")


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> None:
    """Install a distribution with one module that adds itself as a backend, as pip would lay it out."""
    (folder / f"{name}_module.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[halobench.backends]\n{name} = {name}_module\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, f"{name}_module", raising=False)


def test_other_packages_add_backends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real entry point in the group ``halobench.backends`` is listed, loaded and checked like our own."""
    source = '"""Theirs: as ours."""\nfrom halobench import formula\nattend = formula.attend\nborders = ("masked",)\n'
    install(tmp_path, monkeypatch, "theirs", source)
    assert "theirs" in backends.names()
    backend = backends.load("theirs")
    assert (backend.summary, backend.borders, backend.execution) == ("Theirs: as ours.", ("masked",), None)
    problem = Problem(Geometry(4, 1), 8, 8)
    inputs = problem.inputs()
    assert backend.attend is not None
    assert torch.equal(backend.attend(*inputs, problem.geometry), formula.attend(*inputs, problem.geometry))
    with pytest.raises(ValueError, match="query must be"):
        backend.attend(inputs.query[0], inputs.key, inputs.value, inputs.relative, problem.geometry)


def test_a_module_without_attend_and_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the backend and the module."""
    install(tmp_path, monkeypatch, "hollow", '"""Nothing."""\n')
    with pytest.raises(TypeError, match=r"backend 'hollow' \(hollow_module\) defines neither attend nor build"):
        backends.load("hollow")


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend whose package is not installed stays listed, and says which package that is."""
    install(tmp_path, monkeypatch, "wanting", "import a_package_that_nobody_has\n")
    assert "wanting" in backends.names()
    with pytest.raises(ModuleNotFoundError) as missing:
        backends.load("wanting")
    assert missing.value.name == "a_package_that_nobody_has"


def test_our_own_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a backend of ours: lucidrains without halonet-pytorch."""
    monkeypatch.delitem(sys.modules, "halobench.implementations.lucidrains", raising=False)
    monkeypatch.setitem(sys.modules, "halonet_pytorch", None)  # type: ignore[arg-type]
    with pytest.raises(ModuleNotFoundError, match="halonet_pytorch") as missing:
        backends.load("lucidrains")
    assert missing.value.name == "halonet_pytorch"


def test_build_alone_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that is no attention defines ``build`` only."""
    install(tmp_path, monkeypatch, "plain", "from torch import nn\ndef build(layer): return nn.Identity()\n")
    backend = backends.load("plain")
    assert backend.attend is None
    assert isinstance(backend.build(None), torch.nn.Identity)  # type: ignore[arg-type]


PROBLEM = Problem(Geometry(4, 1), 8, 8, batch=2, heads=2, key_dim=16, value_dim=16)
GOOD = dict(zip(("query", "key", "value", "relative"), PROBLEM.inputs(), strict=True))
TABLES = PROBLEM.inputs().relative or RelativeTables(torch.empty(0), torch.empty(0))
BAD_INPUTS: dict[str, tuple[dict[str, Any], str]] = {
    "axes": (
        {"key": torch.zeros(2, 8, 8, 32)},
        "key must be (batch, heads, height, width, dim), got shape (2, 8, 8, 32)",
    ),
    "dtype": (
        {"value": torch.zeros(2, 2, 8, 8, 16, dtype=torch.float64)},
        "query and value must share dtype and device, got torch.float32 on cpu and torch.float64 on cpu",
    ),
    "query": (
        {"query": torch.zeros(2, 2, 4, 4, 16)},
        "query must be (2, 2, 8, 8, 16) for a key of (2, 2, 8, 8, 16) and stride 1, got (2, 2, 4, 4, 16)",
    ),
    "value": (
        {"value": torch.zeros(2, 2, 8, 7, 16)},
        "value must match the key's (2, 2, 8, 8), got (2, 2, 8, 7, 16)",
    ),
    "table": (
        {"relative": RelativeTables(TABLES.rows, torch.zeros(13, 16))},
        "relative.columns must be (11, 16), torch.float32 on cpu, got (13, 16), torch.float32 on cpu",
    ),
    "stride": (
        {"geometry": Geometry(4, 1, stride=3)},
        "query must be (2, 2, 3, 3, 16) for a key of (2, 2, 8, 8, 16) and stride 3, got (2, 2, 8, 8, 16)",
    ),
}


@pytest.mark.parametrize("name", sorted(OWN - {"conv"}))
@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_reads_the_same_from_every_backend(name: str, case: str) -> None:
    """The message names the tensor, what was expected and what came."""
    change, message = BAD_INPUTS[case]
    attend: Any = backends.load(name).attend
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        attend(**{**GOOD, "geometry": PROBLEM.geometry, **change})
