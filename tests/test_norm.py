"""Batch normalisation in one operator: in Triton's interpreter on the CPU, on a GPU, and in a compiled network."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from halobench import models
from halobench.models.norm.module import NormActivation
from halobench.models.norm.operator import norm_activation
from tests.norm_interpreted import CASES, PROPERTIES, check

without_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def interpreted() -> dict[str, str | None]:
    """What is wrong with each case, from a process whose Triton interprets."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.norm_interpreted"]
    process = subprocess.run(
        command, check=True, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, timeout=600
    )
    return {line["name"]: line["fault"] for line in map(json.loads, process.stdout.splitlines())}


@pytest.mark.parametrize("case", [*CASES, *PROPERTIES])
def test_in_the_interpreter(interpreted, case):
    assert interpreted[case] is None, interpreted[case]


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
    module = NormActivation(4, nn.SiLU, pooled=True)
    plain = nn.Sequential(nn.BatchNorm2d(4), nn.SiLU(), nn.MaxPool2d(3, 2, 1))
    pixels = torch.randn(2, 4, 7, 5)
    torch.testing.assert_close(module(pixels), plain(pixels), rtol=0, atol=0)
    assert module.state_dict().keys() == nn.BatchNorm2d(4).state_dict().keys()
    torch.testing.assert_close(module.eval()(pixels), plain.eval()(pixels), rtol=0, atol=0)


@pytest.mark.gpu
@without_gpu
def test_a_compiled_network_uses_it_and_agrees(monkeypatch):
    """In float32: the loss, all gradients and all buffers of a step, with the operator and without it."""
    network = models.create("halonet_mini", "fused", 10).cuda().to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, NormActivation):  # a block that begins as its shortcut has few gradients
            nn.init.uniform_(module.weight, 0.5, 1.5)
    pixels = torch.randn(4, 3, 64, 64, device="cuda").to(memory_format=torch.channels_last)
    calls = []
    fused = NormActivation.fused
    monkeypatch.setattr(NormActivation, "fused", lambda *given: (calls.append(1), fused(*given))[1])
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
