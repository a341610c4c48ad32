"""Fully connected networks: Keskar et al. 2017, Smith & Le 2018, Shallue et al. 2019, Cohen et al. 2021.

All start from PyTorch's default for Linear: weights and biases uniform on +-1/sqrt(fan_in).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import nn

from sharpness.models.layers import batch_norm_1d


def f1(input_shape: tuple[int, ...], num_classes: int, norm: str) -> nn.Sequential:
    """Return F1: inputs flattened, then 5 x [Linear 512, BatchNorm, ReLU], then Linear to the class logits.

    Keskar et al. 2017 (arXiv 1609.04836), Appendix B. ``norm="batch"`` keeps no running statistics: every pass, also in
    evaluation, uses those of its own batch. The authors' Keras code did that (BatchNormalization with mode=2, so there
    the batch of the evaluation is part of what is measured). ``norm="running"`` is PyTorch's usual BatchNorm with
    running statistics in evaluation; ``norm="none"`` leaves BatchNorm out.

    Deviation from the authors: weights start from PyTorch's default for Linear, uniform on +-1/sqrt(fan_in) for weights
    and biases, where Keras draws Glorot-uniform weights and zero biases. For 28 x 28 inputs and 10 classes it has
    784 * 512 + 4 * 512^2 + 512 * 10 weights, 5 * 512 + 10 biases and 2 * 5 * 512 norm parameters: 1,462,794.

    >>> f1((1, 28, 28), 10, "batch")[2].track_running_stats
    False
    """
    return _with_norm(5, 512, input_shape, num_classes, norm)


def f1_narrow(input_shape: tuple[int, ...], num_classes: int, norm: str) -> nn.Sequential:
    """Return F1 with hidden layers of 128 in place of 512: a ninth of its weights, for studies of many runs on a CPU.

    Not a network of the paper; it deviates from the authors as :func:`f1` does.

    >>> f1_narrow((1, 28, 28), 10, "batch")[1]
    Linear(in_features=784, out_features=128, bias=True)
    """
    return _with_norm(5, 128, input_shape, num_classes, norm)


def f1_small(input_shape: tuple[int, ...], num_classes: int, norm: str) -> nn.Sequential:
    """Return F1 with two hidden layers of 64, for many copies that are trained side by side on a CPU.

    Not a network of the paper; it deviates from the authors as :func:`f1` does.

    >>> f1_small((14, 14), 10, "none")[1]
    Linear(in_features=196, out_features=64, bias=True)
    """
    return _with_norm(2, 64, input_shape, num_classes, norm)


def f2(input_shape: tuple[int, ...], num_classes: int, norm: str) -> nn.Sequential:
    """Return F2: F1 with 7 hidden layers of 512, for the 360 features and 1973 classes of TIMIT.

    Keskar et al. 2017 (arXiv 1609.04836), Appendix B; the authors released no code of it. TIMIT needs a licence; the
    network takes any inputs. It deviates from the authors as :func:`f1` does.

    >>> f2((1, 1, 360), 1973, "batch")[-1]
    Linear(in_features=512, out_features=1973, bias=True)
    """
    return _with_norm(7, 512, input_shape, num_classes, norm)


def _with_norm(depth: int, hidden: int, input_shape: tuple[int, ...], num_classes: int, norm: str) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(input_shape)
    for _ in range(depth):
        layers += [nn.Linear(width, hidden), batch_norm_1d(hidden, norm), nn.ReLU(inplace=True)]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, num_classes))


def relu_network(*widths: int) -> Callable[[tuple[int, ...], int, str], nn.Sequential]:
    """Return the function that builds a ReLU network with these hidden widths, and no norms whatever ``norm`` says.

    With 1 to 3 layers of Shallue et al. 2019 (arXiv 1811.03600), whose fc_1024, fc_1024_1024 and so on are trained on
    MNIST with plain SGD; the names are those of their published measurements. With 800 units it is the network of
    Smith & Le 2018 (arXiv 1710.06451), section 4. Where their weights start is not taken from the authors: it is
    PyTorch's default.

    >>> relu_network(800)((1, 28, 28), 10, "none")
    Sequential(
      (0): Flatten(start_dim=1, end_dim=-1)
      (1): Linear(in_features=784, out_features=800, bias=True)
      (2): ReLU()
      (3): Linear(in_features=800, out_features=10, bias=True)
    )
    """

    def create(input_shape: tuple[int, ...], num_classes: int, norm: str) -> nn.Sequential:
        return _plain(widths, nn.ReLU, input_shape, num_classes)

    return create


def cohen_tanh(input_shape: tuple[int, ...], num_classes: int, norm: str) -> nn.Sequential:
    """Return the fully connected tanh network of Cohen et al. 2021: two hidden layers of 200; it has no norms.

    arXiv 2103.00065; layers, biases and initial weights (PyTorch's default) as in the authors' code, ``fc-tanh``. They
    train it by full-batch gradient descent on the first 5000 images of CIFAR-10, each channel standardised, where this
    project divides bytes by 255.

    >>> cohen_tanh((3, 32, 32), 10, "none")[2]
    Tanh()
    """
    return _plain((200, 200), nn.Tanh, input_shape, num_classes)


def _plain(
    widths: Sequence[int], activation: type[nn.Module], input_shape: tuple[int, ...], num_classes: int
) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    before = math.prod(input_shape)
    for width in widths:
        layers += [nn.Linear(before, width), activation()]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, num_classes))
