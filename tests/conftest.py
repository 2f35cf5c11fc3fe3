"""Fixtures for all tests: the device, and images to train on."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests import training_data

settings.register_profile("halobench", deadline=None, max_examples=40, derandomize="CI" in os.environ)
settings.load_profile("halobench")

# float32 means float32, as in the suites: cuDNN would use TF32 by default.
torch.backends.cudnn.allow_tf32 = False


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many faults were tried, and how many were survived."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    tried = [report for report in reports if report.when == "call" and "fault" in report.keywords]
    if tried:
        survived = sum(report.passed for report in tried)
        terminalreporter.write_line(f"faults: {len(tried)} tried, {survived} survived")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """The CPU always, and the GPU where there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files like Fashion-MNIST's."""
    return training_data.fashion(tmp_path_factory.mktemp("fashion"), training=160, test=40)
