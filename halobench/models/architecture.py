"""What a HaloNet is made of, as numbers; no modules yet.

Source: Vaswani et al., *Scaling Local Self-Attention for Parameter Efficient Visual Backbones*, CVPR 2021, tables 2 and
3. Stages are numbered 1 to 4, as there.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from halobench.attention.geometry import Border, Geometry
from halobench.attention.problem import LayerSpec

FourStages = tuple[int, int, int, int]
Stem = Literal["convolution", "patch"]
Squeeze = Literal["convolution", "all", "none"]
Activation = Literal["silu", "relu"]


@dataclass(frozen=True)
class Block:
    """One bottleneck: 1x1 to the layer's channels, the layer, 1x1 to ``out_channels``, and a shortcut around them.

    ``channels`` enter. ``attention`` says whether the layer is a backend's or a convolution, ``squeeze`` whether the
    output is rescaled channel by channel (squeeze-and-excitation), ``drop`` how likely training skips the block.
    """

    channels: int
    layer: LayerSpec
    out_channels: int
    attention: bool
    squeeze: bool
    drop: float


@dataclass(frozen=True)
class Architecture:
    """A HaloNet, or a hybrid of it.

    ``block`` and ``halo`` are in pixels; ``depths``, ``widths`` and ``heads`` have an entry for each of the four
    stages. A block of width w maps to ``value_ratio`` * w channels in its attention (r_v) and to
    ``bottleneck_ratio`` * w at its end (r_b). ``final_channels`` is the width of a last 1x1 convolution (d_f), if there
    is one. The stages in ``convolution_stages`` have 3x3 convolutions w -> w in the attention's place;
    ``squeeze_excitation`` rescales the channels of these stages' blocks, of all blocks, or of none.
    ``stochastic_depth`` is the probability of skipping the last block; it grows linearly from zero at the first.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    block: int
    halo: int
    value_ratio: float
    bottleneck_ratio: float
    depths: FourStages
    final_channels: int | None = None
    widths: FourStages = (64, 128, 256, 512)
    heads: FourStages = (4, 8, 8, 8)
    stem: Stem = "convolution"
    convolution_stages: tuple[int, ...] = ()
    squeeze_excitation: Squeeze = "convolution"
    activation: Activation = "silu"
    stochastic_depth: float = 0.0
    positions: Literal["split", "sum"] | None = "split"
    border: Border = "masked"

    def __post_init__(self) -> None:
        for name in ("depths", "widths", "heads"):
            numbers = getattr(self, name)
            if len(numbers) != 4 or min(numbers) < 1:
                raise ValueError(f"{name} must be four positive integers, one for each stage, got {numbers!r}")
        for name, choices in (("stem", Stem), ("squeeze_excitation", Squeeze), ("activation", Activation)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} must be one of {get_args(choices)}, got {getattr(self, name)!r}")
        if not set(self.convolution_stages) <= {1, 2, 3, 4}:
            raise ValueError(f"convolution_stages must be among the stages 1 to 4, got {self.convolution_stages!r}")
        if not 0 <= self.stochastic_depth < 1:
            raise ValueError(f"stochastic_depth must be a probability below 1, got {self.stochastic_depth!r}")
        for stage in range(4):
            self.layer(stage, stride=1)

    @property
    def stem_channels(self) -> int:
        """Channels of the stem: the width of the first stage."""
        return self.widths[0]

    @property
    def has_attention(self) -> bool:
        """Whether any stage has attention, which a backend fills."""
        return not set(self.convolution_stages) >= {1, 2, 3, 4}

    @property
    def features(self) -> int:
        """Channels that enter the classifier."""
        return self.final_channels or self.out_channels(3)

    def blocks(self) -> list[list[Block]]:
        """All blocks, stage by stage. The first block of stages 2 to 4 halves the map in its layer."""
        stages: list[list[Block]] = []
        channels, number, last = self.stem_channels, 0, max(sum(self.depths) - 1, 1)
        for stage, depth in enumerate(self.depths):
            attention = stage + 1 not in self.convolution_stages
            squeeze = self.squeeze_excitation == "all" or (self.squeeze_excitation == "convolution" and not attention)
            stages.append([])
            for index in range(depth):
                layer = self.layer(stage, stride=2 if stage > 0 and index == 0 else 1)
                drop = self.stochastic_depth * number / last
                stages[-1].append(Block(channels, layer, self.out_channels(stage), attention, squeeze, drop))
                channels, number = self.out_channels(stage), number + 1
        return stages

    def out_channels(self, stage: int) -> int:
        """Channels at the end of a stage (counted from 0): w r_b."""
        return whole(self.widths[stage] * self.bottleneck_ratio, f"widths[{stage}] * bottleneck_ratio")

    def layer(self, stage: int, stride: int) -> LayerSpec:
        """The layer of a stage (counted from 0)."""
        width, heads = self.widths[stage], self.heads[stage]
        attention = stage + 1 not in self.convolution_stages
        ratio = self.value_ratio if attention else 1
        return LayerSpec(
            channels=width,
            heads=heads,
            key_dim=whole(width / heads, f"widths[{stage}] / heads[{stage}]"),
            value_dim=whole(width * ratio / heads, f"widths[{stage}] * value_ratio / heads[{stage}]"),
            geometry=Geometry(self.block, self.halo, stride, self.border),
            positions=self.positions if attention else None,
        )


def whole(number: float, name: str) -> int:
    """The number as an integer, or ``ValueError`` where it is none."""
    if number != int(number):
        raise ValueError(f"{name} must be an integer, got {number}")
    return int(number)
