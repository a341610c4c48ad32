"""The sets of named tensors that a checkpoint holds: each is one possible answer to "which weights?"."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sharpness.checkpoints.pickle_values import Inert
from sharpness.checkpoints.wording import shown
from sharpness.errors import InputError

MAX_DEPTH = 3
EMA_WORDS = frozenset({"ema", "averaged", "average", "shadow", "swa", "polyak"})
OPTIMIZER_WORDS = frozenset(
    {"optim", "optimizer", "optimizers", "optimiser", "lr", "scheduler", "schedulers", "scaler"}
)
"""The words with which the names of states begin that hold tensors but no weights."""
LIGHTNING_AVERAGES = frozenset({"state_dict", "current_model_state", "averaging_state"})
"""Lightning's averaging of weights saves the averages as ``state_dict``, and the weights themselves beside them."""
MODULE_FIELDS = ("_parameters", "_buffers", "_modules")
"""The attributes in which every ``nn.Module`` keeps its tensors and the modules inside it."""
MAX_TENSORS = 200_000
"""Names of tensors in a pickled module, where the largest networks have some 100 000."""
MAX_PREFIX = 1000
"""Characters of the name of a module inside it."""
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@dataclass(frozen=True, eq=False)
class Reading:
    """Named tensors and where they lie in the file, such as ``state_dict``; the name is empty for the file itself.

    ``ema`` says that the file calls them an average of weights over the training, which is another point than the
    weights it ended with.
    """

    name: str
    tensors: Mapping[str, Tensor]
    ema: bool = False


def find_readings(content: Any) -> tuple[Reading, ...]:
    """Return every mapping from names to tensors down to the third level; :class:`InputError` where there is none.

    Other values beside the tensors are left out, and so are optimizers' states. A stand-in for an object counts as the
    mapping of what it keeps, and one for a whole ``nn.Module`` as its state dict. A mapping that appears in several
    places is one reading.

    >>> import torch
    >>> content = {"epoch": 3, "model": {"weight": torch.zeros(1)}, "model_ema": {"weight": torch.ones(1)}}
    >>> [(reading.name, reading.ema) for reading in find_readings(content)]
    [('model', False), ('model_ema', True)]
    """
    readings = tuple(_walk(content, (), False, set()))
    if not readings:
        found = shown([str(key) for key in content]) if isinstance(content, Mapping) else type(content).__name__
        raise InputError(
            f"expected tensors under their names, got none ({found or 'nothing'}): save model.state_dict() instead"
        )
    return readings


def says_ema(name: str) -> bool:
    """Say whether a name has a word in it that stands for weights averaged over the training.

    >>> [name for name in ("state_dict_ema", "modelEMA", "ema_model.module.", "schema", "model") if says_ema(name)]
    ['state_dict_ema', 'modelEMA', 'ema_model.module.']
    """
    return not EMA_WORDS.isdisjoint(word.lower() for word in WORD.findall(name))


def _walk(content: Any, path: tuple[str, ...], ema: bool, seen: set[int]) -> Iterator[Reading]:
    # A pickle can put one mapping into another a thousand times, and that one into a third.
    if not isinstance(content, Mapping | Inert) or len(path) > MAX_DEPTH or id(content) in seen:
        return
    seen.add(id(content))
    parts = content.parts() if isinstance(content, Inert) else content
    module = _is_module(parts)
    tensors = dict(_state(parts)) if module else _tensors(parts)
    if tensors:
        yield Reading(".".join(path), {key: tensor.detach() for key, tensor in tensors.items()}, ema)
    if module:
        return
    averages = parts.keys() >= LIGHTNING_AVERAGES
    for key, value in parts.items():
        if isinstance(key, str) and OPTIMIZER_WORDS.isdisjoint(word.lower() for word in WORD.findall(key)[:1]):
            averaged = ema or says_ema(key) or (averages and key == "state_dict")
            yield from _walk(value, (*path, key), averaged, seen)


def _tensors(parts: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in parts.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _state(module: Mapping[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors of a pickled module's state dict: parameters and persistent buffers, all levels."""
    stack, count = [("", module)], 0
    while stack:
        prefix, parts = stack.pop()
        own, left_out = _tensors(parts["_parameters"]), parts.get("_non_persistent_buffers_set")
        skipped = left_out if isinstance(left_out, set | frozenset) else frozenset()
        own |= {name: tensor for name, tensor in _tensors(parts["_buffers"]).items() if name not in skipped}
        yield from ((prefix + name, tensor) for name, tensor in own.items())
        count += 1 + len(own)
        if count > MAX_TENSORS or len(prefix) > MAX_PREFIX:  # a module inside itself has no end
            raise InputError(
                f"expected a module of at most {MAX_TENSORS} tensors with names of at most {MAX_PREFIX} characters, "
                "got more: save its state_dict()"
            )
        inside = (
            (f"{prefix}{name}.", value.parts()) for name, value in parts["_modules"].items() if isinstance(value, Inert)
        )
        stack += reversed([(name, value) for name, value in inside if _is_module(value)])


def _is_module(parts: Mapping[Any, Any]) -> bool:
    return all(isinstance(parts.get(name), Mapping) for name in MODULE_FIELDS)
