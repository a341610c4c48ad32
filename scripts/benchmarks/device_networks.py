"""The networks that the device benchmark measures: small ones of the layers that differ, and two large ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from scripts.benchmarks.networks import Problem, gpt2, token_batches

Size = Literal["large", "small"]


class Recurrent(nn.Module):
    """An LSTM over the rows of an image, whose last state is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(28, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.flatten(0, 1))[0][:, -1])


class Attentive(nn.Module):
    """One layer of a transformer over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(28, 4, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(28, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x.flatten(0, 1)).mean(1))


def convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.Tanh(), nn.Conv2d(8, 8, 3, 2), nn.Flatten(), nn.Linear(288, 10))


def batch_norm() -> nn.Module:
    layers = nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.Tanh(), nn.Flatten(), nn.Linear(1352, 10)
    return nn.Sequential(*layers)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": convolutions,
    "BatchNorm on batches": batch_norm,
    "LSTM": Recurrent,
    "attention": Attentive,
}


class Bottleneck(nn.Module):
    """Convolutions of 1, 3 and 1 with a fourfold width at the end, and a shortcut (He et al. 2016, 1512.03385)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        sizes = ((inputs, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1))
        layers = [_convolution(*size) for size in sizes]
        self.body = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        plain = inputs == 4 * width and stride == 1
        self.shortcut = nn.Identity() if plain else _convolution(inputs, 4 * width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.body(x) + self.shortcut(x))


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> nn.Module:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


def bottlenecks(blocks: Sequence[int], width: int) -> nn.Module:
    """Return a ResNet with so many bottlenecks of each width; (3, 4, 6, 3) and 64 make ResNet-50."""
    layers: list[nn.Module] = [_convolution(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = width
    for stage, count in enumerate(blocks):
        for block in range(count):
            layers.append(Bottleneck(inputs, width << stage, 2 if stage and not block else 1))
            inputs = 4 * width << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


def resnet50(size: Size) -> Problem:
    """Return ResNet-50 with random weights in evaluation mode, the small one of four narrow blocks on few images."""
    (blocks, width), side, count = (((3, 4, 6, 3), 64), 128, 256) if size == "large" else (((1, 1, 1, 1), 4), 32, 16)
    torch.manual_seed(0)
    model, half = bottlenecks(blocks, width).eval(), count // 2
    batches = [(torch.randn(half, 3, side, side), torch.randint(1000, (half,))) for _ in range(2)]
    return Problem(model, cross_entropy, batches)


def gpt2_medium(size: Size) -> Problem:
    """Return GPT-2 medium with random weights on 4 sequences of 512 tokens, the small one of 2 layers on short ones."""
    torch.manual_seed(0)
    if size == "large":
        model = gpt2(layers=24, heads=16, width=1024, vocabulary=50_257, positions=512)
        return Problem(model.eval(), None, token_batches(2, 2, 512, 50_257))
    model = gpt2(layers=2, heads=2, width=32, vocabulary=128, positions=32)
    return Problem(model.eval(), None, token_batches(2, 2, 32, 128))


BIG: dict[str, Callable[[Size], Problem]] = {"ResNet": resnet50, "GPT-2": gpt2_medium}
