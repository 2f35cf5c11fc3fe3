"""A plugin for pytest under which timm's own tests see our models alone: ``-p tests.timm_names_only``."""

import timm

import halobench.models  # noqa: F401 - registers them

listed = timm.list_models
MARKS = ("base", "forward", "backward", "cfg", "cfg_nonstd", "torchscript", "features", "fxforward", "fxbackward")


def ours(filter="", module="", pretrained=False, **options):  # noqa: A002 - timm's word
    """Our names, where the tests list all models; none where they ask for models of theirs or for weights."""
    del module, options  # ours have what those of the listed modules have
    return [] if filter or pretrained else listed("halobench_*")


timm.list_models = ours
timm.list_pretrained = lambda *_arguments, **_options: []


def pytest_configure(config):
    for mark in (*MARKS, "timeout"):
        config.addinivalue_line("markers", f"{mark}: timm's")
