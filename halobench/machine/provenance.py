"""Which commit the measured code is of: the packages' own files decide, never the current folder."""

import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

from halobench.attention import backends

PACKAGES = ("halobench", backends.PACKAGE)
DECLARED = "HALOBENCH_COMMIT"
# A hook of git sets these for its own repository; asked with them, git would speak of that one.
OF_ANOTHER = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
Commit = dict[str, str | bool | None]


def commit() -> Commit | None:
    """The commit of the code that runs here; ``None`` where nobody can say, as where it was installed from a wheel.

    ``id`` is the commit's hash; ``dirty`` says whether the files differ from it, ``None`` where that is unknown;
    ``declared`` whether the environment variable ``HALOBENCH_COMMIT`` named it. What is declared is believed, also
    against git, since a copy of the files may carry another history than theirs; whether files differ is unknown then.
    """
    found = of_files([folder(package) for package in PACKAGES])
    named = os.environ.get(DECLARED)
    if not named or (found is not None and str(found["id"]).startswith(named)):
        return found
    return {"id": named, "dirty": None, "declared": True}


def folder(package: str) -> Path:
    """Where the files of a package lie, without importing it."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the package {package} cannot be found", name=package)
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def of_files(folders: list[Path]) -> Commit | None:
    """The commit of the repository that tracks the first folder's files, or ``None``.

    It is dirty if a tracked file of it differs, or if one of the folders holds a new file that is not ignored, or lies
    outside of it. Files in ``site-packages`` are no part of the checkout that a virtual environment lies in: git does
    not track them.
    """
    first = folders[0]
    try:
        if not git(first, "ls-files", "--", "."):
            return None
        root = Path(git(first, "rev-parse", "--show-toplevel")).resolve()
        changed = git(first, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", ":/")
        entries = [(entry[:2], root / entry[3:]) for entry in changed.split("\0") if entry]
        new = [path for state, path in entries if state == "??"]
        inside = any(path.is_relative_to(each) for path in new for each in folders)
        elsewhere = not all(each.is_relative_to(root) for each in folders)
        return {
            "id": git(first, "rev-parse", "HEAD"),
            "dirty": len(new) < len(entries) or inside or elsewhere,
            "declared": False,
        }
    except (OSError, subprocess.SubprocessError):
        return None


def git(place: Path, *arguments: str) -> str:
    """What git says in a folder, whatever repository the environment points at.

    Raises:
        OSError: there is no git, or no such folder.
        subprocess.SubprocessError: git refuses, as outside of any repository, or in one that is somebody else's.
    """
    environment = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER}
    run = subprocess.run(
        ["git", "--no-optional-locks", "-C", str(place), *arguments],
        env=environment, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    return run.stdout.rstrip("\n")
