"""HaloNet: a ResNet whose 3x3 convolutions are halo attention."""

from typing import Any, cast

import torch.nn.functional as F
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.layers.classifier import create_classifier
from timm.models._features import feature_take_indices
from timm.models._manipulate import MATCH_PREV_GROUP, checkpoint_seq
from torch import Tensor, nn

from halobench.attention import backends
from halobench.attention.layer import AttentionLayer
from halobench.models.architecture import Architecture
from halobench.models.blocks import ACTIVATIONS, Bottleneck, convolution_norm, stem
from halobench.models.norm.module import NormActivation

STAGES = 4


class HaloNet(nn.Module):
    """(batch, in_chans, H, W) -> (batch, num_classes), for images of any size.

    It has the interface of timm's models, whose words its arguments and methods are. ``backend`` names the layer of all
    attention stages (any backend, ``"conv"`` too); convolution stages are not affected. ``num_classes=0`` leaves the
    pooled features, and ``global_pool=""`` with it the map. ``drop_rate`` is the dropout before the classifier.
    ``recompute_projections`` keeps no queries, keys and values for the backward pass, which projects again: a third of
    what a step keeps, for one more convolution a layer.
    Parameters have the same names under every attention backend, so that weights move between them.

    Raises:
        ValueError: there is no such backend.
        Unsupported: the backend refuses a layer (when it is built, or when it is called).
    """

    global_pool: SelectAdaptivePool2d
    classifier: nn.Module

    def __init__(
        self,
        architecture: Architecture,
        backend: str,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        recompute_projections: bool = False,
    ) -> None:
        super().__init__()
        self.architecture, self.backend = architecture, backend
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.grad_checkpointing = False
        activation = ACTIVATIONS[architecture.activation]
        build = {True: backends.load(backend).build, False: backends.load("conv").build}
        self.stem = stem(architecture, in_chans, activation)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(*(Bottleneck(block, build[block.attention](block.layer), activation) for block in stage))
                for stage in architecture.blocks()
            )
        )
        for module in self.stages.modules():
            if isinstance(module, AttentionLayer):
                module.recomputes = recompute_projections
        self.final: nn.Module = nn.Identity()
        if architecture.final_channels:
            before = architecture.out_channels(3)
            self.final = convolution_norm(before, architecture.final_channels, activation=activation)
        self.feature_info = feature_info(architecture)
        self.num_features = architecture.features
        self.reset_classifier(num_classes, global_pool)

    def forward_features(self, pixels: Tensor) -> Tensor:
        """(batch, in_chans, H, W) -> (batch, num_features, H / 32, W / 32), sizes rounded up."""
        pixels = self.stem(pixels)
        for stage in self.stages:
            pixels = self.forward_stage(stage, pixels)
        features: Tensor = self.final(pixels)
        return features

    def forward_stage(self, stage: nn.Module, pixels: Tensor) -> Tensor:
        """A stage, its blocks computed a second time in the backward pass if ``set_grad_checkpointing`` said so."""
        output: Tensor = checkpoint_seq(stage, pixels) if self.grad_checkpointing else stage(pixels)
        return output

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """(batch, num_features, h, w) -> (batch, num_classes); ``pre_logits`` leaves out the classifier."""
        pooled: Tensor = self.global_pool(features)
        if self.drop_rate:
            pooled = F.dropout(pooled, self.drop_rate, self.training)
        if not pre_logits:
            pooled = self.classifier(pooled)
        return pooled

    def forward(self, pixels: Tensor) -> Tensor:
        """The logits of a batch of images."""
        return self.forward_head(self.forward_features(pixels))

    def forward_intermediates(
        self,
        pixels: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """What ``forward_features`` returns, and the maps on its way there.

        Map 0 is the stem's before its pooling, map i that of stage i; that of stage 4 has the final convolution. The
        arguments are those of timm's models: ``indices`` takes the last n maps or these, ``stop_early`` ends with the
        last of them, and ``norm`` changes nothing, since no normalisation follows the stages.

        Raises:
            ValueError: ``output_fmt`` is not ``"NCHW"``.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        take, last = feature_take_indices(STAGES + 1, indices)
        found = []
        if 0 in take:
            tap, pixels = self.stem_maps(pixels)
            found.append(tap)
        else:
            pixels = self.stem(pixels)
        stages = list(self.stages)[: last if stop_early else None]
        for number, stage in enumerate(stages, start=1):
            pixels = self.forward_stage(stage, pixels)
            if number == STAGES:
                pixels = self.final(pixels)
            if number in take:
                found.append(pixels)
        return found if intermediates_only else (pixels, found)

    def stem_maps(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The stem's map before its pooling and after it; the same twice where it does not pool."""
        pooling = self.stem.parts().pooling
        for module in self.stem:
            if module is not pooling:
                pixels = module(pixels)
        return pixels, pixels if pooling is None else pooling(pixels)

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop what comes behind the last of these maps (see ``forward_intermediates``), whose indices are returned."""
        take: list[int]
        take, last = feature_take_indices(STAGES + 1, indices)
        self.stages = self.stages[:last]
        if last == 0 and self.stem.parts().pooling is not None:
            self.stem = cast("NormActivation", self.stem[:-1])
        if last < STAGES:
            self.final = nn.Identity()
            self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or last < STAGES:
            self.reset_classifier(0, "")
        return take

    def get_classifier(self) -> nn.Module:
        """The layer that makes logits of pooled features."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier in the old one's place; ``None`` keeps the pooling. Device, dtype and mode stay."""
        pool_type = self.global_pool.pool_type if global_pool is None else global_pool
        like = next(self.parameters())
        self.num_classes = num_classes
        self.global_pool, self.classifier = (
            module.to(like.device, like.dtype).train(self.training)
            for module in create_classifier(self.num_features, num_classes, pool_type=pool_type)
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the maps between blocks, and compute each block a second time in the backward pass."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters belong together, from the first to the last, for learning rates that decay over layers."""
        block = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        return {"stem": r"^stem", "blocks": [(block, None), (r"^final", MATCH_PREV_GROUP)]}


def feature_info(architecture: Architecture) -> list[dict[str, Any]]:
    """Channels of the maps of ``forward_intermediates``, by how much their side is smaller, and the modules they leave.

    The modules are such that timm can take them out of their sequences (``features_only``).
    """
    patches = architecture.stem == "patch"
    stem_map = {
        "num_chs": architecture.stem_channels,
        "reduction": 4 if patches else 2,
        "module": f"stem.{2 + patches}",
    }
    stages = [
        {"num_chs": architecture.out_channels(stage), "reduction": 4 * 2**stage, "module": f"stages.{stage}"}
        for stage in range(STAGES)
    ]
    if architecture.final_channels:
        stages[-1] |= {"num_chs": architecture.final_channels, "module": "final.2"}
    return [stem_map, *stages]
