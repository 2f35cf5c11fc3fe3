"""What a run cannot do ends it with one line and exit status 2, before an image is read; else it says what it found."""

import sys
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from halobench import backends, models
from halobench.attention.problem import Unsupported
from halobench.train import preamble, settings
from halobench.train.__main__ import main
from halobench.train.data import Data
from halobench.train.settings import complete
from halobench.train.step import Step
from halobench.train.time_to_accuracy import main as time_to_accuracy
from tests.training_runs import command, settings_of


@pytest.fixture
def unread(monkeypatch):
    """Reading images, or looking for them, is an error."""

    def fail(*_):
        raise AssertionError("images were looked for")

    monkeypatch.setattr(Data, "part", fail)


def refused(capsys, source, output, *flags, **changes):
    """What a run says that ends with exit status 2 and one line."""
    try:
        status = main(command(source, output, *flags, **changes))
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr()
    assert status == 2
    assert "epoch" not in said.out
    assert said.err.startswith("halobench.train: ")
    assert said.err.count("\n") == 1
    return said.err.removeprefix("halobench.train: ").rstrip()


FINITE = "must be a finite number, at least 0, got"
BELOW_1 = "must be at least 0 and below 1, got"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        *((name, value, f"{FINITE} {value}") for name in ("learning_rate", "weight_decay", "warm_up_epochs")
          for value in ("nan", "inf", "-0.1")),
        *((name, value, f"{BELOW_1} {value}") for name in ("label_smoothing", "stochastic_depth", "ema")
          for value in ("nan", "inf", "-0.5", "1.0")),
        *((name, value, f"must be at least 1 and below 2^31, got {value}") for name in ("epochs", "batch", "image_size")
          for value in (0, -3, 10**400)),
        ("workers", -1, "must be at least 0 and below 2^31, got -1"),
        ("skip_unreadable", -1, "must be at least 0 and below 2^31, got -1"),
        ("randaugment", -1, "must be at least 0 and at most 10, got -1"),
        ("randaugment", 11, "must be at least 0 and at most 10, got 11"),
        ("warm_up_epochs", 3.0, "must be at most --epochs 2, got 3.0"),
    ],
)  # fmt: skip
def test_numbers_that_cannot_be(option, value, said, fashion, tmp_path, unread, capsys):
    assert refused(capsys, fashion, tmp_path, **{option: value}) == f"--{option.replace('_', '-')} {said}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "halonet_h9"}, "no model is called 'halonet_h9'; there are halonet_h0, "),
        ({"backend": "sdp"}, "--backend: no backend is called 'sdp'; there are compiled, "),
        (
            {"model": "convnet_mini", "backend": "sdpa"},
            "--backend: convnet_mini has no attention slots to fill, got 'sdpa'",
        ),
        ({"device": "cuda"}, "--device cuda: torch sees no CUDA device on this machine"),
    ],
)
def test_names_that_cannot_be(options, said, fashion, tmp_path, unread, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refused(capsys, fashion, tmp_path, **options).startswith(said)


def test_a_package_that_is_missing_is_named(fashion, tmp_path, unread, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "halonet_pytorch", None)
    monkeypatch.delitem(sys.modules, "halobench.implementations.lucidrains", raising=False)
    said = refused(capsys, fashion, tmp_path, backend="lucidrains")
    assert said.startswith("--backend lucidrains cannot be loaded: ")
    assert "halonet_pytorch" in said


def test_what_a_backend_refuses_when_it_is_called(fashion, tmp_path, unread, capsys):
    """Kernels for a GPU say so when they are called, and not when they are built."""
    said = refused(capsys, fashion, tmp_path, backend="fused_cuda", device="cpu")
    assert said.startswith("halonet_mini cannot use the backend 'fused_cuda' here: ")


def test_what_a_backend_refuses_when_it_is_built(fashion, tmp_path, unread, capsys, monkeypatch):
    def build(layer):
        raise Unsupported("blocks of\nfour")

    load = backends.load
    monkeypatch.setattr(backends, "load", lambda name: replace(load(name), build=build))
    said = refused(capsys, fashion, tmp_path)
    assert said == "halonet_mini cannot use the backend 'sdpa' here: blocks of four"


@pytest.mark.parametrize("size", [10**5, 10**9])
def test_images_larger_than_memory(size, fashion, tmp_path, unread, capsys):
    """In truth: the first is more memory than there is, the second more than a number can say."""
    said = refused(capsys, fashion, tmp_path, image_size=size, batch=1024)
    assert said == f"out of memory: halonet_mini takes more than cpu has for a step of 1024 images of {size} pixels"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried\nto"), MemoryError()])
def test_memory_that_runs_out_later(error, fashion, tmp_path, monkeypatch, capsys):
    """As when another program takes it: the trial went well."""

    def fail(*_):
        raise error

    monkeypatch.setattr(Step, "__call__", fail)
    said = refused(capsys, fashion, tmp_path, model="resnet_mini")
    assert said == "out of memory: resnet_mini takes more than cpu has for a step of 32 images of 32 pixels"


def test_sizes_that_the_model_does_not_take(fashion, tmp_path, unread, capsys):
    """A map of one pixel has no variance."""
    said = refused(capsys, fashion, tmp_path, image_size=1, batch=1)
    cannot = "halonet_mini cannot take a step of 1 image of 1 pixel: "
    assert said.startswith(f"{cannot}Expected more than 1 value per channel when training")


def test_what_timm_asserts_of_sizes_is_one_line(fashion, tmp_path, unread, capsys, monkeypatch):
    """A vision transformer as timm makes it has one size; a small one stands for the large one of the catalogue."""
    small = timm.create_model("test_vit", num_classes=10)
    monkeypatch.setattr(models, "create", lambda *_, **__: small)
    said = refused(capsys, fashion, tmp_path, model="vit_large_patch16", image_size=31)
    assert said.startswith("vit_large_patch16 cannot take a step of 32 images of 31 pixels: Input height (31)")


class Called(nn.Linear):
    """A model that does what a function does."""

    def __init__(self, function):
        super().__init__(4, 10)
        self.function = function

    def forward(self, images):
        return self.function(images)


def test_sizes_that_divide_nothing_train(fashion, tmp_path):
    assert main(command(fashion, tmp_path, image_size=7, batch=53, epochs=1)) == 0


def test_a_fault_of_a_kernel_keeps_its_traceback(fashion, tmp_path, monkeypatch):
    """It is no choice of the user's."""

    def broken(images):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(models, "create", lambda *_, **__: Called(broken))
    with pytest.raises(torch.AcceleratorError):
        main(command(fashion, tmp_path))


def test_the_trial_leaves_nothing_behind(fashion, tmp_path, monkeypatch):
    """Weights, statistics, gradients and chance are those of a run without it."""
    options = {"model": "resnet_mini", "epochs": 1, "stochastic_depth": 0.3, "ema": 0.9}
    main(command(fashion, tmp_path / "with", **options))
    monkeypatch.setattr("halobench.train.trial.take", lambda *_: None)
    main(command(fashion, tmp_path / "without", **options))
    one, other = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("with", "without"))
    for part in ("model", "ema"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])


def test_a_run_begins_with_what_it_found(fashion, tmp_path, capsys):
    main(command(fashion, tmp_path, model="resnet_mini", epochs=1))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("resnet_mini: 373,658 parameters, on ")
    assert lines[0].endswith("(cpu) in float32; 32 images of 32 pixels a step, processes: 1")
    assert lines[1:5] == [
        f"{fashion}: 10 classes",
        "  to train on: 160 images",
        "  to test on: 40 images",
        f"{tmp_path}: checkpoint.pt, curves.csv, tensorboard/",
    ]
    assert lines[5].startswith("epoch 1/1: ")


@pytest.mark.parametrize(("has", "dtype"), [(True, "bfloat16"), (False, "float16")])
def test_a_gpu_without_bfloat16_computes_in_float16_and_says_so(has, dtype, tmp_path, monkeypatch):
    """Emulated bfloat16, which PyTorch counts unless told not to, is slower than float32."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has or including_emulation)
    given = {"model": "halonet_mini", "optimizer": "sgd", "batch": 64, "data": tmp_path, "output": tmp_path}
    assert complete(dict(given), 1).dtype == dtype
    assert complete({**given, "dtype": "float32"}, 1).dtype == "float32"
    said = preamble.why(complete({**given, "dtype": "float16"}, 1))
    assert said == " with scaled gradients" + ("" if has else ", as this GPU has no bfloat16")
    assert not preamble.why(complete({**given, "dtype": "bfloat16"}, 1))


def test_only_float16_scales(fashion, tmp_path):
    assert settings_of(fashion, tmp_path, dtype="float16").dtype == "float16"
    assert not Step(nn.Linear(2, 2), nn.MSELoss(), torch.optim.SGD([nn.Parameter(torch.zeros(1))])).scaler.is_enabled()
    assert {name for names, *_ in settings.RANGES for name in names} >= {"learning_rate", "ema", "skip_unreadable"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--models", "resnet_mini", "halonet_h9"), "no model is called 'halonet_h9'"),
        (("--epochs", "0"), "--epochs must be at least 1 and below 2^31, got 0"),
        (("--target", "nan"), "--target must be between 0 and 1, got nan"),
        (("--backend", "sdp"), "no backend is called 'sdp'"),
    ],
)
def test_time_to_accuracy_checks_all_its_runs_before_the_first(flags, said, fashion, tmp_path, unread, capsys):
    with pytest.raises(SystemExit) as end:
        time_to_accuracy(["--data", str(fashion), "--output", str(tmp_path / "runs"), *flags])
    assert end.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
