"""Wide residual networks for small images (Zagoruyko & Komodakis 2016, arXiv 1605.07146)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sharpness.models.layers import batch_norm_2d, he_normal_, image_shape


class Block(nn.Module):
    """``conv(relu(norm(conv(a)))) + x`` with ``a = relu(norm(x))``.

    Where the channels change, a convolution of 1 x 1 of ``a`` stands for ``x``.
    """

    def __init__(self, channels: int, out: int, stride: int, norm: str) -> None:
        super().__init__()
        bias = norm == "none"
        self.norm1 = batch_norm_2d(channels, norm)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=bias)
        self.norm2 = batch_norm_2d(out, norm)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=bias)
        self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False) if channels != out else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, its height and width divided by the stride."""
        active = torch.relu(self.norm1(x))
        inner = torch.relu(self.norm2(self.conv1(active)))
        return self.conv2(inner) + (x if self.shortcut is None else self.shortcut(active))


def wide_resnet(depth: int, widening: int) -> Callable[[tuple[int, ...], int, str], nn.Module]:
    """Return the function that builds WideResNet-``depth``-``widening``, of depth 6n + 4.

    Conv 3 x 3 to 16 channels, 3 stages of n blocks with 16, 32 and 64 times ``widening`` channels, the second and third
    of stride 2, then BatchNorm, ReLU, the mean over the image and Linear to the logits; no dropout. Blocks, shortcuts
    and the convolutions without biases are those of the authors' PyTorch code. Smith et al. 2018 (arXiv 1711.00489)
    train 16-4 on CIFAR-10. Hoffer et al. 2017 (arXiv 1705.08741) have another network of this name, which is ResNet-14
    with four times the channels. Deviations: convolutions start from N(0, 2 / (k^2 c_out)), the last layer from
    PyTorch's default. ``norm="none"`` leaves BatchNorm out and gives biases to the convolutions of 3 x 3, one for each
    norm that is gone. The function raises :class:`sharpness.errors.InputError` for inputs that are no images.

    >>> sum(p.numel() for p in wide_resnet(16, 4)((3, 32, 32), 10, "running").parameters())
    2748890
    """
    blocks = (depth - 4) // 6

    def create(input_shape: tuple[int, ...], num_classes: int, norm: str) -> nn.Module:
        channels, _, _ = image_shape(input_shape)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv"] = nn.Conv2d(channels, 16, 3, padding=1, bias=norm == "none")
        channels = 16
        for number in (1, 2, 3):
            width, stride = 2 ** (number + 3) * widening, 1 if number == 1 else 2
            rest = [Block(width, width, 1, norm) for _ in range(blocks - 1)]
            layers[f"stage{number}"] = nn.Sequential(Block(channels, width, stride, norm), *rest)
            channels = width
        layers |= {"norm": batch_norm_2d(channels, norm), "relu": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1)}
        layers |= {"flatten": nn.Flatten(), "logits": nn.Linear(channels, num_classes)}
        return he_normal_(nn.Sequential(layers))

    return create
