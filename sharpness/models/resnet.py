"""Residual networks for small images, of depth 6n + 2 (He et al. 2016, arXiv 1512.03385, section 4.2)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sharpness.models.layers import batch_norm_2d, he_normal_, image_shape


class Block(nn.Module):
    """``relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))`` with two convolutions of 3 x 3."""

    def __init__(self, channels: int, out: int, stride: int, norm: str) -> None:
        super().__init__()
        bias = norm == "none"
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=bias)
        self.norm1 = batch_norm_2d(out, norm)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=bias)
        self.norm2 = batch_norm_2d(out, norm)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=bias), batch_norm_2d(out, norm))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, its height and width divided by the stride."""
        inner = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


def resnet(depth: int) -> Callable[[tuple[int, ...], int, str], nn.Module]:
    """Return the function that builds ResNet-``depth``: 3 stages of n blocks with 16, 32 and 64 channels.

    Conv 3 x 3, then the blocks, the second and third stage of stride 2, then the mean over the image and Linear to the
    logits. Depth 44 is trained by Hoffer et al. 2017 (arXiv 1705.08741), whose code this follows: where a stage changes
    the size, the shortcut is a convolution of 1 x 1 with its own BatchNorm, where He et al. pad with zero channels; the
    convolutions start from N(0, 2 / (9 c_out)), the last layer from PyTorch's default. Depths 8 and 20 are trained by
    Masters & Luschi 2018 (arXiv 1804.07612) with and without BatchNorm, and depth 8 without by Shallue et al. 2019
    (arXiv 1811.03600), whose blocks may differ. ``norm="none"`` leaves BatchNorm out and gives the convolutions biases;
    nothing then keeps the activations from growing with each block, so deep ones want a small learning rate. The
    function raises :class:`sharpness.errors.InputError` for inputs that are no images.

    >>> sum(p.numel() for p in resnet(20)((3, 32, 32), 10, "running").parameters())
    272474
    """
    blocks = (depth - 2) // 6

    def create(input_shape: tuple[int, ...], num_classes: int, norm: str) -> nn.Module:
        channels, _, _ = image_shape(input_shape)
        stem = nn.Conv2d(channels, 16, 3, padding=1, bias=norm == "none")
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=stem, norm=batch_norm_2d(16, norm), relu=nn.ReLU())
        channels = 16
        for number, width in enumerate((16, 32, 64), 1):
            stride = 1 if number == 1 else 2
            rest = [Block(width, width, 1, norm) for _ in range(blocks - 1)]
            layers[f"stage{number}"] = nn.Sequential(Block(channels, width, stride, norm), *rest)
            channels = width
        layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "logits": nn.Linear(64, num_classes)}
        return he_normal_(nn.Sequential(layers))

    return create
