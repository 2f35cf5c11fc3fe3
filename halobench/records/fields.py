"""The columns of results files: where each stands in a row, what may stand there, and what it means.

This is the one place that says so: ``halobench.records.schema`` checks rows by it, and docs/metrics.md is made from it.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "flag", "count", "number", "positive"]
UNTIMED = "the case has no time: its status says why, or the run only checked (--benchmark-disable)"
NO_LOAD = "no time, an older file, or the system does not say"
NO_NVML = "NVML gave nothing, as of a MIG slice, or the case ran on a CPU"


@dataclass(frozen=True)
class Field:
    """A column: its path in a row, its meaning and unit, the module it is made in, what null means.

    A column without ``null`` is required.
    """

    path: str
    kind: Kind
    meaning: str
    unit: str = ""
    made: str = "halobench.cases.case"
    null: str = ""

    @property
    def required(self) -> bool:
        """Whether every row must have it."""
        return not self.null


def of_latency(name: str, kind: Kind, meaning: str, unit: str = "", null: str = UNTIMED) -> Field:
    """A column of what the samples of the call say."""
    return Field(f"latency.{name}", kind, meaning, unit, "halobench.measure.engine", null)


def of_cost(name: str, meaning: str, unit: str, null: str, made: str = "halobench.cases.cost") -> Field:
    """A column of the case's work."""
    return Field(f"cost.{name}", "number", meaning, unit, made, null)


def of_clock(name: str, kind: Kind, meaning: str, unit: str = "") -> Field:
    """A column of what NVML said while the call was sampled."""
    return Field(f"clock.{name}", kind, meaning, unit, "halobench.machine.nvml", NO_NVML)


def of_load(name: str, kind: Kind, meaning: str, unit: str = "", null: str = "") -> Field:
    """A column of who else was at work while the call was measured."""
    return Field(f"load.{name}", kind, meaning, unit, "halobench.machine.load", null or NO_LOAD)


def of_seconds(name: str, meaning: str, null: str = "nothing of the case was run") -> Field:
    """A column of where the wall time of the case went."""
    return Field(f"seconds.{name}", "number", meaning, "s", "halobench.measure.engine", null)


def of_scaling(name: str, kind: Kind, meaning: str, unit: str = "", null: str = "a row of the suites") -> Field:
    """A column of what several ranks did together."""
    return Field(f"scaling.{name}", kind, meaning, unit, "halobench.scale.campaign", null)


SINGLE = "a row of the suites, or a single rank"
NO_SINGLE = "a row of the suites, or the single rank has no time"
SCALING = {
    "scaling": of_scaling("kind", "text", "`weak`: the batch of a rank is the same; `strong`: that of all ranks"),
    "ranks": of_scaling("ranks", "count", "processes that worked together, a GPU each"),
    "grid": of_scaling(
        "grid", "text", "rows and columns of them, `2x3`, that share an image", "", "none is shared, or an older file"
    ),
    "gradients": of_scaling(
        "gradients", "text", "how the run's steps average them: in `buckets`, by DistributedDataParallel, or `flat`, "
        "in one message", "", "a row of the suites, a shared image, or an older file, which has buckets",
    ),
    "efficiency": of_scaling(
        "efficiency", "number", "t1 / tN; under strong scaling t1 / (N tN), paired by rounds", "", NO_SINGLE
    ),
    "efficiency_low": of_scaling(
        "efficiency_low", "number", "lower end of its bootstrap 95 % interval", "", NO_SINGLE
    ),
    "efficiency_high": of_scaling("efficiency_high", "number", "upper end of that interval", "", NO_SINGLE),
    "communicated_bytes": of_scaling(
        "communicated_bytes", "number", "gradients all-reduced a step; of a shared image, what the rank sends and sums "
        "that does so most", "bytes", SINGLE,
    ),
    "communication_ms": of_scaling(
        "communication_ms", "positive", "sending the same by itself", "ms", SINGLE
    ),
    "exposed_ms": of_scaling("exposed_ms", "number", "the call less the same without communication", "ms", SINGLE),
    "bus_bytes_per_s": of_scaling(
        "bus_bytes_per_s", "positive", "bus bandwidth of that, as nccl-tests define it", "bytes/s", SINGLE
    ),
    "bus_share": of_scaling(
        "bus_share", "number", "over the best that an all-reduce of any size reached; of a shared image, that sending "
        "to the next rank did", "", SINGLE,
    ),
    "rank_peak_bytes": of_scaling(
        "rank_peak_bytes", "number", "`peak_bytes` of the rank that needs most", "bytes",
        "a row of the suites, an older file, or on a CPU",
    ),
}  # fmt: skip


NO_LAYER = "a row about an operator, which has no layer"
UNKNOWN_COST = "the backend gives no account of its work (no `execution`)"
NO_COUNT = "not asked (network stages of the default tier), or the counter cannot see this backend"
NO_FLOOR = "no time, or a ceiling of this machine is not known"
FIELDS = {
    "suite": Field("suite", "text", "the suite that the case belongs to: operator, layer, training, detection"),
    "case": Field("case", "text", "the case's name, unique in a file: suite, backend, direction, task"),
    "backend": Field("backend", "text", "the implementation; `none` for a network without attention slots"),
    "direction": Field("direction", "text", "forward: without gradients; training: with the gradients of all inputs"),
    "label": Field("label", "text", "the network stages that the case stands for", null="it stands for none"),
    "block": Field("problem.geometry.block", "count", "side of a block of queries", "pixels"),
    "halo": Field("problem.geometry.halo", "count", "margin of the window on each side of the block", "pixels"),
    "stride": Field("problem.geometry.stride", "count", "distance of the queries along an axis", "pixels"),
    "border": Field("problem.geometry.border", "text", "what lies outside the image: masked, or zero"),
    "height": Field("problem.height", "count", "height of the map", "pixels"),
    "width": Field("problem.width", "count", "width of the map", "pixels"),
    "batch": Field("problem.batch", "count", "images of a call"),
    "heads": Field("problem.heads", "count", "attention heads"),
    "key_dim": Field("problem.key_dim", "count", "channels of a query or key in a head"),
    "value_dim": Field("problem.value_dim", "count", "channels of a value in a head"),
    "relative": Field("problem.relative", "flag", "whether there are relative positions"),
    "dtype": Field("problem.dtype", "text", "data type of the tensors"),
    "channels": Field("layer.channels", "count", "channels of the layer's input", null=NO_LAYER),
    "positions": Field("layer.positions", "text", "how the layer fills its tables: split, or sum", null=NO_LAYER),
    "kernel": Field("layer.kernel", "count", "side of the convolution in a layer's place", "pixels", null=NO_LAYER),
    "device": Field("device", "text", "cuda or cpu"),
    "status": Field(
        "status", "text", "OK, or what went wrong: OOM, UNSUPPORTED, MISSING, INCORRECT, TIMEOUT, CRASHED",
        made="halobench.measure.worker",
    ),
    "reason": Field("reason", "text", "why there is no time", made="halobench.measure.worker", null="the status is OK"),
    "median_ms": of_latency("median_ms", "positive", "median duration of the call on the device", "ms"),
    "low_ms": of_latency("low_ms", "positive", "lower end of the median's bootstrap 95 % interval", "ms"),
    "high_ms": of_latency("high_ms", "positive", "upper end of that interval", "ms"),
    "host_ms": of_latency("host_ms", "positive", "median time that the call, launched, keeps the host", "ms"),
    "noise": of_latency("noise", "number", "half of the interval's width over the median"),
    "outliers": of_latency("outliers", "count", "samples beyond the upper quartile by three interquartile ranges"),
    "exposed": of_latency(
        "exposed", "count", "samples whose launches could not be hidden: the host is part of their time", "",
        "no time, or a file from before it was counted",
    ),
    "peak_bytes": Field(
        "memory.peak_bytes", "number", "memory of the call at its peak, its inputs not; of a network, with its state",
        "bytes", "halobench.measure.memory", UNTIMED,
    ),
    "closed_form_bytes": Field(
        "memory.closed_form_bytes", "number", "what the backend stores and returns by its own account", "bytes",
        "halobench.cases.cost", UNKNOWN_COST,
    ),
    "useful_flops": of_cost("useful_flops", "matrix products that the answer needs", "FLOP", UNTIMED),
    "executed_flops": of_cost(
        "executed_flops", "matrix products of the backend, padding and recomputation included", "FLOP", UNKNOWN_COST
    ),
    "fvcore_flops": of_cost(
        "fvcore_flops", "fvcore's count of the forward pass", "multiply-adds", NO_COUNT, "halobench.cases.counters"
    ),
    "torch_flops": of_cost(
        "torch_flops", "FlopCounterMode's count of the call", "FLOP", NO_COUNT, "halobench.cases.counters"
    ),
    "useful_bytes": of_cost("useful_bytes", "every input read and every output written once", "bytes", UNTIMED),
    "executed_bytes": of_cost("executed_bytes", "the same, and what is stored in between", "bytes", UNKNOWN_COST),
    "useful_exponentials": of_cost("useful_exponentials", "one a visible pair and pass", "", UNTIMED),
    "executed_exponentials": of_cost("executed_exponentials", "those of the backend", "", UNKNOWN_COST),
    "kernels": Field(
        "cost.kernels", "text", "the backend's own kernels in a call, in order", "", "halobench.cases.cost",
        "the backend names none, or an older file",
    ),
    "floor_ms": Field(
        "floor.ms", "number", "least time for the useful work at the best rates measured in the run", "ms",
        "halobench.records.roofline", NO_FLOOR,
    ),
    "floor_share": Field("floor.share", "number", "floor over median", "", "halobench.records.floors", NO_FLOOR),
    "bound": Field(
        "floor.bound", "text", "what bounds the floor's longest pass", "", "halobench.records.roofline", NO_FLOOR
    ),
    "energy_joules": Field(
        "energy_joules", "number", "energy of the whole GPU for a call", "J", "halobench.measure.energy",
        "not asked for, on a CPU or a MIG slice, a call under 1 ms, or no counter",
    ),
    "sm_mhz": of_clock("sm_mhz", "number", "clock of the multiprocessors", "MHz"),
    "throttled": of_clock("throttled", "flag", "whether the GPU held its clock down, in a second attempt too"),
    "load_average": of_load("average", "number", "load average of the last minute, the measurement included"),
    "load_cores": of_load("cores", "number", "processors that the process may use", "cores"),
    "others_cores": of_load("others_cores", "number", "what other processes used of them", "cores"),
    "stolen_cores": of_load("stolen_cores", "number", "what the host gave to other guests", "cores"),
    "throttled_cores": of_load("throttled_cores", "number", "what a container's quota held back", "cores"),
    "cpu_mhz": of_load("cpu_mhz", "number", "clock of the processors", "MHz"),
    "gpu_processes": of_load("gpu_processes", "count", "other processes on the GPU", "", NO_NVML),
    "gpu_share": of_load("gpu_share", "number", "what others used of the GPU", "", NO_NVML),
    "disturbed": of_load("disturbed", "flag", "whether others had so much that the time says little"),
    "disturbed_by": of_load("by", "text", "who disturbed it", "", "nobody did, or as disturbed"),
    "warmup_s": of_seconds("warmup", "loading, compiling and first calls of the backend"),
    "measured_s": of_seconds("measured", "its calls while memory, time and energy were measured, and when asked again"),
    "checks_s": of_seconds("checks", "the checks of its answers", "nothing of the case was run, or an older file"),
    "harness_s": of_seconds("harness", "everything else: inputs, the checks, statistics"),
    **SCALING,
}  # fmt: skip
SHARED = (
    "suite", "case", "backend", "direction", "label", "device", "status", "reason", "median_ms", "low_ms", "high_ms",
    "host_ms", "noise", "outliers", "peak_bytes", "energy_joules", "sm_mhz", "throttled", "load_average", "load_cores",
    "others_cores", "stolen_cores", "throttled_cores", "cpu_mhz", "gpu_processes", "gpu_share", "disturbed",
    "disturbed_by", "warmup_s", "measured_s", "checks_s", "harness_s",
)  # fmt: skip


def of_network(name: str, kind: Kind, meaning: str, unit: str = "", null: str = "") -> Field:
    """A column of how a network is built and called."""
    return Field(f"network.{name}", kind, meaning, unit, "halobench.cases.network", null)


def of_measured(path: str, kind: Kind, meaning: str, unit: str = "", null: str = UNTIMED) -> Field:
    """A column of what was measured of a network."""
    return Field(path, kind, meaning, unit, "halobench.measure.networks", null)


def of_part(name: str, meaning: str, only: str = "") -> Field:
    """A column of where the time of a detector's call goes."""
    null = "no detector, or no time" + (f"; {only}" if only else "")
    return Field(f"parts_ms.{name}", "number", f"median time: {meaning}", "ms", "halobench.measure.parts", null)


OLDER = "a file from before there were captured networks"
BY_DEFAULT = "by the compiler's defaults, or not at all"
ALONE = "the network was measured alone, or has no time"
ALONE_OR_OLDER = f"{ALONE}, or it is in a file from before this was kept"
# A row about a whole network has ``network`` where others have ``problem``.
NETWORK_FIELDS = {name: FIELDS[name] for name in SHARED} | {
    "model": of_network("model", "text", "the model's name, as in `models.create`"),
    "side": of_network("side", "count", "side of the images", "pixels"),
    "dtype": of_network("dtype", "text", "what autocast computes in; in inference, the dtype of everything"),
    "compiled": of_network("compiled", "flag", "whether the network is compiled"),
    "captured": of_network("captured", "flag", "whether eager calls are captured as a CUDA graph", null=OLDER),
    "compile_mode": of_network("compile_mode", "text", "how it is compiled otherwise than by default", null=BY_DEFAULT),
    "label_smoothing": of_network("label_smoothing", "number", "label smoothing of the loss", null="an older file"),
    "magnitude": of_network("magnitude", "count", "magnitude of RandAugment before the step", null="no RandAugment"),
    "proposals": of_network("proposals", "count", "fixed regions of an image for a detector's heads", "",
        "no detector, or its heads get what it finds"),
    "block": of_network("overrides.block", "text", "block, where it is not the model's", "pixels", "the model's own"),
    "halo": of_network("overrides.halo", "text", "halo, where it is not the model's", "pixels", "the model's own"),
    "rival": Field("rival", "text", "the model whose calls were taken in turn", "", "halobench.cases.network", "none"),
    "rival_compile_mode": Field(
        "rival_compile_mode", "text", "the rival's `compile_mode`", "", "halobench.cases.network", BY_DEFAULT
    ),
    "batch": of_measured("throughput.batch", "count", "images of a call, after halving until it fitted"),
    "parameters": of_measured("throughput.parameters", "count", "trainable numbers of the model"),
    "images_per_s": of_measured("throughput.images_per_s", "positive", "batch over median", "1/s"),
    "joules_per_image": of_measured(
        "throughput.joules_per_image", "number", "energy over batch", "J", "no energy was measured"
    ),
    "replayed": of_measured("latency.replayed", "flag", "whether the call was the replay of a CUDA graph"),
    "first_step_s": of_measured("throughput.first_step_s", "number", "the first step, compiling included", "s"),
    "resident_bytes": of_measured("memory.resident_bytes", "number", "weights, gradients, optimizer, images", "bytes"),
    **SCALING,
    "preparation_ms": of_part("preparation", "the images, scaled and put into one batch"),
    "backbone_ms": of_part("backbone", "the backbone"),
    "pyramid_ms": of_part("pyramid", "the feature pyramid and the region proposal network, with their losses"),
    "heads_ms": of_part("heads", "the heads for boxes and masks, with their losses"),
    "postprocessing_ms": of_part("postprocessing", "boxes and masks brought back into the images", "inference only"),
    "backward_ms": of_part("backward", "the backward pass", "training steps only"),
    "optimizer_ms": of_part("optimizer", "the optimizer", "training steps only"),
    "rival_side": of_measured("paired.rival_side", "count", "side of the rival's images", "pixels", ALONE_OR_OLDER),
    "rival_peak_bytes": of_measured(
        "paired.rival_peak_bytes", "number", "the rival's `peak_bytes`", "bytes", ALONE_OR_OLDER
    ),
    "rival_ms": of_measured("paired.rival_median_ms", "positive", "median of the rival's calls between", "ms", ALONE),
    "ratio": of_measured("paired.ratio", "positive", "median over pairs of its time over the rival's", "", ALONE),
    "ratio_low": of_measured("paired.ratio_low", "positive", "lower end of its bootstrap 95 % interval", "", ALONE),
    "ratio_high": of_measured("paired.ratio_high", "positive", "upper end of that interval", "", ALONE),
}  # fmt: skip
