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


def arm(*cores):
    """What 64-bit ARM's kernel writes of its cores."""
    return "".join(
        f"processor\t: {number}\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd\nCPU implementer\t: {one}\n"
        f"CPU architecture: 8\nCPU variant\t: {three}\nCPU part\t: {two}\nCPU revision\t: {four}\n\n"
        for number, (one, two, three, four) in enumerate(cores)
    )


GRAVITON2, GRAVITON3, GRACE = (("0x41", part, variant, "1") for part, variant in
                               (("0xd0c", "0x3"), ("0xd40", "0x1"), ("0xd4f", "0x0")))  # fmt: skip
CPUINFO = {
    arm(GRAVITON2, GRAVITON2): "ARM implementer 0x41 part 0xd0c r3p1",
    arm(GRAVITON3): "ARM implementer 0x41 part 0xd40 r1p1",
    arm(GRACE, GRAVITON3, GRACE): "ARM implementer 0x41 part 0xd40 r1p1, implementer 0x41 part 0xd4f r0p1",
    "processor\t: 0\nmodel name\t: AMD EPYC 7763\nmodel\t\t: 1\n": "AMD EPYC 7763",
    "processor\t: 0\ncpu\t\t: POWER9, altivec supported\n": "POWER9, altivec supported",
    arm(GRACE) + "Hardware\t: BCM2835\nModel\t\t: Raspberry Pi 4 Model B\n": "Raspberry Pi 4 Model B",
    "processor\t: 0\nmodel name\t: \n": None,
    "": None,
}


@pytest.mark.parametrize(("text", "name"), CPUINFO.items())
def test_two_processors_are_not_one(monkeypatch, text, name):
    """64-bit ARM names no model: its numbers tell an older machine from a newer one."""
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    assert cpu_model() == name
