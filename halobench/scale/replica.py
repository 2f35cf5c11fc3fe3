"""Training steps on 1, 2, ... ranks with a part of the batch each, with communication and without."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from halobench.cases.network import Network, NetworkCase
from halobench.distributed.messages import Message
from halobench.scale.collective import bus_bytes, reduction
from halobench.scale.flat import Flat
from halobench.scale.point import Calls, Point
from halobench.scale.replay import warm
from halobench.scale.settings import Settings
from halobench.train.workload import network_model, training_step

SUITE = "scaling"
GIVEN = inspect.signature(DistributedDataParallel).parameters
# Running statistics, which training does not read, are not sent before every step; the second name is from before 2.14.
UNSENT: dict[str, Any] = {next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in GIVEN): False}
BUCKETS = ("rebuilt_bucket_sizes", "bucket_sizes")  # what DistributedDataParallel logs of them, the last first


def steps(
    model: str, settings: Settings, groups: Mapping[int, ProcessGroup | None], device: torch.device
) -> Iterator[list[Point]]:
    """One rank first; then, of what is asked for, weak and, where the batch can be divided, strong scaling."""
    batch, averaged = settings.batch, "-flat" if settings.flat else ""
    found = []
    for count, group in groups.items():
        for kind in settings.scaling if count > 1 else ("weak",):  # a single rank is of both
            if kind == "strong" and batch % count:
                continue
            own = batch if kind == "weak" else batch // count
            network = settings.network(model, own)
            case = NetworkCase(SUITE, network, "training", settings.device, (SUITE,))
            row = case.row() | {"case": f"{case.name}-{kind}-x{count}{averaged}"}
            make = partial(replica, network, settings, group, device)
            found.append(Point(count, kind, own * count, group, make, row))
    yield found


def replica(network: Network, settings: Settings, group: ProcessGroup | None, device: torch.device) -> Calls:
    """The network's step, warm; ``group`` is ``None`` for a single rank, which needs no ``DistributedDataParallel``."""
    model = network_model(network, device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    silent: Callable[[], Tensor] | None = None
    if group is None:
        step, tensors = training_step(model, network, device)
    elif settings.flat:
        flat = Flat(synchronised(model, settings, group), group)
        step, tensors = training_step(model, network, device, flat.average)
        silent = partial(without_communication, flat, step)
    else:
        together = spread(model, settings, group, device)
        step, tensors = training_step(together, network, device)
        silent = partial(without_communication, together, step)
    warm(step, settings)
    if silent is not None:
        warm(silent, settings)
        step()  # logs the buckets of a step that communicates
    resident = sum(tensor.nbytes for tensor in tensors())
    made = Calls(step, silent or step, resident, step, parameters)
    if group is not None:
        sizes = [flat.buffer.nbytes] if settings.flat else buckets(together)
        sizes = [size // 2 if settings.compress else size for size in sizes]
        made.alone, made.sent_bytes = reduction(sizes, device, group), sum(sizes)
        made.bus_bytes = bus_bytes([Message(summed=size) for size in sizes], group.size())
    if settings.captured:
        made.capture()
    return made


def spread(model: nn.Module, settings: Settings, group: ProcessGroup, device: torch.device) -> DistributedDataParallel:
    """The model as it is called in training, its gradients averaged over the group."""
    together = DistributedDataParallel(
        synchronised(model, settings, group),
        device_ids=[device] if device.type == "cuda" else None,
        process_group=group,
        bucket_cap_mb=settings.bucket_mib,
        gradient_as_bucket_view=True,
        static_graph=settings.static_graph,
        **UNSENT,
    )
    if settings.compress:
        together.register_comm_hook(group, bf16_compress_hook)
    return together


def synchronised(model: nn.Module, settings: Settings, group: ProcessGroup) -> nn.Module:
    """The model with its normalisation over all ranks' images, if the settings say so."""
    return nn.SyncBatchNorm.convert_sync_batchnorm(model, group) if settings.sync_batch_norm else model


def buckets(together: DistributedDataParallel) -> list[int]:
    """The bytes of each all-reduce of a step, in order."""
    logged = together._get_ddp_logging_data()  # noqa: SLF001 - nothing public tells them
    sizes: str = next(filter(None, (logged.get(name) for name in BUCKETS)))
    return [int(size) for size in sizes.split(", ")]


def without_communication(together: DistributedDataParallel | Flat, step: Callable[[], Tensor]) -> Tensor:
    """The step with gradients of this rank's images alone."""
    with together.no_sync():
        return step()
