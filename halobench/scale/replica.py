"""A network on one rank of several that train together: its step, with communication and without."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed import GradBucket, ProcessGroup  # type: ignore[attr-defined]
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook, bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from halobench.cases.network import Network
from halobench.scale.settings import Settings
from halobench.train.workload import network_model, training_step

WARM_UP_STEPS = 3  # DistributedDataParallel orders its buckets anew after the first


@dataclass
class Replica:
    """``step`` trains with the group, ``silent`` is the same step without communication.

    ``buckets`` are the bytes of each all-reduce of the last step, in order; none on a single rank, whose two steps are
    one and the same.
    """

    model: nn.Module
    step: Callable[[], Tensor]
    silent: Callable[[], Tensor]
    resident_bytes: int
    buckets: list[int] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        """Trainable numbers of the model."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def replica(network: Network, settings: Settings, group: ProcessGroup | None, device: torch.device) -> Replica:
    """The network, warm; ``group`` is ``None`` for a single rank, which needs no ``DistributedDataParallel``."""
    model = network_model(network, device)
    if group is None:
        step, tensors = training_step(model, network, device)
        made = Replica(model, step, step, 0)
    else:
        if settings.sync_batch_norm:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model, group)
        together = DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            process_group=group,
            bucket_cap_mb=settings.bucket_mib,
            gradient_as_bucket_view=True,
        )
        step, tensors = training_step(together, network, device)
        made = Replica(model, step, partial(without_communication, together, step), 0)
        together.register_comm_hook(Sent(made, group, compress=settings.compress), counted)
    for _ in range(WARM_UP_STEPS):
        made.step()
    made.silent()
    made.resident_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors())
    return made


def without_communication(together: DistributedDataParallel, step: Callable[[], Tensor]) -> Tensor:
    """The step with gradients of this rank's images alone."""
    with together.no_sync():
        return step()


@dataclass
class Sent:
    """Whose gradients are sent, to whom, and whether as bfloat16."""

    made: Replica
    group: ProcessGroup
    compress: bool


def counted(sent: Sent, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    """All-reduce a bucket of gradients, and note how many bytes that are."""
    if bucket.index() == 0:
        sent.made.buckets = []
    buffer = bucket.buffer()
    sent.made.buckets.append(buffer.numel() * (2 if sent.compress else buffer.element_size()))
    return (bf16_compress_hook if sent.compress else allreduce_hook)(sent.group, bucket)
