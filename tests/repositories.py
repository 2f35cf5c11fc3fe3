"""Git repositories that tests make: of one commit, and what git says of them."""

import subprocess

IDENTITY = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")


def git(folder, *arguments):
    """What git says in a folder; it may fetch from folders, which submodules otherwise may not."""
    options = (*IDENTITY, "-c", "protocol.file.allow=always")
    run = subprocess.run(
        ["git", "-C", str(folder), *options, *arguments], check=True, capture_output=True, text=True, timeout=30
    )
    return run.stdout.strip()


def committed(root, contents):
    """A repository whose one commit, of the branch ``main``, holds files, given with their contents."""
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    git(root.parent, "init", "--quiet", "--initial-branch=main", str(root))
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "one")
    return root
