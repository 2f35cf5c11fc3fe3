"""Which commits two revisions name, and what to fetch where a checkout lacks one."""

import pytest

from halobench.ab import worktrees
from tests.repositories import committed, git


@pytest.fixture
def repository(tmp_path):
    """A repository of one commit."""
    return committed(tmp_path / "repository", {"times.json": "{}"})


def test_three_dots_are_the_merge_base(repository):
    base = git(repository, "rev-parse", "main")
    git(repository, "checkout", "--quiet", "-b", "topic")
    (repository / "more").touch()
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "topic")
    git(repository, "checkout", "--quiet", "main")
    (repository / "times.json").write_text('{"slowed": 2}')
    git(repository, "commit", "--quiet", "--all", "--message", "main goes on")
    assert worktrees.commit_of(repository, "main...topic") == base
    assert worktrees.commit_of(repository, "topic...") == base
    assert worktrees.commit_of(repository, "main") != base


def clone(repository, place, *options):
    git(place, "clone", "--quiet", *options, f"file://{repository}", str(place / "clone"))
    return place / "clone"


def refused(root, revision):
    with pytest.raises(worktrees.GitError) as error:
        worktrees.commit_of(root, revision)
    return str(error.value)


def test_a_checkout_with_a_part_of_the_history_names_what_to_fetch(tmp_path, repository):
    """As continuous integration makes them: shallow, or of one branch."""
    git(repository, "checkout", "--quiet", "-b", "topic")
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "more")
    one = clone(repository, tmp_path, "--single-branch", "--branch", "topic")
    assert refused(one, "main").endswith(": git fetch origin main:main")
    assert refused(one, "main...").endswith(": git fetch origin main:main")
    assert refused(one, "a&b").endswith(": git fetch origin 'a&b:a&b'")  # what a shell would take apart is quoted
    assert refused(one, "main~1").endswith(": git fetch origin main:main")
    assert refused(one, "a b~1").endswith(f"names no commit of {one}")  # no name of a branch: nothing to fetch by
    git(one, "fetch", "--quiet", "origin", "main:refs/remotes/origin/main")
    assert refused(one, "main").endswith(", but origin/main does: give that")
    git(one, "fetch", "--quiet", "origin", "main:main")  # as the message says
    assert worktrees.commit_of(one, "main...") == git(repository, "rev-parse", "main")
    assert refused(one, "HEAD~999").endswith(f"names no commit of {one}")  # no branch is lacking
    (tmp_path / "second").mkdir()
    shallow = clone(repository, tmp_path / "second", "--depth", "1")
    assert ", which is shallow: git fetch --unshallow origin " in refused(shallow, "main...")
    assert refused(repository, "nowhere").endswith(f"'nowhere' names no commit of {repository}")


@pytest.mark.parametrize("revision", ["main", "main~0", "origin/main", "origin/main...", "HEAD...origin/main"])
def test_what_is_to_be_fetched_helps(tmp_path, repository, revision):
    git(repository, "checkout", "--quiet", "-b", "topic")
    one = clone(repository, tmp_path, "--single-branch", "--branch", "topic")
    command = refused(one, revision).partition(": git ")[2]
    git(one, *command.split())
    assert worktrees.commit_of(one, revision) == git(repository, "rev-parse", "main")
