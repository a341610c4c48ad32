"""The networks that the benchmarks of curvature and landscapes measure, each with its criterion and its batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, relu

from scripts.benchmarks.tools import peer
from sharpness.config import RunConfig, TrainingConfig
from sharpness.data import Batches, load_dataset
from sharpness.data.batches import Batch, split
from sharpness.errors import InputError
from sharpness.files import write_atomically
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.machine.torchvision import hidden_torchvision, load_torchvision
from sharpness.runs import RunFolder
from sharpness.runs.networks import load_network
from sharpness.training import train

BATCH_OF = {"SB": 64, "LB": 1000}
"""Batch sizes of the pair of F1 that the full form of the Keskar study has, too."""
EVALUATION_BATCH = 1000
GPT2_SIZES = {"small": (12, 12, 768), "medium": (24, 16, 1024)}
"""Layers, heads and width; Radford et al. 2019, with the vocabulary of 50,257 that gives 124 and 355 million."""


@dataclass(frozen=True)
class Problem:
    """A network in evaluation mode: called plainly, as the peers do, it is the function that ``loss()`` measures."""

    model: nn.Module
    criterion: Callable[[Any, Any], Tensor] | None  # None: batches are dicts and the model has its own loss
    batches: Sequence[Batch]  # of equal size, because one peer averages batches without weights
    norm: str = "frozen"

    def loss(self, dtype: torch.dtype = torch.float32) -> Loss:
        """Return the mean loss over the batches; a model with its own loss predicts all tokens but the first."""
        count = predicted_tokens if self.criterion is None else None
        return Loss(self.model, self.criterion, self.batches, norm=self.norm, count=count, dtype=dtype)


def predicted_tokens(batch: Batch) -> float:
    """Return the number of tokens that a causal language model averages over: all but the first of each sequence."""
    return float(batch["labels"][:, 1:].numel())


def load_problem(name: str, examples: int, runs: Path) -> Problem:
    """Return SB or LB, F1 after a training with small or large batches, or ResNet, GPT-2 or MLP after a brief one.

    Raises :class:`InputError` for a number of examples that equal batches do not divide.
    """
    if name in BATCH_OF:
        return _pair(name, examples, runs)
    if name == "ResNet":
        data = images(examples)
        pieces = [piece for batch in data for piece in split(batch, 100)]
        model = brief_training(SmallResNet, pieces, 200, runs, f"resnet-{examples}")
        return Problem(model, cross_entropy, data)
    return _small_gpt2(examples, runs) if name == "GPT-2" else _small_mlp(min(examples, 1000), runs)


def _small_gpt2(examples: int, runs: Path) -> Problem:
    """Return a GPT-2 of 4 layers on sequences of 64 tokens, which has a loss of its own."""
    sequences = max(16 * examples // 10_000, 1)  # in each of the 8 batches
    tokens = token_batches(batches=8, sequences=sequences, length=64, vocabulary=512)

    def build() -> nn.Module:
        return gpt2(layers=4, heads=4, width=128, vocabulary=512, positions=64)

    return Problem(brief_training(build, tokens, 60, runs, f"gpt2-{8 * sequences}"), None, tokens)


def _small_mlp(examples: int, runs: Path) -> Problem:
    """Return a 64-16-10 network on 8 x 8 averages of the images, so small that its Hessian can be written out."""
    data = [(adaptive_avg_pool2d(x, 8).flatten(1), y) for x, y in images(examples)]

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))

    return Problem(brief_training(build, data, 300, runs, f"mlp-{examples}"), cross_entropy, data)


def tiny_problem() -> Problem:
    """Return a problem of 9 parameters, on which a tool loads all that it loads at its first use."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        batches = [(torch.randn(4, 2), torch.tensor([0, 1, 2, 0])) for _ in range(2)]
        return Problem(nn.Linear(2, 3).eval(), cross_entropy, batches)


def trained(config: RunConfig, runs: Path) -> RunFolder:
    """Return the run folder of a config among those of the Keskar study, and train it first where nobody has."""
    run = RunFolder.create(runs / "keskar2017" / config.run_id, config)
    train(config, load_dataset(config.data.name), run, torch.device("cpu"))
    return run


def _pair(name: str, examples: int, runs: Path) -> Problem:
    config = RunConfig(training=TrainingConfig(batch_size=BATCH_OF[name]))
    run, device = trained(config, runs), torch.device("cpu")
    model = load_network(run, run.final_checkpoint(), load_dataset(config.data.name), device)
    return Problem(model.eval(), cross_entropy, images(examples), norm="batch")


def images(examples: int) -> list[Batch]:
    """Return the first examples of Fashion-MNIST (10,000) in equal evaluation batches, at least two."""
    size = min(EVALUATION_BATCH, examples // 2)
    if size < 1 or examples % size:
        raise InputError(f"expected an even number of examples, of thousands above 2,000, got {examples}: try 10000")
    return list(Batches(load_dataset("fashion_mnist_10k").train.first(examples), size))


def token_batches(batches: int, sequences: int, length: int, vocabulary: int) -> list[Batch]:
    """Return dict batches of made tokens: each follows from the one before up to one of three choices."""
    generator = torch.Generator().manual_seed(derived_seed(0, "benchmark", "tokens"))
    tokens = [torch.randint(vocabulary, (batches * sequences,), generator=generator)]
    while len(tokens) < length:
        choice = torch.randint(3, tokens[0].shape, generator=generator)
        tokens.append((5 * tokens[-1] + 7 + choice) % vocabulary)
    pieces = torch.stack(tokens, dim=1).split(sequences)
    return [{"input_ids": piece, "labels": piece} for piece in pieces]


def gpt2(layers: int, heads: int, width: int, vocabulary: int, positions: int) -> nn.Module:
    """Return GPT-2 with random weights, its attention the plain one, which has second derivatives."""
    with hidden_torchvision(load_torchvision()):
        transformers = peer("transformers")
    config = transformers.GPT2Config(
        n_layer=layers,
        n_head=heads,
        n_embd=width,
        vocab_size=vocabulary,
        n_positions=positions,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
        attn_implementation="eager",
    )
    return transformers.GPT2LMHeadModel(config)


def gpt2_at_scale(size: str) -> Problem:
    """Return GPT-2 small or medium from its config with two micro-batches of 1 x 32 made tokens."""
    layers, heads, width = GPT2_SIZES[size]
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(0, "benchmark", size))
        model = gpt2(layers, heads, width, vocabulary=50257, positions=1024)
    return Problem(model.eval(), None, token_batches(batches=2, sequences=1, length=32, vocabulary=50257))


class _Block(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm and a shortcut (He et al. 2016)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))
        self.shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.norms[0](self.first(x)))
        return relu(self.norms[1](self.second(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A stem of 8 channels and stride 2, and three stages of one block each with 8, 16 and 32 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, 2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.stages = nn.Sequential(_Block(8, 8, 1), _Block(8, 16, 2), _Block(16, 32, 2))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(relu(self.norm(self.stem(x)))).mean((2, 3)))


def brief_training(
    build: Callable[[], nn.Module], batches: Sequence[Batch], steps: int, runs: Path, name: str
) -> nn.Module:
    """Return a network after some Adam steps (learning rate 1e-3) over the batches in their order, in evaluation mode.

    Its weights are kept in ``runs/benchmark_curvature``, so that every process measures the same ones.
    """
    path = runs / "benchmark_curvature" / f"{name}-{steps}-steps.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(0, "benchmark", name))
        model = build()
        if not path.exists():
            _adam_steps(model.train(), batches, steps)
            path.parent.mkdir(parents=True, exist_ok=True)
            # A tensor under two names, such as the tied embeddings of GPT-2, is stored once.
            kept = {key for key, _ in [*model.named_parameters(), *model.named_buffers()]}
            state = {key: tensor.contiguous() for key, tensor in model.state_dict().items() if key in kept}
            write_atomically(path, safetensors.torch.save(state))
    model.load_state_dict(safetensors.torch.load(path.read_bytes()), strict=False)
    return model.eval()


def _adam_steps(model: nn.Module, batches: Sequence[Batch], steps: int) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for batch in itertools.islice(itertools.cycle(batches), steps):
        optimizer.zero_grad()
        value = model(**batch).loss if isinstance(batch, dict) else cross_entropy(model(batch[0]), batch[1])
        value.backward()
        optimizer.step()
