"""A small network of timm's with halo attention, made of its parts."""

import torch
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg


def network():
    """A small network of timm's: a stem and two of its bottlenecks with halo attention, one that pools."""
    torch.manual_seed(0)
    blocks = [
        ByoBlockCfg(
            type="self_attn", d=1, c=32, s=stride, gs=0, br=0.5, self_attn_layer="halo",
            self_attn_kwargs={"block_size": 4, "halo_size": 2, "num_heads": 2, "avg_down": True},
        )
        for stride in (1, 2)
    ]  # fmt: skip
    return ByobNet(ByoModelCfg(blocks=tuple(blocks), stem_chs=16, stem_type="3x3", stem_pool=""), num_classes=5)
