"""A plugin for pytest under which timm's own tests see our models alone: ``-p tests.timm_names_only``.

With ``ACCELERATED`` in the environment they see timm's models with halo layers instead, each accelerated when created.
"""

import os

import timm

from halobench import models

ACCELERATED = os.environ.get("ACCELERATED")
MARKS = ("base", "forward", "backward", "cfg", "cfg_nonstd", "torchscript", "features", "fxforward", "fxbackward")

created, listed = timm.create_model, timm.list_models
seen = listed("*halo*", exclude_filters="halobench_*") if ACCELERATED else listed("halobench_*")


def ours(filter="", module="", pretrained=False, **options):  # noqa: A002 - timm's word
    """These names, where the tests list all models; none where they ask for models of others or for weights."""
    del module, options  # ours have what those of the listed modules have
    return [] if filter or pretrained else seen


def accelerated(name, *arguments, **options):
    """timm's model, its halo layers computed by a backend of ours."""
    model = created(name, *arguments, **options)
    result = models.accelerate(model)
    assert result.replaced or name not in seen, (name, result)
    return model


timm.list_models = ours
timm.list_pretrained = lambda *_arguments, **_options: []
if ACCELERATED:
    timm.create_model = accelerated


def pytest_configure(config):
    for mark in (*MARKS, "timeout"):
        config.addinivalue_line("markers", f"{mark}: timm's")
