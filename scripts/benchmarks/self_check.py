"""The self-check of a loss: false alarms on honest networks in float32, and its time against a certified solve.

Run as ``python -m scripts.benchmarks.self_check``; it prints the two tables of ``docs/numbers.md``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from scripts.benchmarks.tools import peer
from sharpness.config import ModelConfig
from sharpness.curvature import HessianOperator
from sharpness.curvature.product_check import NOT_SYMMETRIC, WRONG
from sharpness.data import Batches, load_dataset
from sharpness.data.batches import Batch
from sharpness.loss import Loss
from sharpness.loss.eval_mode import batch_norms
from sharpness.loss.slope import NO_DERIVATIVE, UNREACHED
from sharpness.models import MODELS, build_model
from sharpness.probes import TopEigenvalues

TRANSFORMERS = [name for name in MODELS if name.startswith("char_transformer")]
SHAPES = {"f1": (1, 28, 28), "f1_narrow": (1, 28, 28), "f2": (1, 28, 28), **dict.fromkeys(TRANSFORMERS, (1, 1, 16))}
LEFT_OUT = ("c3", "c4", "fc_1024_1024_1024", "fc_2048_2048_2048", "vgg16", "wide_resnet16_4", "resnet44")
"""Copies of others with more classes, and networks whose like is in the table and that take minutes on two cores."""
TIMM = ("resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224", "convnext_atto", "regnetx_002", "mixer_s32_224")
ALARMS = (NO_DERIVATIVE, UNREACHED, WRONG, NOT_SYMMETRIC)  # a missing derivative is no false alarm
REPEATS = 2


def pairs(shape: tuple[int, ...], classes: int, number: int = 6) -> list[Batch]:
    """Return two uneven batches of random images and class numbers."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(number, *shape, generator=generator), torch.arange(number) % classes
    return [(x[:4], y[:4]), (x[4:], y[4:])]


def built_in(name: str) -> Loss:
    """Return a network of ours at its initial weights."""
    shape = SHAPES.get(name, (3, 32, 32))
    norm: Any = MODELS[name].norms[0]
    model = build_model(ModelConfig(name=name, norm=norm), shape, 256 if name in TRANSFORMERS else 10, 0)
    if name in TRANSFORMERS:
        tokens = torch.randint(256, (6, 1, 1, 16), generator=torch.Generator().manual_seed(0))
        x, y = tokens, tokens[:, 0, 0] % 10
        return Loss(model, F.cross_entropy, [(x[:4], y[:4]), (x[4:], y[4:])])
    return loss_of(model, pairs(shape, 10))


def loss_of(model: nn.Module, batches: list[Batch]) -> Loss:
    """Return the cross-entropy of a network, on batch statistics where it keeps no others."""
    norm = "batch" if any(module.running_mean is None for module in batch_norms(model)) else "frozen"
    return Loss(model, F.cross_entropy, batches, norm=norm)


def of_timm(name: str) -> Loss:
    """Return one of timm's small networks for ten classes."""
    timm = peer("timm")
    size = 224 if "224" in name else 96
    model = timm.create_model(name, num_classes=10)
    return Loss(model, F.cross_entropy, pairs((3, size, size), 10))


def of_hugging_face(kind: str) -> Loss:
    """Return a small model of Hugging Face's with its own loss over tokens, some of them ignored."""
    transformers = peer("transformers")
    sizes: dict[str, Any] = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 32}
    grouped = sizes | {"num_key_value_heads": 1}
    makers: dict[str, Callable[[], nn.Module]] = {
        "GPT2LMHeadModel": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32)
        ),
        "LlamaForCausalLM": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**grouped)),
        "Qwen2ForCausalLM": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**grouped)),
        "BertForMaskedLM": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**sizes)),
        "GPTNeoXForCausalLM": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**sizes)),
    }
    tokens = torch.randint(1, 50, (6, 12), generator=torch.Generator().manual_seed(0))
    labels = torch.where(torch.arange(12) > 5 + torch.arange(6)[:, None], -100, tokens)
    batches = [{"input_ids": tokens[:4], "labels": labels[:4]}, {"input_ids": tokens[4:], "labels": labels[4:]}]
    return Loss(makers[kind](), None, batches)


HUGGING_FACE = ("GPT2LMHeadModel", "LlamaForCausalLM", "Qwen2ForCausalLM", "BertForMaskedLM", "GPTNeoXForCausalLM")


def networks() -> dict[str, Callable[[], Loss]]:
    """Return the honest networks of the table by name."""
    found: dict[str, Callable[[], Loss]] = {}
    for name in MODELS:
        if name not in LEFT_OUT:
            found[name] = lambda name=name: built_in(name)
    found |= {f"timm {name}": lambda name=name: of_timm(name) for name in TIMM}
    return found | {f"Hugging Face {name}": lambda name=name: of_hugging_face(name) for name in HUGGING_FACE}


def checks_of(build: Callable[[], Loss]) -> dict[str, str]:
    """Return what the self-check says of a loss, products of its Hessian included."""
    torch.manual_seed(0)
    loss = build()
    HessianOperator(loss).matvec(torch.ones_like(loss.weights))
    return loss.self_check()


def alarms() -> None:
    """Print the table of false alarms."""
    print("| network | mean | gradient | products of the Hessian | false alarm |\n|---|---|---|---|---|")
    count = 0
    for name, build in networks().items():
        checks = checks_of(build)
        alarm = any(word in said for said in checks.values() for word in ALARMS)
        count += alarm
        cells = [checks[key] for key in ("mean", "slope", "hessian products")]
        print(f"| {name} | {' | '.join(cells)} | {'yes' if alarm else 'no'} |", flush=True)
    print(f"\nfalse alarms: {count} of {len(networks())}\n")


def seconds(work: Callable[[], object]) -> float:
    """Return the shortest wall time of a few runs."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def overhead() -> None:
    """Print what the check costs beside a certified solve over 10,000 images."""
    batches = list(Batches(load_dataset("fashion_mnist_10k").train, 1000))
    print("| network | self-check (s) | certified solve (s) | share |\n|---|---|---|---|")
    for name in ("f1_narrow", "f1"):
        model = build_model(ModelConfig(name=name), (1, 28, 28), 10, 0)

        def check(model: nn.Module = model) -> None:
            loss = loss_of(model, batches)
            operator = HessianOperator(loss)
            loss.self_check()
            operator.check()

        def solve(model: nn.Module = model) -> None:
            TopEigenvalues()(loss_of(model, batches))

        checking, solving = seconds(check), seconds(solve)
        print(f"| {name} | {checking:.3f} | {solving:.2f} | {100 * checking / solving:.1f} % |", flush=True)


if __name__ == "__main__":
    alarms()
    overhead()
