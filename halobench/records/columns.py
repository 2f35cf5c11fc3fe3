"""The columns of every other table that halobench writes, and what a results file holds beside its rows' columns.

Each with its meaning, its unit, and what an empty cell (null, NaN) means: docs/metrics.md is made from these, and
whoever writes a table takes its head from here.
"""

from typing import NamedTuple

NEVER = "never"


class Column(NamedTuple):
    """What a column means, its unit, and what it means where it is empty."""

    meaning: str
    unit: str = ""
    null: str = NEVER


OF_THE_FILE = {
    "file": Column("name of the results file"),
    "machine": Column("name of the chip: the GPU's for cuda, else the CPU's"),
    "torch": Column("version of PyTorch", null="the file does not say"),
    "commit": Column("commit of the code that was measured", null="it was measured outside of a repository"),
    "dirty": Column("whether tracked files differed from that commit", null="the commit is not known"),
    "declared": Column(
        "whether the commit is one that the measuring program was told, not one that a repository showed",
        null="the file does not say",
    ),
    "tier": Column("how much was measured: smoke, default, full"),
}
DOUBT = {  # of rows about operators and layers, which have floors
    "floor_doubted": Column(
        "whether a time of the same file is below its floor: then all its shares are too high",
        null="the row has no share",
    ),
}
SUMMED_UP = {
    "groups": Column("the axes and figures that the case belongs to, separated by spaces", null="it belongs to none"),
    "samples": Column("how many samples the file holds of the case", null="it has no time, or none were saved"),
}
BESIDE = {  # what tables do not take up: paths in a row, beside those of fields.py
    "samples_ms": Column("all samples of the call; in JSON, stats.data in seconds", "ms", "the case has no time"),
    "latency.places": Column("places of memory that the samples were taken in", null="the case has no time"),
    "latency.exposed": Column("as in the rows about operators; of a network, all its samples", null="as there"),
    "latency.replayed": Column("whether the samples are replays of a CUDA graph", null="the case has no time"),
    "memory.resident_bytes": Column(
        "as in the rows about networks; of an operator on several ranks, inputs and the gradient of the output, of all",
        "bytes",
        "an operator of the suites",
    ),
    "floor.passes": Column(
        "useful bytes, FLOPs and exponentials of each pass, which the floor is made from", null="the case has no time"
    ),
    "clock.reasons": Column("NVML's reasons for throttling, all that were seen", null="the case has no time"),
    "accuracy.errors": Column("error of each output and gradient against the oracle", null="it was not checked"),
    "accuracy.budgets": Column("the error that each may have", null="it was not checked"),
    "accuracy.layers": Column("distinct attention layers of a network that were checked", null="an operator or layer"),
    "accuracy.worst_share_of_budget": Column(
        "the largest error over its budget in them", null="the model has no slots"
    ),
    "leaked_bytes": Column("memory that the case left behind; a new worker followed", "bytes", "less than a GiB"),
    "network.backend": Column("the backend that fills the attention slots", null="the model has none"),
    "network.batch": Column("the batch that was asked for"),
    "network.overrides": Column("arguments of `models.create` that are not the model's own"),
    "paired.rival": Column("the rival's model", null="the network was measured alone"),
    "paired.rival_samples_ms": Column("the rival's samples, each beside one of the network's", "ms", "as above"),
}
EXPORTED = {  # what `python -m halobench.export` adds: a table of runs, and how rows and samples belong to them
    "run": Column("the run: a digest of what it measured, and when and on what"),
    "datetime": Column("when the run ended, in UTC; of a journal, when it began", null="an older journal"),
    "complete": Column("whether the run ended: a journal is one that did not"),
    "options": Column("as in the section, as JSON"),
    "fingerprint": Column("as in the section, as JSON"),
    "ceilings": Column("as in the section, as JSON"),
    "harness": Column("as in the section, as JSON"),
    "load": Column("what else was at work before and after the run, as JSON"),
    "number": Column("number of a sample in the order they were taken, from 0"),
    "ms": Column("a sample of the call", "ms"),
    "rival_ms": Column("the rival's sample beside it", "ms", "the case has no rival"),
}
SECTION = {  # of the whole run: paths below `halobench`
    "schema": Column("version of this form of files"),
    "tier": Column("as in the tables"),
    "options": Column("what the run was asked for, and how short calls are sampled"),
    "shard.number": Column("which of the shards of a sweep this is, from 1 on", null="the whole sweep"),
    "shard.count": Column("how many shards there are", null="as above"),
    "shard.cases": Column("the names of all cases of the sweep", null="as above"),
    "all_reduce_bytes_per_s": Column(
        "of `halobench.scale`: by number of ranks, the best bus bandwidth of an all-reduce", "bytes/s", "a suite's file"
    ),
    "link_bytes_per_s": Column(
        "the same of sending to the next rank, each way, where ranks share an image", "bytes/s", "as above"
    ),
    "fingerprint": Column("machine, software and commit", null="what could not be found out"),
    "ceilings.device": Column(
        "where the ceilings were measured", null="a file of `halobench.scale`, which has no ceilings but the link's"
    ),
    "ceilings.dtype": Column("of which matrix products"),
    "ceilings.copy_bytes_per_s": Column("best rate of bytes read and written", "bytes/s", "only checked"),
    "ceilings.matmul_flops_per_s": Column("best rate of matrix products or convolutions", "FLOP/s", "only checked"),
    "ceilings.exponentials_per_s": Column("best rate of exponentials", "1/s", "no Triton on a GPU, or only checked"),
    "ceilings.routes": Column("by which call, of which size, each ceiling was reached", null="an older file"),
    "ceilings.raised": Column(
        "which case raised a ceiling (by), and what had been measured before", null="an older file"
    ),
    "ceilings.taken_over": Column(
        "whether an earlier run of the same job measured them (`halobench.ab`)", null="an older file"
    ),
    "load.before": Column(
        "who else was at work when the run began, as the tables' `load_average` ...", null="an older file"
    ),
    "load.after.average": Column("the load average when it ended", null="an older file"),
    "load.after.timed_rows": Column("rows that have a time", null="an older file"),
    "load.after.disturbed_rows": Column(
        "those of them that were measured while something else was at work", null="an older file"
    ),
    "failures": Column("the rows without a time; those with one stand in `benchmarks`"),
    "harness.wall_s": Column("wall time of the run", "s"),
    "harness.measured_s": Column("in which ceilings and calls were measured", "s"),
    "harness.warmup_s": Column("in which backends were loaded, compiled and warmed up", "s"),
    "harness.overhead_s": Column("the rest: the harness itself", "s"),
    "harness.overhead_share": Column("the rest over the wall time"),
}
WHAT_RAN = {
    "model": Column("the model"),
    "backend": Column(
        "the backend that fills its attention slots; `none`, or empty, where it has none", null="the model has none"
    ),
    "parameters": Column("trainable numbers of the model"),
    "seed": Column("seed of the run"),
}
WHERE_IT_RAN = {
    "machine": Column("name of the chip"),
    "torch": Column("version of PyTorch"),
    "halobench": Column("version of halobench"),
    "commit": Column("commit of the code, and whether it was only declared; or unknown"),
    "dirty": Column("whether tracked files differed from that commit: true, false, or unknown"),
}
OF_AN_EPOCH = {
    **WHAT_RAN,
    **WHERE_IT_RAN,
    "processes": Column("processes that trained together, a device each"),
    "batch": Column("images of a step in each process"),
    "image_size": Column("side of the images", "pixels"),
    "epoch": Column("epochs done"),
    "step": Column("steps done, of all epochs"),
    "seconds": Column("since before the data was touched, evaluations and checkpoints included", "s"),
    "learning_rate": Column("after the epoch's last step"),
    "train_loss": Column("mean loss of the epoch's steps, as they were trained"),
    "images_per_s": Column("images trained on, over the epoch's time without its evaluation", "1/s"),
}
CURVES = {
    **{name: column for name, column in OF_AN_EPOCH.items() if name != "images_per_s"},
    "test_loss": Column("mean loss over the test images"),
    "test_accuracy": Column("share of the test images that were recognised"),
    "images_per_s": OF_AN_EPOCH["images_per_s"],
}
NOT_TESTED = "no test in this epoch, or no such object"
SIZES = {
    "": "over IoU from 0.5 to 0.95",
    "_50": "at IoU 0.5",
    "_75": "at IoU 0.75",
    "_small": "of objects below 32 x 32 pixels",
    "_medium": "of objects from 32 x 32 to 96 x 96 pixels",
    "_large": "of objects above 96 x 96 pixels",
}
PRECISION = {
    **OF_AN_EPOCH,
    **{
        f"ap_{kind}{size}": Column(f"COCO's average precision of {kind}{plural}, {meaning}", null=NOT_TESTED)
        for kind, plural in (("box", "es"), ("mask", "s"))
        for size, meaning in SIZES.items()
    },
}
TIMES = {
    **WHAT_RAN,
    "target": Column("the test accuracy to reach"),
    "reached": Column("whether it was"),
    "seconds": Column("when the run ended: at the target, or after its epochs", "s", "the loss diverged in epoch 1"),
    "epochs": Column("epochs done by then"),
    "best_accuracy": Column("the best test accuracy of an epoch"),
    **WHERE_IT_RAN,
}
KERNELS = {
    "kernel": Column("name of the kernel; on a CPU, of the operation"),
    "ms": Column("its time in a call, under the profiler", "ms"),
    "share": Column("of the time of all kernels"),
    "launches": Column("launches in a call"),
    "bytes": Column("what its operation reads and writes", "bytes", "the work of this kernel cannot be told"),
    "flops": Column("matrix products of its operation", "FLOP", "as above"),
    "exponentials": Column("exponentials of its operation", null="as above"),
    "floor_ms": Column("least time for that work at the measured ceilings", "ms", "the work, or a ceiling, is unknown"),
}
MEMORY = {
    "ms": Column("time since the call began, under the profiler", "ms"),
    "bytes": Column("in use above what was there before the call", "bytes"),
}
PAGE = {  # heads of the page's tables that are not a column's name
    "backend": Column("the backend, and what its rows do differently (border, stride); a family of models without one"),
    "stage": Column("label", null="as there"),
    "network": Column("model; in the headline, with side, batch, dtype and mode", null="an operator or layer"),
    "mode": Column(
        "eager, captured (eager, replayed as a CUDA graph), compiled, or compiled as `compile_mode` says",
        null="an operator or layer",
    ),
    "peak MiB": Column("peak_bytes / 2^20", "MiB", "no time"),
    "peak GiB": Column("peak_bytes / 2^30", "GiB", "no time"),
    "floor %": Column("100 floor_share", "%", "as floor_share"),
    "% of floor": Column("100 floor_share", "%", "as floor_share"),
    "joules": Column("energy_joules", "J", "as there"),
    "J/image": Column("joules_per_image", "J", "as there"),
    "images/s": Column("batch / median_ms", "1/s", "no time"),
    "speed-up": Column("median_ms of naive_unfold over that of the row", null="one of the two has no time"),
    "over rival": Column("ratio", null="as there"),
    "exposed ms": Column("exposed_ms", "ms", "as there"),
    "over its rival [95 %]": Column("ratio, with ratio_low and ratio_high", null="as there"),
    "ms [95 %]": Column("median_ms, with low_ms and high_ms", "ms", "no time"),
    "ms": Column("median_ms, with low_ms and high_ms", "ms", "no time"),
    "first step s": Column("first_step_s", "s", "as there"),
    "useful TFLOP/s": Column("useful_flops / median_ms, in charts", "1e12 FLOP/s", "no time"),
    "measured on": Column("machine and dtype"),
    "variant": Column("as backend"),
    "cases": Column("how many have this status for this reason"),
    "the first": Column("name of one of them"),
}
