"""Folders that PEFT saved: a LoRA adapter goes into a network beside its layers, and its own weights are the trainable.

The functions are our own: a folder's settings choose numbers here, never code.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.checkpoints.formats import ADAPTER_CONFIG
from sharpness.checkpoints.loading import Checkpoint
from sharpness.checkpoints.wording import about, naming, shown
from sharpness.errors import InputError
from sharpness.parsing import parse_object, read_bounded

PREFIX = "base_model.model."
DEFAULT_ALPHA = 8
OTHER_FUNCTIONS = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "layer_replication",
    "megatron_config",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "use_bdlora",
)
"""Settings with which an adapter is another function than ``W x + s B A x``."""
MOVED_BASES = ("pissa", "olora", "loftq", "corda", "lora_ga")
"""Ways to draw the first adapter that change the weights of the base too."""
MERGE = "save merge_and_unload() with save_pretrained, and measure that folder"
WHOLE = "or torch.save the whole state_dict and give --model package.module:factory with the adapter in it"


@dataclass(frozen=True)
class LoraConfig:
    """The part of ``adapter_config.json`` that says which function the adapter is, and the name of its base."""

    base: str | None
    alpha: float
    alphas: Mapping[str, float]
    by_root: bool  # the factor is alpha over the root of the rank
    saved: tuple[str, ...]  # the ends of the names of modules that were trained whole
    tied: bool = False  # what was tied to these stayed so

    def factor(self, module: str, rank: int) -> float:
        """Return what the product of a module's two matrices counts for."""
        own = [alpha for name, alpha in self.alphas.items() if module == name or module.endswith(f".{name}")]
        return (own[0] if own else self.alpha) / (math.sqrt(rank) if self.by_root else rank)

    def is_saved(self, module: str) -> bool:
        """Return whether a module, or one around it, was trained whole."""
        return any(outer.endswith(self.saved) for outer in accumulate(module.split("."), "{}.{}".format))


def read_lora_config(folder: Path) -> LoraConfig:
    """Return the settings of an adapter folder; :class:`InputError` for other adapters than plain LoRA, with the cure.

    Nothing but these settings is looked at: some others of PEFT's name modules to import.
    """
    path = folder / ADAPTER_CONFIG
    with about(path, "the settings of an adapter"):
        content = parse_object(read_bounded(path, "the settings of an adapter"), "the settings of an adapter")
        if (kind := content.get("peft_type")) != "LORA":
            raise InputError(f"expected an adapter of the type LORA, got {shown([kind])}: {MERGE}, {WHOLE}")
        if others := [name for name in OTHER_FUNCTIONS if content.get(name)]:
            raise InputError(f"expected a plain LoRA adapter, got one with {shown(others)}: {MERGE}, {WHOLE}")
        start = content.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(MOVED_BASES):
            raise InputError(f"expected an adapter of an unchanged base, got {shown([start])}, which moves it: {MERGE}")
        alphas = _numbers(content.get("alpha_pattern") or {})
        saved, base = content.get("modules_to_save") or [], content.get("base_model_name_or_path")
        return LoraConfig(
            base=base if isinstance(base, str) and base else None,
            alpha=_numbers({"lora_alpha": content.get("lora_alpha", DEFAULT_ALPHA)})["lora_alpha"],
            alphas=alphas,
            by_root=content.get("use_rslora") is True,
            saved=tuple(str(name) for name in saved if name),
            tied=content.get("ensure_weight_tying") is True,
        )


def _numbers(given: Any) -> dict[str, float]:
    """Return finite numbers by name; names that are patterns are refused, because a file's patterns may never end."""
    numbers = {str(name): value for name, value in given.items()}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"expected a number for {shown([name])}, got {shown([value])}: fetch or save it again")
        if not name.replace("_", "").replace(".", "").isalnum():
            raise InputError(f"expected names of modules in alpha_pattern, got {shown([name])}: {MERGE}")
    return {name: float(value) for name, value in numbers.items()}


def find_base(folder: Path, config: LoraConfig) -> Path:
    """Return the base that an adapter names, a folder or a file: at that path or beside the adapter; never downloaded.

    Raises :class:`InputError` where there is none.
    """
    with about(folder / ADAPTER_CONFIG, "the settings of an adapter"):
        if config.base is None:
            raise InputError(
                "expected base_model_name_or_path, got none: give --model hf:FOLDER with the base's folder"
            )
        name = Path(config.base)
        places = [folder.absolute().parent / name, folder.absolute().parent / name.name, name]
        base = next((place for place in places if place.exists()), None)
        if base is None:
            raise InputError(
                f"expected the base {shown([config.base])!r} of this adapter beside its folder or at that path, got "
                "nothing there, and nothing is downloaded: put it there, or give --model hf:FOLDER with the base's "
                f"folder; or {MERGE}"
            )
        return base


def has_adapter(model: nn.Module) -> bool:
    """Return whether a network has matrices of a LoRA adapter among its parameters."""
    return any(".lora_" in f".{name}" for name, _ in model.named_parameters())


def supplied(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the tensors of an adapter's file by the names of the network, without what PEFT puts around them."""
    with naming(checkpoint.path):
        if len(checkpoint.readings) != 1:
            raise InputError(f"expected one set of named tensors, got {len(checkpoint.readings)}: {MERGE}")
        (reading,) = checkpoint.readings
        return {name.removeprefix(PREFIX): tensor for name, tensor in reading.tensors.items()}


def add_adapter(model: nn.Module, tensors: Mapping[str, Tensor], config: LoraConfig) -> None:
    """Give a network the adapter's matrices as parameters beside its layers, and leave only its own trainable.

    Each layer then returns ``W x + s B A x``, s being ``lora_alpha`` over the rank. ``tensors`` have the shapes; their
    values are loaded as those of any checkpoint. Modules that were trained whole, and biases that the adapter has, are
    trainable too; what was tied to such a module keeps the base's weight. Raises :class:`InputError` for matrices of
    layers that the network has not, or of another shape.

    >>> model, matrices = nn.Sequential(nn.Linear(3, 2)), {"0.lora_A.weight": torch.ones(1, 3)}
    >>> add_adapter(model, matrices | {"0.lora_B.weight": torch.ones(2, 1)}, LoraConfig(None, 4.0, {}, False, ()))
    >>> [name for name, p in model.named_parameters() if p.requires_grad]
    ['0.lora_A.weight', '0.lora_B.weight']
    """
    _untie(model, tensors, config)
    layers = dict(model.named_modules())
    model.requires_grad_(False)
    for name in [name for name in tensors if "lora_" in name]:
        module, _, rest = name.partition(".lora_")
        if rest not in ("A.weight", "B.weight", "embedding_A", "embedding_B"):
            raise InputError(f"expected matrices A and B of a LoRA adapter, got {shown([name])}: {MERGE}, {WHOLE}")
        if module not in layers:
            raise InputError(f"expected an adapter of this network, got one of {shown([module])}, which it has not")
        if rest in ("A.weight", "embedding_A"):
            _extend(layers[module], module, tensors, config, embedding=rest == "embedding_A")
    for name, parameter in model.named_parameters():
        trained = name.endswith("bias") or config.is_saved(name.rpartition(".")[0])
        if ".lora_" in f".{name}" or (name in tensors and trained):
            parameter.requires_grad_()


def _untie(model: nn.Module, tensors: Mapping[str, Tensor], config: LoraConfig) -> None:
    """Give modules that were trained whole weights of their own where others share them, as PEFT does.

    Where it keeps them tied, its file has the weights under all of their names.
    """
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if not name.endswith(config.saved):
            continue
        own = set(map(id, module.parameters()))
        names = [n for n, p in model.named_parameters(remove_duplicate=False) if id(p) in own]
        shared = any(not n.startswith(f"{name}.") for n in names)
        if shared and not (config.tied and all(n in tensors for n in names)):
            model.set_submodule(name, copy.deepcopy(module))


def _extend(layer: nn.Module, name: str, tensors: Mapping[str, Tensor], config: LoraConfig, *, embedding: bool) -> None:
    """Register the two matrices of one layer and the hook that adds their product."""
    first, second = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
    a, b = tensors[f"{name}.{first}"], tensors.get(f"{name}.{second}")
    # Of a subclass we do not know what its forward() adds, nor, as in attention of torch, whether it is ever called.
    add = HOOKS.get("Conv1D" if _is_conv1d(layer) else type(layer).__name__)
    if add is None or embedding != (add is _embedded) or getattr(layer, "groups", 1) != 1:
        raise InputError(f"expected an adapter of linear, convolution and embedding layers, got {name}: {MERGE}")
    weight = layer.get_parameter("weight")
    wide = tuple(weight.shape[::-1] if _is_conv1d(layer) else weight.shape)
    if b is None or _product_shape(a, b, embedding) != wide:
        raise InputError(
            f"expected matrices whose product has the shape {wide} of {name}, got {tuple(a.shape)} and "
            f"{None if b is None else tuple(b.shape)}: this is not the base of the adapter"
        )
    like = {"dtype": weight.dtype, "device": weight.device}
    if embedding:
        layer.register_parameter("lora_embedding_A", nn.Parameter(torch.zeros(a.shape, **like)))
        layer.register_parameter("lora_embedding_B", nn.Parameter(torch.zeros(b.shape, **like)))
    else:
        for key, tensor in (("lora_A", a), ("lora_B", b)):
            holder = nn.Module()
            holder.register_parameter("weight", nn.Parameter(torch.zeros(tensor.shape, **like)))
            layer.add_module(key, holder)
    layer.register_forward_hook(partial(add, config.factor(name, len(a))))


def _product_shape(a: Tensor, b: Tensor, embedding: bool) -> tuple[int, ...] | None:
    """Return the shape of the weight that two matrices add to, if they go together."""
    if embedding:
        return (a.shape[1], b.shape[0]) if a.ndim == b.ndim == 2 and len(a) == b.shape[1] else None
    if a.ndim != b.ndim or a.ndim < 2 or len(a) != b.shape[1] or any(size != 1 for size in b.shape[2:]):
        return None
    return (b.shape[0], *a.shape[1:])


def _is_conv1d(layer: nn.Module) -> bool:
    """Return whether a layer is the linear one of Transformers' GPT-2, whose weight is the transpose of a Linear's."""
    return type(layer).__name__ == "Conv1D"


def _linear(factor: float, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    hidden = F.linear(inputs[0].to(layer.lora_A.weight.dtype), layer.lora_A.weight)
    return output + factor * F.linear(hidden, layer.lora_B.weight).to(output.dtype)


def _convolved(factor: float, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    weight = layer.lora_A.weight
    hidden = layer._conv_forward(inputs[0].to(weight.dtype), weight, None)
    return output + factor * F.conv2d(hidden, layer.lora_B.weight).to(output.dtype)


def _embedded(factor: float, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    hidden = F.embedding(inputs[0], layer.lora_embedding_A.T, padding_idx=layer.padding_idx)
    return output + factor * (hidden @ layer.lora_embedding_B.T).to(output.dtype)


HOOKS: dict[str, Callable[[float, Any, tuple[Tensor, ...], Tensor], Tensor]] = {
    "Linear": _linear,
    "Conv1D": _linear,
    "Conv2d": _convolved,
    "Embedding": _embedded,
}
"""What is added to the output of a layer, by the name of its class."""
