"""Networks by name: ``MODELS[name].create(input_shape, num_classes, norm)``, one architecture family per file.

Run folders and all above them import from here; this folder imports configs and the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from sharpness.config import ModelConfig
from sharpness.errors import InputError, unknown_name
from sharpness.models.fully_connected import cohen_tanh, f1, f1_narrow, f1_small, f2, relu_network
from sharpness.models.keskar_conv import c1, c2
from sharpness.models.norms import check_ghost_batch, with_ghost_norm
from sharpness.models.resnet import resnet
from sharpness.models.simple_cnn import simple_cnn
from sharpness.models.strided_cnn import strided_cnn
from sharpness.models.transformer import NORMS as TEXT_NORMS
from sharpness.models.transformer import character_transformer
from sharpness.models.vgg import vgg11, vgg16
from sharpness.models.wide_resnet import wide_resnet

BATCH_NORMS = ("batch", "running")
NORMS = (*BATCH_NORMS, "none")


@dataclass(frozen=True)
class ModelInfo:
    """One row of ``sharpness models``: what it is, the function that builds it, and the norms it can be built with."""

    description: str
    create: Callable[[tuple[int, ...], int, str], nn.Module]
    norms: tuple[str, ...] = NORMS


def _fully_connected(*widths: int) -> ModelInfo:
    sizes = " and ".join(map(str, widths)) if len(widths) < 3 else f"3 x {widths[0]}"
    described = f"fully connected network of Shallue et al. 2019: hidden layers {sizes}, ReLU"
    return ModelInfo(described, relu_network(*widths), ("none",))


def _simple_cnn(first: int, second: int, hidden: int) -> ModelInfo:
    described = f"Simple CNN of Shallue et al. 2019: 2 convolutions 5 x 5 ({first}, {second}), hidden layer {hidden}"
    return ModelInfo(described, simple_cnn(first, second, hidden), ("none",))


def _transformer(width: int, depth: int, *, tied: bool = False) -> ModelInfo:
    blocks, embeddings = f"{depth} block{'s' * (depth > 1)}", ", tied embeddings" if tied else ""
    described = f"causal transformer over bytes, a loss for each: {blocks} of width {width}{embeddings}"
    return ModelInfo(described, character_transformer(width, depth, tied=tied), tuple(TEXT_NORMS))


MODELS: dict[str, ModelInfo] = {
    "f1": ModelInfo("F1 of Keskar et al. 2017: five hidden layers of 512, BatchNorm, ReLU", f1),
    "f1_narrow": ModelInfo("F1 with hidden layers of 128 in place of 512, for many runs on a CPU", f1_narrow),
    "f1_small": ModelInfo("F1 with two hidden layers of 64, for many copies side by side on a CPU", f1_small),
    "f2": ModelInfo("F2 of Keskar et al. 2017: seven hidden layers of 512, BatchNorm, ReLU", f2),
    "c1": ModelInfo("C1 of Keskar et al. 2017: two convolutions 5 x 5, hidden layers 384 and 192, BatchNorm", c1),
    "c2": ModelInfo("C2 of Keskar et al. 2017: 13 convolutions 3 x 3, hidden layer 512, BatchNorm, dropout", c2),
    "c3": ModelInfo("C3 of Keskar et al. 2017: C1, for CIFAR-100", c1),
    "c4": ModelInfo("C4 of Keskar et al. 2017: C2, for CIFAR-100", c2),
    "smith_le": ModelInfo("network of Smith & Le 2018: one hidden layer of 800, ReLU", relu_network(800), ("none",)),
    "cohen_tanh": ModelInfo("network of Cohen et al. 2021: two hidden layers of 200, tanh", cohen_tanh, ("none",)),
    "fc_1024": _fully_connected(1024),
    "fc_1024_1024": _fully_connected(1024, 1024),
    **{f"fc_{width}_{width}_{width}": _fully_connected(width, width, width) for width in (128, 256, 512, 1024, 2048)},
    "simple_cnn_narrow": _simple_cnn(16, 32, 512),
    "simple_cnn": _simple_cnn(32, 64, 1024),
    "simple_cnn_wide": _simple_cnn(64, 128, 2048),
    "strided_cnn": ModelInfo(
        "2 convolutions 3 x 3 of stride 2 (16, 32), hidden layer 256, for many runs on a CPU", strided_cnn, ("none",)
    ),
    **{
        f"resnet{depth}": ModelInfo(f"ResNet-{depth} for small images, of Hoffer et al. 2017's kind", resnet(depth))
        for depth in (8, 20, 44)
    },
    "wide_resnet16_4": ModelInfo("WideResNet-16-4 of Zagoruyko & Komodakis 2016", wide_resnet(16, 4)),
    "vgg11": ModelInfo("VGG-11 for small images, hidden layers 4096, of Keskar et al.'s PyTorch code", vgg11),
    "vgg16": ModelInfo("VGG-16 for small images, hidden layers 512, of Izmailov et al. 2018", vgg16),
    "char_transformer_small": _transformer(32, 1),
    "char_transformer": _transformer(128, 2),
    "char_transformer_tied": _transformer(128, 2, tied=True),
    "char_transformer_wide": _transformer(256, 4),
}


def build_model(config: ModelConfig, input_shape: tuple[int, ...], num_classes: int, seed: int) -> nn.Module:
    """Return the network with initial weights drawn from ``seed``; the global random state is left as it was.

    Raises :class:`sharpness.errors.InputError` as :func:`check_model` does, and for inputs that the network cannot
    take.

    >>> sum(p.numel() for p in build_model(ModelConfig(), (1, 28, 28), 10, seed=0).parameters())
    1462794
    """
    check_model(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[config.name].create(input_shape, num_classes, config.norm)
    return model if config.ghost_batch is None else with_ghost_norm(model, config.ghost_batch)


def check_model(config: ModelConfig) -> None:
    """Raise :class:`sharpness.errors.InputError` for an unknown name or norm and for settings that do not go together.

    ``norm`` is one of those that the network can be built with; ``ghost_batch`` needs BatchNorm, at least 2 examples,
    and statistics that are not synchronised.
    """
    if config.name not in MODELS:
        raise unknown_name("model", config.name, MODELS)
    if config.norm not in (*NORMS, *TEXT_NORMS):
        raise unknown_name("norm", str(config.norm), (*NORMS, *TEXT_NORMS))
    norms = MODELS[config.name].norms
    if config.norm not in norms:
        known = " or ".join(map(repr, norms))
        why = "this network has no BatchNorm; " if "batch" not in norms else ""
        raise InputError(
            f"expected norm = {known} for {config.name}, got {config.norm!r}: {why}set norm to {norms[-1]}"
        )
    if config.ghost_batch is None:
        return
    check_ghost_batch(config.ghost_batch)
    if config.norm not in BATCH_NORMS:
        raise InputError(
            f"expected norm = 'batch' or 'running' with ghost_batch = {config.ghost_batch}, got {config.norm!r}: "
            "leave ghost_batch out"
        )
    if config.synchronised:
        raise InputError("expected ghost_batch or synchronised, got both: they want statistics of less and of more")
