"""``python .ci/environment.py EXTRA``: make ``.venv`` and install the project with an extra, unless it is up to date.

PyTorch is large, so there is one environment, the one that the README's commands make; tox's menu runs in it.
A stamp holds the ``pyproject.toml`` that was installed last: nothing is done until that file changes.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv"


def main(extra: str) -> None:
    """Bring the environment up to date with the project's extra."""
    python = ENVIRONMENT / "bin" / "python"
    stamp = ENVIRONMENT / f"installed-{extra}.toml"
    wanted = (ROOT / "pyproject.toml").read_text()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-e", f".[{extra}]"], cwd=ROOT, check=True)
    stamp.write_text(wanted)


if __name__ == "__main__":
    main(sys.argv[1])
