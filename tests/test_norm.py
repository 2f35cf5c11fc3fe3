"""Batch normalisation in one operator: in Triton's interpreter on the CPU, on a GPU, and in a compiled network."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn

from halobench import models
from halobench.models.halonet import Bottleneck
from halobench.models.norm import module as norm_module
from halobench.models.norm.module import NormActivation
from halobench.models.norm.operator import empty_fields, norm_activation
from tests.norm_interpreted import CASES, CHECKS, PROPERTIES, check, reference, sequence

without_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", CHECKS)
def test_in_the_interpreter(interpreter, name):
    fault = interpreter.fault("norm_interpreted", name)
    assert fault is None, fault


@pytest.mark.gpu
@without_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu(case, dtype):
    torch.use_deterministic_algorithms(mode=True)
    try:
        check(case, "cuda", dtype)
    finally:
        torch.use_deterministic_algorithms(mode=False)


@pytest.mark.gpu
@without_gpu
@pytest.mark.parametrize("name", PROPERTIES)
def test_on_a_gpu_it_holds_that(name):
    PROPERTIES[name]("cuda")


@pytest.mark.gpu
@without_gpu
@pytest.mark.parametrize("pooled", [False, True])
def test_pytorch_accepts_the_operator(pooled):
    """PyTorch's own check: schema, fake tensors, autograd, compilation."""
    pixels = torch.randn(2, 8, 4, 6, device="cuda").to(memory_format=torch.channels_last).requires_grad_()
    weight, bias = torch.rand(2, 8, device="cuda").requires_grad_().unbind()
    shortcut = None if pooled else torch.randn_like(pixels, requires_grad=True)
    torch.library.opcheck(norm_activation, (pixels, weight, bias, shortcut, 1e-5, False, pooled))


def test_uncompiled_it_is_pytorch():
    module = sequence(4, nn.SiLU, pooled=True)
    plain = nn.Sequential(nn.BatchNorm2d(4), nn.SiLU(), nn.MaxPool2d(3, 2, 1))
    pixels, shortcut = torch.randn(2, 2, 4, 7, 5)
    torch.testing.assert_close(module(pixels), plain(pixels), rtol=0, atol=0)
    assert module.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(module.eval()(pixels), plain.eval()(pixels), rtol=0, atol=0)
    joined = plain[1:](plain[0](pixels) + shortcut)
    torch.testing.assert_close(module(pixels, shortcut), joined, rtol=0, atol=0)


@pytest.mark.parametrize("stochastic_depth", [0.0, 1e-9])
def test_what_replaces_normalisations_replaces_nothing_else(stochastic_depth):
    """Statistics of several processes, or frozen ones: activations, shortcuts and pooling stay."""
    network = models.create("halonet_mini", "sdpa", 10, stochastic_depth=stochastic_depth)
    assert {module.joined for module in network.modules() if isinstance(module, Bottleneck)} >= {not stochastic_depth}
    pixels = torch.randn(2, 3, 32, 32)
    wanted = copy.deepcopy(network)(pixels)
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(network))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in synchronized.modules())
    torch.testing.assert_close(synchronized(pixels), wanted)
    wanted = network.eval()(pixels)
    torch.testing.assert_close(freeze_batch_norm_2d(network)(pixels), wanted)


@torch.library.custom_op("halobench_tests::norm_activation", mutates_args=())
def stand_in(
    pixels: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None, eps: float, relu: bool, pooled: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the operator returns, without Triton."""
    variance, mean = torch.var_mean(pixels, (0, 2, 3), correction=0)
    parts = sequence(8, nn.ReLU if relu else nn.SiLU, pooled=pooled).parts()
    output = reference(parts._replace(norm=nn.BatchNorm2d(8, eps)), pixels, weight, bias, shortcut)
    return output, pixels.new_empty(0, dtype=torch.uint8), mean, variance


@stand_in.register_fake
def empty(pixels, weight, bias, shortcut, eps, relu, pooled):
    return empty_fields(pixels, pooled=pooled)


def compiled(module, monkeypatch, *inputs, dynamic=None):
    """The output of the compiled module, as if the CPU were a GPU, and how often it called the operator."""
    monkeypatch.setattr(norm_module, "FUSED_DEVICE", "cpu")
    monkeypatch.setattr(norm_module, "norm_activation", stand_in)
    calls = []

    def backend(graph, _examples):
        calls.extend(node for node in graph.graph.nodes if "halobench_tests" in str(node.target))
        return graph.forward

    torch.compiler.reset()
    with torch.no_grad():
        return torch.compile(module, backend=backend, dynamic=dynamic)(*inputs), len(calls)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(("momentum", "dynamic"), [(0.1, None), (1.0, None), (0.1, True)])
def test_compiled_it_calls_the_operator(monkeypatch, pooled, momentum, dynamic):
    module, plain = sequence(8, nn.SiLU, pooled=pooled), sequence(8, nn.SiLU, pooled=pooled)
    module[0].momentum = plain[0].momentum = momentum  # what estimates the statistics anew sets it
    pixels = torch.randn(2, 8, 5, 4)
    output, calls = compiled(module, monkeypatch, pixels, dynamic=dynamic)
    assert calls == 1
    torch.testing.assert_close(output, plain(pixels))
    torch.testing.assert_close(module.state_dict(), plain.state_dict())


CHANGES = {
    "frozen": lambda module: module[0].eval(),
    "cumulative": lambda module: setattr(module[0], "momentum", None),
    "untracked": lambda module: module.__setitem__(0, nn.BatchNorm2d(8, track_running_stats=False)),
    "without_parameters": lambda module: module.__setitem__(0, nn.BatchNorm2d(8, affine=False)),
    "synchronized": lambda module: module.__setitem__(0, nn.SyncBatchNorm(8)),
    "another_activation": lambda module: module.__setitem__(1, nn.GELU()),
    "another_pooling": lambda module: module.__setitem__(2, nn.MaxPool2d(2)),
    "rounded_up": lambda module: setattr(module[2], "ceil_mode", True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_modules_and_settings_are_called_as_they_are(monkeypatch, change):
    module, plain = sequence(8, nn.SiLU, pooled=True), sequence(8, nn.SiLU, pooled=True)
    CHANGES[change](module)
    CHANGES[change](plain)
    pixels = torch.randn(2, 8, 5, 4)
    output, calls = compiled(module, monkeypatch, pixels)
    assert calls == 0
    torch.testing.assert_close(output, plain(pixels))
    torch.testing.assert_close(module.state_dict(), plain.state_dict())


@pytest.mark.parametrize("pooled", [False, True])
def test_other_shortcuts_are_added_as_they_are(monkeypatch, pooled):
    """Those that PyTorch would broadcast or convert, and any before a pooling."""
    module, plain = sequence(8, nn.SiLU, pooled=pooled), sequence(8, nn.SiLU, pooled=pooled)
    pixels = torch.randn(2, 8, 5, 4)
    for shortcut in (torch.randn(2, 8, 1, 1), torch.randn(2, 8, 5, 4).double(), torch.randn(2, 8, 5, 4)):
        output, calls = compiled(module, monkeypatch, pixels, shortcut)
        assert calls == (not pooled and shortcut.shape == pixels.shape and shortcut.dtype == pixels.dtype)
        torch.testing.assert_close(output, plain(pixels, shortcut))


def test_compiled_without_triton_it_is_pytorch(monkeypatch):
    module, plain, pixels = sequence(8, nn.SiLU), sequence(8, nn.SiLU), torch.randn(2, 8, 5, 4)
    monkeypatch.setattr(norm_module, "FUSED_DEVICE", "cpu")
    monkeypatch.setattr(norm_module, "norm_activation", None)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(module, backend="eager")(pixels), plain(pixels))


def test_without_triton_there_are_models():
    """PyTorch for a CPU comes without it."""
    program = "import sys; sys.modules['triton'] = None; from halobench import models; models.create('halonet_mini')"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=120)


@pytest.mark.gpu
@without_gpu
def test_a_compiled_network_uses_it_and_agrees(monkeypatch):
    """In float32: the loss, all gradients and all buffers of a step, with the operator and without it."""
    network = models.create("halonet_mini", "fused", 10).cuda().to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # a block that begins as its shortcut has few gradients
            nn.init.uniform_(module.weight, 0.5, 1.5)
    pixels = torch.randn(4, 3, 64, 64, device="cuda").to(memory_format=torch.channels_last)
    calls = []
    fused = norm_module.fused
    monkeypatch.setattr(norm_module, "fused", lambda *given: (calls.append(1), fused(*given))[1])
    outcomes = []
    for compiled in (True, False):
        step = copy.deepcopy(network)
        loss = (torch.compile(step, fullgraph=True) if compiled else step)(pixels).square().mean()
        loss.backward()
        outcomes.append([loss, *(p.grad for p in step.parameters()), *step.buffers()])
    assert len(calls) == sum(isinstance(module, NormActivation) for module in network.modules())
    for one, other in zip(*outcomes, strict=True):
        scale = other.abs().max().clamp(min=1e-6)
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=2e-3)


@pytest.mark.gpu
@without_gpu
@pytest.mark.parametrize("pooled", [False, True])
def test_compiled_once_it_takes_batches_of_any_size(pooled):
    torch.compiler.reset()
    module = sequence(24, nn.ReLU, pooled=pooled).cuda()
    plain, several = copy.deepcopy(module), torch.compile(module, dynamic=True, fullgraph=True)
    for batch in (2, 3, 5):
        pixels = torch.randn(batch, 24, 9, 6, device="cuda").to(memory_format=torch.channels_last)
        found, wanted = (call(pixels) for call in (several, plain))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        for network, output in ((module, found), (plain, wanted)):
            network.zero_grad()
            output.square().mean().backward()
        for one, other in zip(module.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)
