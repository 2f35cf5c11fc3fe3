"""Backends of other packages, for tests: modules and a ``dist-info`` as pip would lay them out."""

import os
from pathlib import Path


def install(folder, backends):
    """Write a distribution into ``folder`` that adds ``backends``: their source by name."""
    lines = ["[halobench.backends]"]
    for name, source in backends.items():
        (folder / f"{name}_backend.py").write_text(source)
        lines.append(f"{name} = {name}_backend")
    info = folder / "third_party-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def python_path(folder):
    """The value of ``PYTHONPATH`` under which other processes find the distribution, and this checkout."""
    checkout = str(Path(__file__).parent.parent)
    return os.pathsep.join([str(folder), checkout, *filter(None, [os.environ.get("PYTHONPATH")])])
