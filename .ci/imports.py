"""``python .ci/imports.py``: import-linter on the packages as they are installed.

In the checkout, ``implementations/`` lies beside ``halobench/``, where the linter would not find it in the package.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Lay the packages out as a wheel holds them, and check the contracts there; the linter's exit status."""
    with tempfile.TemporaryDirectory(prefix="halobench-imports-") as folder:
        layout = ["--quiet", "build", "--build-base", folder, "--build-lib", f"{folder}/packages"]
        subprocess.run([sys.executable, "setup.py", *layout], cwd=ROOT, check=True)
        shutil.copy(ROOT / "pyproject.toml", f"{folder}/packages")
        linter = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
        return subprocess.run(linter, cwd=f"{folder}/packages", check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
