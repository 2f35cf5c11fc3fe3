"""The fingerprint: what explains a measurement, nothing that names the owner of the machine, unknown is ``None``."""

import getpass
import json
import os
import platform
from pathlib import Path

import pytest

from halobench.machine import environment
from halobench.machine.environment import cpu_model, fingerprint, installed


def test_it_is_json():
    found = fingerprint("cpu")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["gpu"] is None
    assert found["python"] == platform.python_version()
    assert found["cpu"]["cores"] == os.cpu_count()


def test_it_names_nobody(monkeypatch):
    """No host, user or folder: not those of this machine, nor invented ones that cannot be there by accident."""
    monkeypatch.setattr(platform, "node", lambda: "some-host")
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "some-user")
    text = json.dumps(fingerprint("cpu"))
    given = {"some-host", "some-user", str(Path.home()), str(Path.cwd()), os.uname().nodename}
    if len(getpass.getuser()) > 4:  # shorter ones are part of other words
        given.add(getpass.getuser())
    assert [word for word in given if word in text] == []
    assert "/" not in text.replace("\\/", "")


def test_unknown_package():
    assert installed("a-package-that-nobody-has") is None
    assert installed("pytest") == pytest.__version__


def test_unknown_processor(monkeypatch):
    monkeypatch.setattr(environment, "Path", lambda _: Path("/proc/nothing/here"))
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert cpu_model() is None
