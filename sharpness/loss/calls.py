"""Calls of a network of any signature with a batch of any form, and what is read from its output."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sharpness.data.batches import Batch, attributes_of, is_example_list
from sharpness.errors import InputError


@dataclass(frozen=True)
class Signature:
    """The arguments that a network's ``forward`` takes: how many by position, how many it needs, and by which names."""

    most: float
    needed: int
    names: frozenset[str]
    any_name: bool

    @classmethod
    def of(cls, model: nn.Module) -> Signature:
        """Return the signature of a network, of the one inside where it was compiled or wrapped for several processes.

        >>> Signature.of(nn.Bilinear(2, 2, 1)).needed
        2
        """
        for name in ("_orig_mod", "module"):
            if type(model).__name__ in ("OptimizedModule", "DistributedDataParallel", "DataParallel"):
                model = getattr(model, name, model)
        try:
            found = list(inspect.signature(model.forward).parameters.values())
        except (TypeError, ValueError):  # compiled code does not tell
            return cls(float("inf"), 1, frozenset(), True)
        by_position = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        return cls(
            most=float("inf") if any(p.kind is p.VAR_POSITIONAL for p in found) else len(by_position),
            needed=sum(p.default is p.empty for p in by_position),
            names=frozenset(p.name for p in found if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)),
            any_name=any(p.kind is p.VAR_KEYWORD for p in found),
        )


def call(model: nn.Module, batch: Batch, *, own_loss: bool) -> Any:
    """Return a network's output on a batch; ``own_loss`` says that it takes the targets too and returns its loss.

    Of a pair it gets the inputs, of a longer tuple all but the last entry; a tuple of inputs by position where it takes
    as many, a mapping by name. Of a dict it gets all but ``labels``, which it gets where it takes them. A list of
    examples and a batch of graphs it gets as they are.

    >>> call(nn.Bilinear(2, 3, 1), (torch.zeros(5, 2), torch.zeros(5, 3), torch.zeros(5)), own_loss=False).shape
    torch.Size([5, 1])
    """
    signature = Signature.of(model)
    if isinstance(batch, Mapping):
        given = dict(batch)
        if not own_loss and "labels" not in signature.names:
            given.pop("labels", None)
        return _by_name(model, given, signature)
    if is_example_list(batch) or not isinstance(batch, list | tuple):
        return model(batch)
    if own_loss and signature.most >= len(batch):
        return model(*batch)
    inputs = list(batch[:-1] if len(batch) > 1 else batch)
    if len(inputs) > 1:
        return model(*inputs) if signature.most >= len(inputs) else model(tuple(inputs))
    return _with_inputs(model, inputs[0], signature)


def _with_inputs(model: nn.Module, inputs: Any, signature: Signature) -> Any:
    """Call a network with the first entry of a pair, whatever that is."""
    if isinstance(inputs, Mapping):
        return _by_name(model, dict(inputs), signature)
    if isinstance(inputs, list | tuple) and not is_example_list(inputs) and 1 < len(inputs) <= signature.most:
        lengths = {len(item) if isinstance(item, Tensor) and item.ndim else -1 for item in inputs}
        if signature.needed > 1 or (len(lengths) == 1 and -1 not in lengths):
            return model(*inputs)
    return model(inputs)


def _by_name(model: nn.Module, given: dict[str, Any], signature: Signature) -> Any:
    """Call a network with keywords, or with the whole mapping where it takes one thing and none of these names."""
    if not signature.any_name and signature.needed <= 1 <= signature.most and not signature.names & given.keys():
        return model(given)
    return model(**given)


def tensor_in(output: Any) -> Tensor | None:
    """Return the one tensor that an output is or holds beside its loss: itself, ``logits``, or the first of a tuple.

    It is ``None`` where there is none or several.

    >>> tensor_in((torch.ones(2, 3), torch.tensor(0.5))).shape, tensor_in((torch.ones(2, 1), torch.ones(2, 1)))
    (torch.Size([2, 3]), None)
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(output, list | tuple):
        large = [item for item in output if isinstance(item, Tensor) and item.ndim]
        if len(large) == 1:
            return large[0]
    return None


def loss_in(output: Any) -> Tensor:
    """Return the loss in the output of a model that computes it: a number, ``.loss``, ``["loss"]``, a tuple's number.

    Of a mapping of numbers without that name, as detectors return, it is their sum. Raises :class:`InputError` where
    there is none.

    >>> loss_in({"loss_box": torch.tensor(1.0), "loss_class": torch.tensor(2.0)}), loss_in((None, torch.tensor(3.0)))
    (tensor(3.), tensor(3.))
    """
    if isinstance(output, Tensor) and output.numel() == 1:
        return output
    found = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(found, Tensor):
        return found
    values = list(output.values()) if isinstance(output, Mapping) else []
    if values and all(_is_number(value) for value in values):
        return torch.stack([value.reshape(()) for value in values]).sum()
    numbers = [item for item in output if _is_number(item)] if isinstance(output, list | tuple) else []
    if len(numbers) == 1:
        return numbers[0]
    raise InputError(
        f"expected a model that returns its loss (a number, .loss or {{'loss': ...}}), got {_described(output)}: give "
        "it the labels that it computes a loss from, or pass a criterion; a detector needs training=True (--training)"
    )


def _is_number(thing: Any) -> bool:
    return isinstance(thing, Tensor) and thing.numel() == 1 and thing.ndim <= 1


def _described(output: Any) -> str:
    """Say what an output is, with the names or shapes in it."""
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)}"
    names = output.keys() if isinstance(output, Mapping) else attributes_of(output)
    return type(output).__name__ + (f" with {', '.join(map(str, names))}" if names else "")
