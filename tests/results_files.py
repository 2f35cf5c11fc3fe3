"""Results files after the schema, with invented but plausible figures: what the tests of reading and plotting read."""

import copy
import json
import math
from pathlib import Path

from halobench.attention.geometry import Geometry
from halobench.records.table import SCHEMA_VERSION

BACKENDS = {  # device time over the floor, forward
    "naive_unfold": 60.0,
    "strided_gather": 42.0,
    "compiled": 17.0,
    "flex": 6.5,
    "sdpa": 12.0,
    "fused": 2.1,
    "timm_halo": 55.0,
    "lucidrains": 70.0,
    "global_sa": 9.0,
    "conv": 1.4,
}
H100 = {"name": "NVIDIA H100 80GB HBM3", "driver": "570.1", "memory_bytes": 85e9, "power_limit_watts": 700.0}
CPU = {"model": "Intel(R) Xeon(R) CPU @ 2.20GHz", "cores": 2}
CEILINGS = {"copy_bytes_per_s": 2.9e12, "matmul_flops_per_s": 7.2e14, "exponentials_per_s": 3.6e12}


def row(backend="naive_unfold", direction="forward", **changes):
    """A row whose status is OK. ``changes`` are the problem's fields (flat), or the row's own."""
    size = {"block": 8, "halo": 3, "stride": 1, "border": "zero" if backend == "timm_halo" else "masked"}
    geometry = {name: changes.pop(name, value) for name, value in size.items()}
    shape = {"height": 64, "width": None, "batch": 16, "heads": 8, "key_dim": 32, "value_dim": 32}
    problem = {name: changes.pop(name, value) for name, value in shape.items()}
    problem["width"] = problem["width"] or problem["height"]
    problem |= {"geometry": geometry, "relative": True, "dtype": changes.pop("dtype", "bfloat16")}
    suite = changes.get("suite", "operator")
    name = "-".join(str(value) for value in [*geometry.values(), *list(problem.values())[:6]])
    filled = {
        "case": f"{suite}/{backend}/{direction}/{name}/{problem['dtype']}",
        "suite": suite,
        "backend": backend,
        "direction": direction,
        "groups": ["side", "block", "halo", "grid"],
        "label": None,
        "problem": problem,
        "layer": {"channels": 256, "positions": "split", "kernel": 3} if suite == "layer" else None,
        "device": "cuda",
        "status": "OK",
        "reason": None,
        **measured(backend, direction, geometry, problem),
    }
    return filled | changes


def measured(backend, direction, geometry, problem):
    """Everything of a row that a measurement fills in."""
    back = 3.0 if direction == "training" else 1.0
    pixels = problem["batch"] * problem["heads"] * problem["height"] * problem["width"]
    exact = Geometry(**geometry)
    pairs = problem["batch"] * problem["heads"] * exact.visible_pairs(problem["height"], problem["width"])
    useful = 2 * pairs * (problem["key_dim"] + problem["value_dim"])
    window = pixels * exact.window**2
    if backend == "global_sa":
        executed = useful * problem["height"] * problem["width"] * pixels / pairs
    else:
        executed = {"conv": 0.3}.get(backend, window / pairs) * useful
    stored = window / geometry["block"] ** 2 * 2 * problem["key_dim"] * 2 + window * 2 * 2
    if backend in ("fused", "conv", "flex"):
        stored = pixels * problem["value_dim"] * 2
    bytes_moved = pixels * 2 * (problem["key_dim"] + problem["value_dim"]) * 2
    exponentials = 0 if backend == "conv" else pairs
    times = {
        "bytes": bytes_moved * back / CEILINGS["copy_bytes_per_s"],
        "flops": useful * back / CEILINGS["matmul_flops_per_s"],
        "exponentials": exponentials / CEILINGS["exponentials_per_s"],
    }
    bound = max(times, key=times.__getitem__)
    floor = times[bound] * 1e3
    wobble = 1 + 0.1 * math.sin(pixels + geometry["block"])
    median = (floor * BACKENDS.get(backend, 5.0) * (executed / useful) ** 0.5 + 0.004) * wobble
    counted = 0 if backend in ("sdpa", "flex") else executed / 2 * 0.98
    return {
        "latency": {
            "median_ms": median,
            "low_ms": median * 0.97,
            "high_ms": median * 1.05,
            "host_ms": median + 0.02,
            "noise": 0.004,
            "outliers": 1,
        },
        "samples_ms": [median * factor for factor in (0.98, 1.0, 1.04)],
        "clock": {"sm_mhz": 1980, "throttled": False, "reasons": []},
        "memory": {"peak_bytes": stored * back * 1.08 + 2e6, "closed_form_bytes": stored * back},
        "energy_joules": median * 0.4,
        "cost": {
            "useful_flops": useful * back,
            "executed_flops": executed * back,
            "fvcore_flops": counted if direction == "forward" else None,
            "torch_flops": executed * back if backend != "flex" else None,
            "useful_bytes": bytes_moved * back,
            "executed_bytes": (bytes_moved + 2 * stored) * back,
            "useful_exponentials": exponentials,
            "executed_exponentials": exponentials,
        },
        "floor": {"ms": floor, "share": floor / median, "bound": bound},
        "accuracy": {"errors": {"output": 1e-3}, "budgets": {"output": 4e-3}},
        "seconds": {"warmup": 0.1, "measured": 0.5, "harness": 0.02},
    }


def failed(status, reason, *arguments, **changes):
    """A row of this status: nothing measured."""
    nothing = ("latency", "clock", "memory", "energy_joules", "cost", "floor", "accuracy", "seconds")
    return row(*arguments, **changes, status=status, reason=reason, **dict.fromkeys(nothing), samples_ms=None)


def section(*, gpu=None, tier="full", dtype="bfloat16", ceilings=CEILINGS, commit="0123456789abcdef0123", **changes):
    """The header of a file. Without ``gpu`` it was run on the CPU alone."""
    return {
        "schema": SCHEMA_VERSION,
        "tier": tier,
        "options": {},
        "fingerprint": {
            "gpu": gpu,
            "cpu": CPU,
            "python": "3.12.3",
            "torch": "2.14.1",
            "cuda": "13.0" if gpu else None,
            "halobench": "0.1.0",
            "packages": {},
            "commit": {"id": commit, "dirty": True},
            "hostname": "bench",
        },
        "ceilings": {"device": "cuda" if gpu else "cpu", "dtype": dtype, **ceilings} if ceilings else None,
    } | changes


def document(rows, **header):
    """The JSON of a finished run."""
    good = [one for one in rows if one["status"] == "OK"]
    return {
        "machine_info": {"node": "bench"},
        "commit_info": {"id": "0123"},
        "datetime": header.pop("datetime", "2026-11-20T10:00:00.000000+00:00"),
        "version": "5.3.1",
        "benchmarks": [benchmark(one) for one in good],
        "halobench": section(**header)
        | {
            "failures": [without_samples(one) for one in rows if one["status"] != "OK"],
            "harness": {
                "wall_s": 90.0,
                "measured_s": 60.0,
                "warmup_s": 20.0,
                "overhead_s": 10.0,
                "overhead_share": 0.111,
            },
        },
    }


def benchmark(one):
    """A row as pytest-benchmark writes it."""
    data = [sample / 1e3 for sample in one["samples_ms"]]
    return {
        "name": one["case"],
        "fullname": f"suites/bench_operator.py::{one['case']}",
        "group": None,
        "params": None,
        "extra_info": {"halobench": without_samples(one)},
        "stats": {"data": data, "median": sorted(data)[len(data) // 2]},
    }


def without_samples(one):
    """The row as it stands in the JSON."""
    return {name: copy.deepcopy(value) for name, value in one.items() if name != "samples_ms"}


def write(path, rows, **header):
    """A finished run's file."""
    path = Path(path)
    path.write_text(json.dumps(document(rows, **header)))
    return path


def write_journal(path, rows, cut=0, datetime=None, **header):
    """A killed run's journal, its last ``cut`` characters missing."""
    lines = [json.dumps({"halobench": section(**header), "datetime": datetime}), *map(json.dumps, rows)]
    text = "\n".join(lines) + "\n"
    path = Path(path)
    path.write_text(text[:-cut] if cut else text)
    return path


def campaign(
    backends=BACKENDS, sides=(32, 64, 128), blocks=(4, 8, 16), halos=(0, 3, 6), grid=(4, 8), stages=2, **fixed
):
    """The rows of a whole run: three axes through block 8, halo 3, side 64, a grid, stages, both directions."""
    rows = []
    for backend in backends:
        for direction in ("forward", "training"):
            for size, groups in cases(sides, blocks, halos, grid).items():
                block, halo, side = size
                wanted = {"block": block, "halo": halo, "height": side, "groups": groups, **fixed}
                rows.append(fate(backend, direction, wanted))
            for stage in range(stages):
                label = f"H{stage // 4 * 3} stage {stage % 4 + 1}"
                size = {"block": 8 + 2 * (stage // 4), "height": (64, 32, 16, 8)[stage % 4], "batch": 32}
                size["key_dim"] = size["value_dim"] = (16, 16, 32, 64)[stage % 4]
                rows.append(fate(backend, direction, {**size, "label": label, "groups": ["stages"], **fixed}))
    return rows


def cases(sides, blocks, halos, grid):
    """The groups of every (block, halo, side)."""
    groups = {}
    axes = {
        "side": [(8, 3, side) for side in sides],
        "block": [(block, 3, 64) for block in blocks],
        "halo": [(8, halo, 64) for halo in halos],
        "grid": [(block, halo, 64) for block in grid for halo in (1, 3)],
    }
    for group, sizes in axes.items():
        for size in sizes:
            groups.setdefault(size, []).append(group)
    return groups


def fate(backend, direction, wanted):  # noqa: PLR0911 - a line for each fate
    """The row of this case: measured, or failed as such a backend would."""
    side = wanted["height"]
    if backend == "global_sa" and side > 64:
        return failed("OOM", "CUDA out of memory: tried to allocate 96 GiB", backend, direction, **wanted)
    if backend in ("naive_unfold", "timm_halo") and direction == "training" and side > 64:
        return failed("OOM", "CUDA out of memory: tried to allocate 112 GiB", backend, direction, **wanted)
    if backend == "lucidrains" and wanted.get("halo", 3) == 0:
        return failed("UNSUPPORTED", "halonet-pytorch needs a halo of at least 1", backend, direction, **wanted)
    if backend == "flex" and wanted.get("block") == 16:
        return failed("INCORRECT", "output is off by 0.3, allowed 0.008", backend, direction, **wanted)
    if backend == "compiled" and side == 128:
        return failed("TIMEOUT", "no result within 300 s", backend, direction, **wanted)
    if backend == "fused" and wanted.get("halo") == 6:
        return failed("CRASHED", "illegal memory access", backend, direction, **wanted)
    return row(backend, direction, **wanted)


MILLIONS = {"h0": 5.5, "h1": 8.1, "h2": 9.4, "h7": 67.4, "b0": 5.3, "b1": 7.8, "b2": 9.1, "b7": 66.3}


def network_row(model, backend=None, direction="training", rival=None, **changes):
    """A row about a network whose status is OK. ``changes`` are fields of the network, or the row's own."""
    network = {"model": model, "side": 256, "batch": 128, "dtype": "bfloat16", "backend": backend, "compiled": False}
    network |= {"overrides": {}, "label_smoothing": 0.0, "magnitude": None, "captured": False}
    network |= {"compile_mode": None}
    network |= {name: changes.pop(name) for name in list(changes) if name in network}
    key = model.rpartition("_")[2]
    parameters = round(1e6 * MILLIONS.get(key, 20.0))
    ratio = {None: 1.0, "sdpa": 2.9, "fused": 1.2}.get(backend, 3.9) / (1.3 if network["compiled"] else 1.0)
    median = 0.06 * network["batch"] * parameters**0.5 / 1e3 * ratio * (network["side"] / 256) ** 2
    parts = [model, str(network["side"]), f"n{network['batch']}", network["dtype"]]
    parts += ["compiled"] * network["compiled"] + ["captured"] * network["captured"]
    parts += [network["compile_mode"]] if network["compile_mode"] else []
    name = "-".join([*parts, *(f"{key}={value}" for key, value in network["overrides"].items())])
    filled = {
        "case": f"training/{backend or 'none'}/{direction}/{name}",
        "suite": "training",
        "backend": backend or "none",
        "direction": direction,
        "groups": ["pairs"],
        "label": None,
        "network": network,
        "rival": rival,
        "rival_compile_mode": None,
        "device": "cuda",
        "status": "OK",
        "reason": None,
        "latency": {
            "median_ms": median,
            "low_ms": 0.98 * median,
            "high_ms": 1.03 * median,
            "host_ms": median / 2,
            "replayed": network["compiled"] or network["captured"],
        },
        "samples_ms": [0.99 * median, median, 1.02 * median],
        "clock": {"sm_mhz": 1755, "throttled": False, "reasons": []},
        "memory": {"peak_bytes": 3e9 * ratio, "resident_bytes": 16 * parameters},
        "energy_joules": median / 2,
        "throughput": {
            "batch": network["batch"],
            "images_per_s": network["batch"] / median * 1e3,
            "joules_per_image": median / 2 / network["batch"],
            "parameters": parameters,
            "first_step_s": 31.0 if network["compiled"] else 0.4,
        },
        "paired": None if rival is None else paired(rival, median, ratio),
        "seconds": {"warmup": 3.0, "measured": 1.0, "harness": 0.1},
    }
    return filled | changes


def network_campaign():
    """What a full tier measures of networks, thinned out; one backend runs out of memory in the largest."""
    return [*pair_rows(), *table_rows(), *axis_rows()]


def pair_rows():
    """Training and inference of the pairs."""
    rows = []
    for number in (0, 1, 2, 7):
        own, rival, side = f"halonet_h{number}", f"efficientnet_b{number}", 256 + 50 * number
        for compiled in (False, True):
            same = {"side": side, "compiled": compiled}
            rows.append(network_row(rival, **same))
            rows += [network_row(own, backend, rival=rival, **same) for backend in ("sdpa", "fused")]
            largest = (failed_network, "OOM", "out of memory") if number == 7 else (network_row,)
            make, *said = largest
            rows.append(make(*said, own, "strided_gather", rival=rival, **same))
        for batch in (1, 128):
            rows.append(network_row(rival, direction="forward", batch=batch, groups=["inference"]))
            rows.append(network_row(own, "fused", "forward", rival, batch=batch, groups=["inference"]))
    return rows


def table_rows():
    """What stands beside the published tables."""
    hybrids = {"side": 601, "compiled": True, "groups": ["hybrids"], "rival": "efficientnet_b7"}
    rows = [
        network_row(f"halonet_h7{stages}", backend, **hybrids)
        for stages in ("", "_conv1", "_conv12", "_conv123")
        for backend in ("sdpa", "fused")
    ]
    for direction, side in (("training", 256), ("forward", 384), ("forward", 512)):
        same = {"direction": direction, "side": side, "batch": 32, "groups": ["transfer"], "rival": "vit_large_patch16"}
        rows += [network_row(f"halonet_h4_128{kind}", "fused", **same) for kind in ("", "_patch", "_conv12")]
    for label in ("LS", "LS, RA", "SE", "SE, SiLU", "LS, SE", "LS, SE, SiLU", "LS, SE, SiLU, RA"):
        same = {"label": label, "groups": ["components"], "overrides": {"line": label}}
        rows.append(network_row("resnet50", rival="resnet50", **same))
        rows.append(network_row("halonet_50", "fused", rival="halonet_50", **same))
    return rows


def axis_rows():
    """The step over image side, and over block and halo."""
    same = {"groups": ["side"], "batch": 64, "captured": True}
    kinds = (("halonet_h1", "sdpa"), ("halonet_h1", "fused"), ("resnet50", None))
    rows = [network_row(*kind, side=side, **same) for side in (128, 257, 512) for kind in kinds]
    for block, halo in ((4, 1), (4, 3), (8, 1), (8, 3)):
        overrides = {"block": str(block), "halo": str(halo)}
        rows.append(network_row("halonet_h1", "fused", groups=["grid"], overrides=overrides, captured=True))
    return rows


def paired(rival, median, ratio):
    """What stands in a row about the steps taken in turn."""
    other = median / ratio
    ends = {"ratio_low": 0.97 * ratio, "ratio_high": 1.02 * ratio}
    return {"rival": rival, "rival_median_ms": other, "rival_samples_ms": [other] * 3, "ratio": ratio, **ends}


def failed_network(status, reason, *arguments, **changes):
    """A row about a network of this status: nothing measured."""
    nothing = ("latency", "clock", "memory", "energy_joules", "throughput", "paired", "seconds", "samples_ms")
    return network_row(*arguments, **changes, status=status, reason=reason, **dict.fromkeys(nothing))
