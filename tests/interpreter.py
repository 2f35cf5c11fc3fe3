"""Checks of kernels in Triton's interpreter, which TRITON_INTERPRET=1 asks for before Triton is imported.

``python -m tests.interpreter`` reads a line of JSON for each check, the module of ``tests`` that has it and its name in
``CHECKS`` there, and answers with what is wrong, or ``null``. Memory that a kernel does not fill holds NaN there.
"""

import importlib
import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]
LONGEST_S = 600


class Interpreter:
    """The process, as the tests see it; it starts with the first check."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process is not None:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.process.stdin.close()  # the end of its input is the end of it
            self.process.wait(timeout=60)
            self.process.stdout.close()

    def fault(self, module: str, check: str) -> str | None:
        """What is wrong with a check of a module of ``tests``."""
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.interpreter"],
                cwd=ROOT,
                env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        watch = threading.Timer(LONGEST_S, self.process.kill)
        watch.start()
        try:
            print(json.dumps([module, check]), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        finally:
            watch.cancel()
        assert answer, f"the interpreter ended with {self.process.wait()}"
        return json.loads(answer)


def patch_once() -> None:
    """Have Triton's language patched once; Triton does so again at each call of a function, for half of the time."""
    from triton.runtime import interpreter  # noqa: PLC0415 - the tests themselves run without Triton, too

    patch, patched = interpreter._patch_lang, set()

    def patch_for(function: Callable[..., Any]) -> SimpleNamespace:
        if function.__module__ not in patched:
            patched.add(function.__module__)
            patch(function)
        return SimpleNamespace(restore=lambda: None)

    interpreter._patch_lang = patch_for


def watch_overflows() -> None:
    """Have sums and products of integers fail where they overflow.

    Triton itself computes each once more in 64 bits, for half of the time, and then says nothing of what it finds.
    """
    import numpy as np  # noqa: PLC0415 - as in `main`
    from triton.language.semantic import TritonSemantic  # noqa: PLC0415 - as in `patch_once`

    exactly = {"add": np.add, "sub": np.subtract, "mul": np.multiply}

    def watched(_: object, left: Any, right: Any, operation: Callable[..., Any]) -> None:
        dtype = left.type.scalar
        if dtype.int_bitwidth < 64:
            found = exactly[operation.__name__](left.handle.data, right.handle.data, dtype=np.int64)
            low, high = dtype.get_int_min_value(), dtype.get_int_max_value()
            assert low <= found.min() <= found.max() <= high, f"{operation.__name__} of {dtype} overflows: {found}"

    TritonSemantic.binary_op_sanitize_overflow_impl = watched


def main() -> None:
    import torch  # noqa: PLC0415 - every run of pytest imports this module, and but this process has no use for that

    from halobench.models.norm import launch  # noqa: PLC0415 - the same

    torch.use_deterministic_algorithms(True)  # fills empty tensors with NaN
    patch_once()
    watch_overflows()
    launch.wrap_triton = lambda kernel: kernel  # PyTorch 2.11 does not wrap what is interpreted
    for line in sys.stdin:
        module, check = json.loads(line)
        fault = None
        try:
            with redirect_stdout(sys.stderr):
                importlib.import_module(f"tests.{module}").CHECKS[check]()
        except Exception:  # noqa: BLE001 - the test that asked shows it
            fault = traceback.format_exc()
        print(json.dumps(fault), flush=True)  # noqa: T201 - what the test reads


if __name__ == "__main__":
    main()
