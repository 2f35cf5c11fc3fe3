"""Halo attention on shards of two GPUs, through NCCL: as on the whole map."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from halobench import Geometry, Problem, models
from halobench.distributed import Shards
from halobench.scale.settings import Settings
from tests import scaled_calls, sharded_calls
from tests.ranks import Ranks

SEEDS = tuple(range(start, start + 4) for start in range(1000, 1120, 4))
LAYERS = (
    Problem(Geometry(8, 3), 64, 48, heads=4),
    Problem(Geometry(8, 3, border="zero"), 48, 64, heads=4, value_dim=24),
    Problem(Geometry(8, 3, stride=2), 64, 64, batch=2, heads=4, key_dim=32, value_dim=32),
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    with Ranks(2, tmp_path_factory.mktemp("ranks"), "nccl") as two:
        yield two


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("backend", ["fused", "sdpa"])
@pytest.mark.parametrize("number", range(len(LAYERS)))
@pytest.mark.parametrize("columns", [False, True], ids=["2x1", "1x2"])
def test_layers_of_networks(two: Ranks, number: int, backend: str, dtype: str, columns: bool) -> None:
    """Heads and geometries of HaloNets, on uneven shards with an interior each: of rows, or of columns."""
    problem = replace(LAYERS[number], dtype=dtype)
    shards = Shards((problem.height,), (24, problem.width - 24)) if columns else Shards((24, problem.height - 24))
    one = sharded_calls.Drawn(problem, shards, backend, told=True)
    parts = two.ask(2, sharded_calls.call, one, number)
    assert not [part for part in parts if isinstance(part, Exception)]
    assert sharded_calls.fault(one, number, parts, "cuda") is None


def test_network(two: Ranks) -> None:
    """The logits of the whole image on both ranks, in float64."""
    model = sharded_calls.unlike_itself(models.create("halonet_mini", "sdpa", 10).double())
    image = torch.randn(1, 3, 250, 72, dtype=torch.float64)
    with torch.no_grad():
        whole = model.eval()(image).numpy()
    asked = "halonet_mini", {}, image, model.state_dict(), Shards((128, 122))
    for answer in two.ask(2, sharded_calls.network, *asked):
        np.testing.assert_allclose(answer, whole, rtol=1e-9, atol=1e-9)


def test_training_step_of_a_network(two: Ranks) -> None:
    """Loss, logits, all gradients and the running statistics after two steps, as on the whole image, in float64."""
    model = sharded_calls.unlike_itself(models.create("halonet_mini", "sdpa", 10).double())
    images, targets = 2 + 3 * torch.randn(2, 3, 250, 72, dtype=torch.float64), torch.arange(2)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    whole = sharded_calls.stepped(model, images, targets)
    shards = Shards((128, 122))
    sharded_calls.assert_alike(two.ask(2, sharded_calls.training, {}, images, targets, state, shards), whole, shards)


@pytest.mark.parametrize("what", ["operator", "inference"])
def test_a_replay_answers_as_the_call_does(two: Ranks, what: str) -> None:
    """With NCCL's messages in its graph, on memory that was overwritten before."""
    settings = Settings(
        ("halonet_mini",), "fused", "cuda", "bfloat16", 1, (1, 2), 1, 1, False, 25, False, False, Path("mine.json"),
        what=what, sides=(256,), captured=True,
    )  # fmt: skip
    for answer in two.ask(2, scaled_calls.replays, settings):
        assert answer is None, answer


@pytest.mark.parametrize("seeds", SEEDS, ids=lambda seeds: f"from-{seeds.start}")
def test_as_on_the_whole_map(two: Ranks, seeds: range) -> None:
    """Output and all gradients, by the accuracy rule, of random problems."""
    answers = two.ask(2, sharded_calls.calls, seeds)
    for answer in answers:
        assert not isinstance(answer, Exception), answer
    for number, seed in enumerate(seeds):
        one = sharded_calls.drawn(seed, 2, "nccl")
        assert sharded_calls.fault(one, seed, [part[number] for part in answers], "cuda") is None, (seed, one)
