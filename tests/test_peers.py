"""Other people's layers as a whole: timm's against ours with its weights, lucidrains' before and after its bug fix."""

import importlib
import importlib.util
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from timm.layers.halo_attn import HaloAttn
from torch import Tensor

from halobench import Geometry, HaloAttention, LayerSpec, Problem, backends, formula
from halobench.attention import oracle
from halobench.cases import accuracy

LUCIDRAINS = Problem(Geometry(4, 2), 12, 8, batch=2, heads=2)


def from_timm(peer: HaloAttn, spec: LayerSpec) -> dict[str, Tensor]:
    """The state dict of our layer that computes what timm's does.

    timm's fused projection gives key and value head by head, and its tables count from the window's corner.
    """
    heads = peer.kv.weight.unflatten(0, (spec.heads, spec.key_dim + spec.value_dim))
    return {
        "query.weight": peer.q.weight,
        "key.weight": heads[:, : spec.key_dim].flatten(0, 1),
        "value.weight": heads[:, spec.key_dim :].flatten(0, 1),
        "relative.rows": peer.pos_embed.height_rel.roll(-spec.geometry.halo, 0),
        "relative.columns": peer.pos_embed.width_rel.roll(-spec.geometry.halo, 0),
    }


@pytest.mark.parametrize(("block", "halo"), [(8, 3), (4, 1), (2, 3)])
@pytest.mark.parametrize("value_dim", [16, 24])
def test_timm_layer(block: int, halo: int, value_dim: int) -> None:
    """timm's layer, projections and tables its own, is ours with border ``"zero"`` and its weights."""
    spec = LayerSpec(20, 2, 16, value_dim, Geometry(block, halo, border="zero"), positions="sum")
    peer = HaloAttn(
        20, 2 * value_dim, num_heads=2, dim_head=16, block_size=block, halo_size=halo, scale_pos_embed=True
    ).double()
    torch.nn.init.normal_(peer.pos_embed.height_rel)  # its own initialisation is too small to show a wrong index
    torch.nn.init.normal_(peer.pos_embed.width_rel)
    pixels = torch.randn(2, 20, 16, 8, dtype=torch.float64)
    for attend in (oracle.attend, formula.attend):
        ours = HaloAttention(spec, attend).double()
        ours.load_state_dict(from_timm(peer, spec))
        torch.testing.assert_close(ours(pixels), peer(pixels), rtol=1e-11, atol=1e-12)


def test_timm_layer_does_not_mask() -> None:
    """Under border ``"masked"`` the same weights give another output, though only where windows leave the image."""
    spec = LayerSpec(20, 2, 16, 16, Geometry(4, 1), positions="sum")
    peer = HaloAttn(20, 32, num_heads=2, dim_head=16, block_size=4, halo_size=1, scale_pos_embed=True).double()
    ours = HaloAttention(spec, oracle.attend).double()
    ours.load_state_dict(from_timm(peer, spec))
    pixels = torch.randn(1, 20, 12, 12, dtype=torch.float64)
    differs = (ours(pixels) - peer(pixels)).abs().amax((0, 1)) > 1e-6
    inner = torch.zeros_like(differs)
    inner[4:8, 4:8] = True
    assert torch.equal(differs, ~inner)


def test_lucidrains_layer() -> None:
    """halonet-pytorch's layer, projections its own, is ours with its weights, up to its output projection."""
    package = pytest.importorskip("halonet_pytorch")
    geometry = Geometry(4, 2)
    peer = package.HaloAttention(dim=20, block_size=4, halo_size=2, dim_head=16, heads=2).double()
    torch.nn.init.normal_(peer.rel_pos_emb.rel_height)
    torch.nn.init.normal_(peer.rel_pos_emb.rel_width)
    ours = HaloAttention(LayerSpec(20, 2, 16, 16, geometry, positions="sum"), oracle.attend).double()
    key, value = peer.to_kv.weight.chunk(2)
    weights = {
        "query.weight": peer.to_q.weight[..., None, None],
        "key.weight": key[..., None, None],
        "value.weight": value[..., None, None],
        "relative.rows": peer.rel_pos_emb.rel_height.roll(-geometry.halo, 0),
        "relative.columns": peer.rel_pos_emb.rel_width.roll(-geometry.halo, 0),
    }
    ours.load_state_dict(weights)
    pixels = torch.randn(2, 20, 12, 8, dtype=torch.float64)
    mixed = peer.to_out(ours(pixels).movedim(1, -1)).movedim(-1, 1)
    with torch.no_grad():
        torch.testing.assert_close(peer(pixels), mixed, rtol=1e-11, atol=1e-12)


@pytest.fixture(scope="module")
def inverted(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Release 0.0.4 of halonet-pytorch, whose border mask is inverted."""
    pytest.importorskip("halonet_pytorch")
    folder = tmp_path_factory.mktemp("halonet_pytorch")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "halonet-pytorch==0.0.4"]
    try:
        subprocess.run([*download, "-d", str(folder)], check=True, capture_output=True, timeout=60)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("halonet-pytorch 0.0.4 cannot be downloaded (offline?)")
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    path = Path(folder, "halonet_pytorch", "halonet_pytorch.py")
    spec = importlib.util.spec_from_file_location("halonet_pytorch_before_its_fix", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def lucidrains(monkeypatch: pytest.MonkeyPatch, inverted: ModuleType) -> Iterator[ModuleType]:
    """Our backend ``lucidrains`` around the old release."""
    pytest.importorskip("halonet_pytorch")
    backend = importlib.import_module("halobench.implementations.lucidrains")
    monkeypatch.setattr(backend, "HaloAttention", inverted.HaloAttention)
    backend.layer.cache_clear()
    yield backend
    backend.layer.cache_clear()


def test_lucidrains_passes() -> None:
    """The release that masks correctly has no fault."""
    pytest.importorskip("halonet_pytorch")
    assert accuracy.check(backends.load("lucidrains"), LUCIDRAINS, "cpu", "training").fault is None


@pytest.mark.parametrize("direction", ["forward", "training"])
def test_inverted_mask_of_lucidrains_is_caught(lucidrains: ModuleType, direction: str) -> None:
    """The release before is INCORRECT: its output at the border is a constant, and queries get no gradient."""
    outcome = accuracy.check(backends.load("lucidrains"), LUCIDRAINS, "cpu", direction)  # type: ignore[arg-type]
    assert outcome.fault is not None
    assert outcome.fault.startswith("output is off by")
    assert outcome.errors["output"] > 0.1
