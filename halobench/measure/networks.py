"""A whole network, measured: a training step or inference, in turn with a rival's, so that their ratio is paired."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from halobench import models
from halobench.attention.problem import Direction, Unsupported
from halobench.cases.network import Network, NetworkCase
from halobench.machine.clock import Burst, Clock
from halobench.machine.load import Watch
from halobench.machine.memory import ran_out
from halobench.measure import conformance, energy, graphs, memory, parts, steps
from halobench.measure.engine import Incorrect, Settings, Stopwatch, clock_fields, latency_fields
from halobench.measure.rivals import Rivals
from halobench.measure.statistics import summarize
from halobench.models.catalogue import Detector, FromTimm
from halobench.train import detection, workload

Fields = dict[str, Any]
SMALLEST_BATCH = 4
WARM_UP_STEPS = 3
RECOMPILATIONS = 64  # a network has a layer a shape, and the compiler would give up at eight


@dataclass
class Contestant:
    """A network on the device, warm. ``call`` is one step; ``first_s`` is how long the first one took.

    ``tensors`` are those that a step leaves in memory, the images first.
    ``peak_bytes`` is that of a step whose kernels the host launches, above ``resident_bytes``: what ``call`` replays
    allocates nothing.
    """

    network: Network
    model: nn.Module
    call: Callable[[], Tensor]
    tensors: Callable[[], Iterator[Tensor]]
    resident_bytes: int
    peak_bytes: int | None
    first_s: float

    @property
    def replayed(self) -> bool:
        """Whether a step is the replay of a CUDA graph."""
        return isinstance(self.call, graphs.Replay)

    @property
    def whole_peak_bytes(self) -> int | None:
        """The most that a call holds in memory, with what lasts; ``None`` where nothing counts it."""
        return None if self.peak_bytes is None else self.peak_bytes + self.resident_bytes

    @classmethod
    def prepare(cls, network: Network, direction: Direction, device: str, clock: Clock) -> "Contestant":
        """Build the network, compile it, take the first steps, and capture one where steps are replayed.

        Raises:
            Incorrect: the loss, or the output, is not finite.
            Unsupported: its steps cannot be replayed.
            Uncapturable: a step could not be captured.
        """
        if not replays(network, device):
            return cls.warm(network, direction, device, clock)
        with graphs.side_stream():
            contestant = cls.warm(network, direction, device, clock)
            contestant.call = graphs.capture(contestant.call, network.model)
        contestant.repeat(direction)
        return contestant

    @classmethod
    def warm(cls, network: Network, direction: Direction, device: str, clock: Clock) -> "Contestant":
        """Build the network, compile it and take the first steps, launched by the host."""
        model, room = workload.network_model(network, device), detection if detects(network) else workload
        call, tensors = (room.training_step if direction == "training" else room.inference)(model, network, device)
        clock.synchronize()
        started = time.monotonic()
        call()
        clock.synchronize()
        first_s = time.monotonic() - started
        resident = sum(tensor.numel() * tensor.element_size() for tensor in tensors())
        warm = cls(network, model, call, tensors, resident, None, first_s)
        warm.repeat(direction)
        warm.peak_bytes = memory.peak_bytes(call, device)
        return warm

    def repeat(self, direction: Direction) -> None:
        """Call a few times, and look at the last outcome."""
        for _ in range(WARM_UP_STEPS):
            outcome = self.call()
        self.demand_finite(outcome, direction)

    def demand_finite(self, outcome: Tensor, direction: Direction) -> None:
        """Raise ``Incorrect`` where a loss or an output is not finite."""
        if not bool(outcome.isfinite().all()):
            what = "loss" if direction == "training" else "output"
            raise Incorrect(f"the {what} of {self.network.model} is not finite")

    def ask_again(self, direction: Direction) -> None:
        """Look at what was timed: a step moves the parameters, an output follows the images in its memory.

        Raises:
            Incorrect: it does not, or its outcome is not finite.
        """
        if direction == "training":
            before = norms(self.model)
            self.demand_finite(self.call(), direction)
            if norms(self.model).equal(before):
                raise Incorrect(f"a step of {self.network.model} left its parameters as they were, after it was timed")
            return
        images, output = next(self.tensors()), self.call().clone()
        images.neg_()
        other = self.call()
        self.demand_finite(other, direction)
        if other.equal(output):
            raise Incorrect(f"the output of {self.network.model} is the same for other images in the same memory")


def norms(model: nn.Module) -> Tensor:
    """The norm of each parameter."""
    return torch.stack([parameter.detach().norm() for parameter in model.parameters()])


def replays(network: Network, device: str) -> bool:
    """Whether this network is measured by replaying its call: a compiled one on a GPU, or one that asks for it.

    A detector is not: how many boxes there are is known on the host only.

    Raises:
        Unsupported: each of its steps draws on the host, and a graph would repeat one draw.
    """
    if not (network.compiled or network.captured) or torch.device(device).type != "cuda" or detects(network):
        return False
    if network.magnitude is not None:
        raise Unsupported(
            f"RandAugment draws anew on the host in each step, a CUDA graph would repeat one draw: "
            f"on a GPU neither compiled nor captured, got magnitude {network.magnitude}"
        )
    return True


def detects(network: Network) -> bool:
    """Whether this network is a detector."""
    return isinstance(models.entry(network.model).recipe, Detector)


def measure(case: NetworkCase, clock: Clock, settings: Settings, rivals: Rivals[Contestant]) -> Fields:
    """The measured fields of a network's row.

    Raises:
        ModuleNotFoundError: the backend needs a package that is not installed.
        Unsupported: the backend refuses a layer, the dtype cannot train, the steps cannot be replayed, or fused
            normalisation would not be at work.
        Incorrect: the backend is wrong in a layer of the network, or what was timed is wrong afterwards.
        Uncapturable: the call of the network, or of its rival, could not be captured as a CUDA graph.
        MemoryError, torch.OutOfMemoryError: the network, or its rival, does not fit.
    """
    for network in (case.network, case.rival):
        refuse_fused(network, case.direction, case.device)
    if case.direction == "training" and case.network.dtype == "float16":
        raise Unsupported("a training step in float16 needs loss scaling, which no step here has: bfloat16 or float32")
    stopwatch = Stopwatch()
    flags = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)
    with flags, torch._dynamo.config.patch(recompile_limit=RECOMPILATIONS):  # noqa: SLF001 - documented, but private
        with stopwatch.phase("checks"):
            checked = conformance.verify(case.network, case.direction, case.device)
        if not settings.timed:
            return {"accuracy": checked, "seconds": stopwatch.total()}
        batch = case.network.batch
        while True:
            try:
                measured = at_batch(case, batch, clock, settings, rivals, stopwatch)
            except Exception as error:
                if not ran_out(error) or not case.shrink or batch // 2 < SMALLEST_BATCH:
                    raise
            else:
                memory.release()  # a network is full of cycles
                with stopwatch.phase("checks"):
                    conformance.ask_again(case.network, case.direction, case.device)
                return {**measured, "accuracy": checked, "seconds": stopwatch.total()}
            rivals.clear()  # after the exception is gone, with the tensors its frames held
            batch //= 2


def refuse_fused(network: Network | None, direction: Direction, device: str) -> None:
    """Raise ``Unsupported`` for fused normalisation where it is not at work: the same would be measured twice."""
    recipe = None if network is None else models.entry(network.model).recipe
    if network is None or not (isinstance(recipe, FromTimm) and recipe.fused):
        return
    if not network.compiled or direction != "training" or torch.device(device).type != "cuda":
        how = f"{direction}, {'compiled' if network.compiled else 'uncompiled'}, on {device}"
        raise Unsupported(
            f"fused normalisation serves compiled training steps on a GPU; {how}, {network.model} is as timm wrote it"
        )


def at_batch(
    case: NetworkCase, batch: int, clock: Clock, settings: Settings, rivals: Rivals[Contestant], stopwatch: Stopwatch
) -> Fields:
    """The measured fields at a batch that the network and its rival share."""
    network = replace(case.network, batch=batch)
    with stopwatch.phase("warmup"):
        rival = None
        if case.rival is not None:
            rival = kept(replace(case.rival, batch=batch), case, clock, rivals)
        if rival is None:  # it may be the next cases' rival
            own = kept(network, case, clock, rivals)
        else:
            own = Contestant.prepare(network, case.direction, case.device, clock)
    with stopwatch.phase("measured"), Watch(case.device) as watch:
        calls = [own.call] if rival is None else [own.call, rival.call]
        single = case.direction == "forward" and batch == 1
        samples, *others = steps.alternate(calls, clock, settings.effort, single=single)
        middle = median(samples.device_ms)
        joules = energy.joules_per_call(own.call, middle, case.device) if case.energy else None
        of_parts = parts.parts_ms(own.model, own.call, case.device) if detects(network) else None
        own.ask_again(case.direction)
    return {
        "samples_ms": samples.device_ms,
        "latency": latency_fields(samples, replayed=own.replayed),
        "clock": clock_fields(samples),
        "load": asdict(watch.load),
        "memory": {
            "peak_bytes": own.whole_peak_bytes,
            "resident_bytes": own.resident_bytes,
        },
        "energy_joules": joules,
        "throughput": {
            "batch": batch,
            "images_per_s": batch / middle * 1e3,
            "joules_per_image": None if joules is None else joules / batch,
            "parameters": sum(parameter.numel() for parameter in own.model.parameters()),
            "first_step_s": own.first_s,
        },
        "parts_ms": of_parts,
        "paired": None if rival is None else paired_fields(rival, samples, others[0]),
    }


def kept(network: Network, case: NetworkCase, clock: Clock, rivals: Rivals[Contestant]) -> Contestant:
    """The contestant of this network, kept from an earlier case or prepared now."""
    return rivals.prepare(
        (network, case.direction), lambda: Contestant.prepare(network, case.direction, case.device, clock)
    )


def paired_fields(rival: Contestant, samples: Burst, others: Burst) -> Fields:
    """How the network's time compares with its rival's, pair by pair: the median ratio with its 95 % interval."""
    ratios = [own / other for own, other in zip(samples.device_ms, others.device_ms, strict=True)]
    summary = summarize(ratios)
    return {
        "rival": rival.network.model,
        "rival_side": rival.network.side,
        "rival_peak_bytes": rival.whole_peak_bytes,
        "rival_median_ms": median(others.device_ms),
        "rival_samples_ms": others.device_ms,
        "ratio": summary.median,
        "ratio_low": summary.low,
        "ratio_high": summary.high,
    }
