"""The packages that are installed: halobench, and in it the folder ``implementations/``, which lies beside it here.

All else stands in ``pyproject.toml``, which can map folders to packages but not find those of a mapped one.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["halobench", "halobench.*"]),
        "halobench.implementations",
        *(f"halobench.implementations.{name}" for name in find_packages("implementations")),
    ],
    package_dir={"halobench.implementations": "implementations"},
)
