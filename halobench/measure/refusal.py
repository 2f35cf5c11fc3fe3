"""What of pytest, its plugins and their options keeps cases from being measured: refused before anything is."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch

REASON = "halobench_refused"


def check_plugins(config: pytest.Config) -> None:
    """Refuse to go on without pytest-benchmark, whose file and fixture the suites use."""
    if config.pluginmanager.hasplugin("benchmark") or config.pluginmanager.hasplugin("pytest_benchmark.plugin"):
        return
    installed = importlib.util.find_spec("pytest_benchmark") is not None
    remedy = "drop -p no:benchmark, or PYTEST_DISABLE_PLUGIN_AUTOLOAD" if installed else "pip install pytest-benchmark"
    raise pytest.UsageError(f"halobench needs the pytest plugin pytest-benchmark: {remedy}")


def check_options(config: pytest.Config) -> None:
    """Refuse options of pytest-benchmark that would end a run after everything was measured."""
    check_results_path(config.getoption("benchmark_json"))
    if config.getoption("benchmark_histogram") and not all(map(importlib.util.find_spec, ("pygal", "pygaljs"))):
        raise pytest.UsageError("--benchmark-histogram needs pygal: pip install 'pytest-benchmark[histogram]'")


def gpus(devices: str | None, device: str) -> int:
    """On how many GPUs to measure side by side.

    Raises:
        ValueError: all of them are asked for where a CPU is measured.
    """
    if devices is None:
        return 1
    if device != "cuda":
        raise ValueError("--devices all puts a worker on each GPU, and this run measures the CPU")
    return torch.cuda.device_count()


def check_results_path(results: Path | None) -> None:
    """Refuse, before hours are spent, a results file that cannot be written or that the journal would overwrite."""
    if results is not None and results.is_dir():
        raise pytest.UsageError(f"--benchmark-json must name a file, got the folder {str(results)!r}")
    if results is not None and results.suffix == ".jsonl":
        raise pytest.UsageError(f"--benchmark-json must not end in .jsonl, as its journal does, got {str(results)!r}")


def check_distribution(config: pytest.Config) -> None:
    """Refuse to measure several cases at once under pytest-xdist, which also switches pytest-benchmark off."""
    worker, dist = os.environ.get("PYTEST_XDIST_WORKER"), config.getoption("dist", "no")
    if config.option.collectonly or (worker is None and dist == "no"):
        return
    output = getattr(config, "workeroutput", None)  # of a worker that pytest-xdist has started
    alone = output is None and dist == "no"
    remedy = f"unset PYTEST_XDIST_WORKER, which is {worker!r}" if alone else "leave out -n and --dist"
    reason = f"cases are measured one at a time, never by pytest-xdist: {remedy}"
    if output is None:
        raise pytest.UsageError(reason)
    output[REASON] = reason  # for ``Workers`` in the main process
    pytest.exit(reason, returncode=pytest.ExitCode.USAGE_ERROR)


class Workers:
    """In the main process of pytest-xdist: the first worker that refuses to measure ends the run."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """End the run where a worker has refused."""
        reason = getattr(node, "workeroutput", {}).get(REASON)
        if reason:
            pytest.exit(reason, returncode=pytest.ExitCode.USAGE_ERROR)
