"""Networks as people have them, saved as people save them, with the data and an eigenvalue found without this library.

Each case writes its files into a folder and returns the options of ``sharpness probe``; its model and batches, built
anew in float64 by the library it comes from, go to SciPy.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

TEXT = "the quick brown fox jumps over the lazy dog and the small cat sits by the old door of a white house " * 6
CLASSES = 4


class Recurrent(nn.Module):
    """A GRU that reads the rows of an image."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.layer, self.head = nn.GRU(8, width, batch_first=True), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x.squeeze(1))[0][:, -1])


def mlp() -> nn.Module:
    """Return a network of the user's own."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, CLASSES))


@dataclass(frozen=True)
class Prepared:
    """The output of a case: options of the command, and the loss as a function of its network for SciPy."""

    arguments: list[str]
    model: nn.Module
    value: Callable[[nn.Module], Tensor]
    exact: bool = True  # whether autograd differentiates it twice


def seeded(build: Callable[[], nn.Module]) -> Any:
    """Return a network with random weights, the same each time, its running statistics far from 0 and 1."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build()
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
            elif name.endswith("running_mean"):
                buffer.normal_(0, 0.3)
    return model.eval()


def images(folder: Path, channels: int, size: int, count: int = 7) -> tuple[str, Tensor, Tensor]:
    """Write ``count`` random images with labels as an npz file; return its spec and the tensors in float64."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((count, channels, size, size)).astype(np.float32)
    y = np.arange(count) % CLASSES
    np.savez(folder / "data.npz", x=x, y=y)
    return f"npz:{folder / 'data.npz'}", torch.from_numpy(x).double(), torch.from_numpy(y)


def classifier(
    folder: Path, spec: str, model: nn.Module, channels: int, size: int, exact: bool = True, count: int = 7
) -> Prepared:
    """Save a network's state dict with torch and give it images."""
    data, x, y = images(folder, channels, size, count)
    torch.save(model.state_dict(), folder / "weights.pt")
    arguments = [str(folder / "weights.pt"), "--model", spec, "--data", data, "--batch-size", "3"]
    return Prepared(arguments, model, lambda network: F.cross_entropy(network(x), y), exact)


def timm_resnet(folder: Path) -> Prepared:
    import timm

    model = seeded(lambda: timm.create_model("resnet18", num_classes=CLASSES, in_chans=1))
    return classifier(folder, f"timm:resnet18,num_classes={CLASSES},in_chans=1", model, 1, 16, count=4)


def timm_vit(folder: Path) -> Prepared:
    import timm

    options: dict[str, Any] = {"num_classes": CLASSES, "img_size": 32, "depth": 2, "embed_dim": 24}
    model = seeded(lambda: timm.create_model("vit_tiny_patch16_224", **options))
    spec = "timm:vit_tiny_patch16_224," + ",".join(f"{name}={value}" for name, value in options.items())
    return classifier(folder, spec, model, 3, 32)


def torchvision_resnet(folder: Path) -> Prepared:
    from torchvision import models

    model = seeded(lambda: models.resnet18(num_classes=CLASSES))
    return classifier(folder, f"torchvision:resnet18,num_classes={CLASSES}", model, 3, 16, count=4)


def torchvision_mobilenet(folder: Path) -> Prepared:
    from torchvision import models

    model = seeded(lambda: models.mobilenet_v3_small(num_classes=CLASSES))
    return classifier(
        folder, f"torchvision:mobilenet_v3_small,num_classes={CLASSES}", model, 3, 32, exact=False, count=4
    )


def gru(folder: Path) -> Prepared:
    return classifier(folder, "tests.given_cases:Recurrent,width=5", seeded(lambda: Recurrent(5)), 1, 8)


def lightning(folder: Path) -> Prepared:
    """Save what Lightning's Trainer saves: the network under the attribute ``net``, and the rest beside it."""
    prepared = classifier(folder, "tests.given_cases:mlp", seeded(mlp), 1, 8)
    state = OrderedDict((f"net.{name}", tensor) for name, tensor in prepared.model.state_dict().items())
    optimizer = torch.optim.Adam(prepared.model.parameters())
    content = {
        "epoch": 3,
        "global_step": 120,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 3}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-3, "width": 6},
    }
    torch.save(content, folder / "last.ckpt")
    return Prepared([str(folder / "last.ckpt"), *prepared.arguments[1:]], prepared.model, prepared.value)


def ddp_and_compile(folder: Path) -> Prepared:
    """Save the state dict of ``DistributedDataParallel(torch.compile(model))`` inside a training script's dict."""
    prepared = classifier(folder, "tests.given_cases:mlp", seeded(mlp), 1, 8)
    state = {f"module._orig_mod.{name}": tensor for name, tensor in prepared.model.state_dict().items()}
    optimizer = torch.optim.SGD(prepared.model.parameters(), lr=0.1, momentum=0.9)
    torch.save({"epoch": 9, "model": state, "optimizer": optimizer.state_dict()}, folder / "checkpoint.pth.tar")
    return Prepared([str(folder / "checkpoint.pth.tar"), *prepared.arguments[1:]], prepared.model, prepared.value)


def save_tokenizer(folder: Path) -> Any:
    """Write a tokenizer of whole words, as a model's folder holds one, and return it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted(set(TEXT.split()))
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]", *words])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]", "cls_token": "[CLS]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, sep_token="[SEP]", **special)
    tokenizer.save_pretrained(folder)
    (folder / "text.txt").write_text(TEXT)
    return tokenizer


def gpt2_config(vocabulary: int) -> Any:
    from transformers import GPT2Config

    return GPT2Config(
        n_layer=2, n_head=2, n_embd=8, vocab_size=vocabulary, n_positions=16, bos_token_id=0, eos_token_id=0
    )


def gpt2(folder: Path) -> Prepared:
    """Save a GPT-2 with tied embeddings in several shards; its data are the text beside it."""
    from transformers import GPT2LMHeadModel

    tokenizer = save_tokenizer(folder)
    model = seeded(lambda: GPT2LMHeadModel(gpt2_config(len(tokenizer))))
    model.save_pretrained(folder, max_shard_size="2KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    tokens = torch.tensor(tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    tokens = tokens[: len(tokens) // 12 * 12].view(-1, 12)

    def value(network: nn.Module) -> Tensor:
        logits = network(input_ids=tokens).logits[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    return Prepared([str(folder), "--data", f"text:{folder / 'text.txt'},length=12", "--batch-size", "4"], model, value)


def bert(folder: Path) -> Prepared:
    """Save a BERT classifier; its data are token numbers of several lengths, saved as a Hugging Face dataset."""
    from datasets import Dataset
    from transformers import BertConfig, BertForSequenceClassification

    sizes: dict[str, Any] = {
        "num_labels": 3,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 12,
    }
    config = BertConfig(vocab_size=20, max_position_embeddings=16, pad_token_id=0, **sizes)
    model = seeded(lambda: BertForSequenceClassification(config))
    model.save_pretrained(folder / "model")
    generator = np.random.default_rng(1)
    rows = [generator.integers(1, 20, length).tolist() for length in (5, 9, 7, 4, 9)]
    labels = [0, 1, 2, 1, 0]
    masks = [[1] * len(row) for row in rows]
    Dataset.from_dict({"input_ids": rows, "attention_mask": masks, "label": labels}).save_to_disk(folder / "data")

    def value(network: nn.Module) -> Tensor:
        losses = []  # one example at a time, so without padding
        for row, label in zip(rows, labels, strict=True):
            logits = network(input_ids=torch.tensor([row])).logits
            losses.append(F.cross_entropy(logits, torch.tensor([label])))
        return torch.stack(losses).mean()

    return Prepared([str(folder / "model"), "--data", f"hf:{folder / 'data'}", "--batch-size", "2"], model, value)


CASES: dict[str, Callable[[Path], Prepared]] = {
    "timm ResNet-18": timm_resnet,
    "timm ViT": timm_vit,
    "torchvision ResNet-18": torchvision_resnet,
    "torchvision MobileNetV3": torchvision_mobilenet,
    "GRU": gru,
    "Lightning checkpoint": lightning,
    "DDP and compile": ddp_and_compile,
    "GPT-2": gpt2,
    "BERT": bert,
}


def top_eigenvalue(prepared: Prepared) -> float:
    """Return the largest eigenvalue of the Hessian in float64 by SciPy, products by autograd or finite differences."""
    model = prepared.model.double().eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    size = sum(p.numel() for p in parameters)

    def gradient(create_graph: bool = False) -> list[Tensor]:
        with sdpa_kernel(SDPBackend.MATH):
            value = prepared.value(model)
        return list(torch.autograd.grad(value, parameters, create_graph=create_graph, materialize_grads=True))

    def pieces(v: np.ndarray) -> list[Tensor]:
        parts = torch.from_numpy(v.reshape(-1)).split([p.numel() for p in parameters])
        return [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]

    gradients = gradient(create_graph=True) if prepared.exact else []

    def product(v: np.ndarray) -> np.ndarray:
        direction = pieces(v)
        if prepared.exact:
            rows = torch.autograd.grad(
                gradients, parameters, grad_outputs=direction, retain_graph=True, materialize_grads=True
            )
        else:
            step, start = 1e-5, [p.detach().clone() for p in parameters]
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    for p, p_0, d in zip(parameters, start, direction, strict=True):
                        p.copy_(p_0 + sign * step * d)
                ends.append(gradient())
            with torch.no_grad():
                for p, p_0 in zip(parameters, start, strict=True):
                    p.copy_(p_0)
            rows = [(plus - minus) / (2 * step) for plus, minus in zip(*ends, strict=True)]
        return torch.cat([row.reshape(-1) for row in rows]).detach().numpy()

    operator: Any = LinearOperator((size, size), matvec=product, dtype=np.float64)  # pyright: ignore
    solve: Any = eigsh
    return float(solve(operator, k=1, which="LA", tol=1e-6, v0=np.ones(size), return_eigenvectors=False)[0])


def zero_one(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the share of wrong predictions, which has no derivative."""
    return (outputs.argmax(1) != targets).float().mean()
