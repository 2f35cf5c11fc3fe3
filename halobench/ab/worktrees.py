"""Git worktrees of the revisions to measure, and their removal whatever happens."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

AUTHOR = ("-c", "user.name=halobench", "-c", "user.email=halobench@localhost", "-c", "commit.gpgsign=false")


class GitError(Exception):
    """Git cannot do what was asked; the message is one line."""


@dataclass(frozen=True)
class Checkout:
    """A revision in a folder of its own."""

    revision: str
    commit: str
    folder: Path


def git(root: Path, *arguments: str, index: Path | None = None) -> str:
    """What git says.

    Raises:
        GitError: it fails, or is not installed.
    """
    environment = os.environ | ({"GIT_INDEX_FILE": str(index)} if index else {})
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False, env=environment
        )
    except OSError as error:
        raise GitError(f"git cannot be run: {error.strerror}") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise GitError(f"git {' '.join(arguments[:2])}: {said[-1]}")
    return done.stdout.strip()


def commit_of(root: Path, revision: str) -> str:
    """The commit that a revision names; ``A...B`` names the merge base of A and B, ``A...`` that of A and HEAD.

    Raises:
        GitError: there is no such commit.
    """
    left, dots, right = revision.partition("...")
    try:
        if dots:
            return git(root, "merge-base", left or "HEAD", right or "HEAD")
        return git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except GitError:
        raise GitError(f"{revision!r} names no commit of {root}{remedy(root, left, right)}") from None


def remedy(root: Path, *names: str) -> str:
    """What to fetch in a checkout that holds a part of the history only, as continuous integration makes them."""
    if git(root, "rev-parse", "--is-shallow-repository") == "true":
        return (
            ", which is shallow: git fetch --unshallow origin '+refs/heads/*:refs/remotes/origin/*', then origin/NAME"
        )
    remotes = git(root, "remote").splitlines()
    for name in filter(None, names):
        for remote in remotes:
            if not resolves(root, name) and resolves(root, f"refs/remotes/{remote}/{name}"):
                return f", but {remote}/{name} does: give that"
    branches = [re.split(r"[~^:]|@{", name)[0] for name in names]  # main~2 is two commits before main
    absent = [name for name in branches if name and not resolves(root, name)]
    if not remotes or len(absent) != 1 or " " in absent[0]:
        return ""
    return f": {shlex.join(['git', 'fetch', *refspec(remotes, absent[0])])}"


def refspec(remotes: Sequence[str], branch: str) -> tuple[str, str]:
    """The remote that a branch comes from, and what to fetch of it so that it has this name here."""
    for remote in remotes:
        if branch.startswith(f"{remote}/"):
            return remote, f"{branch.removeprefix(f'{remote}/')}:refs/remotes/{branch}"
    return remotes[0], f"{branch}:{branch}"


def resolves(root: Path, name: str) -> bool:
    """Whether a name is that of a commit."""
    try:
        git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    except GitError:
        return False
    return True


def snapshot(root: Path) -> str:
    """A commit of the working tree as it is, new files that are not ignored included.

    Nothing of the user's changes: not the branch, not the index, not a file. A clean tree is its own snapshot.
    """
    if not git(root, "status", "--porcelain"):
        return git(root, "rev-parse", "HEAD")
    with tempfile.TemporaryDirectory(prefix="halobench-index-") as folder:
        index = Path(folder) / "index"
        git(root, "read-tree", "HEAD", index=index)
        git(root, "add", "--all", index=index)
        tree = git(root, "write-tree", index=index)
    return git(root, *AUTHOR, "commit-tree", tree, "-p", "HEAD", "-m", "The working tree, to be measured")


@contextmanager
def checkouts(root: Path, base: str, head: str | None) -> Iterator[tuple[Checkout, Checkout]]:
    """Worktrees of the base and of the head (``None``: the working tree); both are gone at the end.

    Raises:
        GitError: a revision does not exist, both are the same commit, or git cannot make a worktree.
    """
    wanted = (("base", base, commit_of(root, base)), ("head", head or "working tree", head_commit(root, head)))
    if wanted[0][2] == wanted[1][2]:
        head_name = "the working tree" if head is None else repr(head)
        raise GitError(f"base and head must differ: {base!r} and {head_name} are both commit {wanted[0][2][:10]}")
    git(root, "worktree", "prune")
    place = Path(tempfile.mkdtemp(prefix="halobench-ab-"))
    try:
        made = []
        for name, revision, commit in wanted:
            git(root, "worktree", "add", "--detach", "--quiet", str(place / name), commit)
            made.append(Checkout(revision, commit, place / name))
        yield made[0], made[1]
    finally:
        shutil.rmtree(place, ignore_errors=True)
        git(root, "worktree", "prune")


def head_commit(root: Path, head: str | None) -> str:
    """The commit of the head."""
    return snapshot(root) if head is None else commit_of(root, head)


def changed(root: Path, base: Checkout, head: Checkout, *paths: str) -> list[str]:
    """The files below the paths in which two checkouts differ."""
    return git(root, "diff", "--name-only", base.commit, head.commit, "--", *paths).splitlines()
