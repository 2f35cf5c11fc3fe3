"""1x1 convolutions with a stride: the same sums as ``nn.Conv2d``'s."""

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from halobench import models
from halobench.attention import points
from halobench.attention.points import PointConv2d, pointwise
from halobench.models.folded import FoldedConv2d


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 2)], ids=str)
def test_the_same_sums(size: tuple[int, int], stride: int) -> None:
    """Output and both gradients, of maps that the stride does not divide, too."""
    point = PointConv2d(6, 4, stride).double()
    assert sorted(point.state_dict()) == ["weight"]
    found = []
    for called in (points.convolution, points.product):
        pixels = torch.randn(2, 6, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        output = called(pixels.requires_grad_(), point.weight, None, point.stride)
        found.append((output, *torch.autograd.grad(output.square().sum(), [pixels, point.weight])))
    torch.testing.assert_close(*found)
    torch.testing.assert_close(point(pixels), found[0][0])


@pytest.mark.parametrize(("kind", "number"), [(PointConv2d, 2), (FoldedConv2d, 7)])
def test_normalisation_may_be_folded_into_it(kind: type[nn.Conv2d], number: int) -> None:
    """PyTorch's own way gives it a bias, which it has not had before; a map without a batch is one, too."""
    norm = nn.BatchNorm2d(4)
    norm(torch.randn(8, 4, 3, 3) + 1)
    both = nn.Sequential(kind(6, 4, number), norm).eval()
    one, pixels = fuse_conv_bn_eval(*both), torch.randn(2, 6, 9, 8)
    torch.testing.assert_close(one(pixels), both(pixels))
    torch.testing.assert_close(one(pixels[0]), both(pixels)[0])


def test_only_a_stride_makes_one() -> None:
    assert type(pointwise(6, 4)) is nn.Conv2d
    assert type(pointwise(6, 4, 2)) is PointConv2d


def test_all_of_a_halonet_are_such() -> None:
    """Shortcuts and queries of strided blocks: no convolution of 1x1 is left to a library's strided kernels."""
    model = models.create("halonet_h0", "strided_gather")
    strided = [
        one
        for one in model.modules()
        if isinstance(one, nn.Conv2d) and one.kernel_size == (1, 1) and one.stride != (1, 1)
    ]
    assert len(strided) == 6
    assert all(isinstance(one, PointConv2d) for one in strided)
