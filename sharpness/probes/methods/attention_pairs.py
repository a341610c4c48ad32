"""The weights that meet only as products: the (query, key) and (value, output) matrices of attention."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.machine.environment import derived_seed
from sharpness.models import transformer

Places = Callable[[Tensor], Tensor]
"""Gives for a parameter the places of its entries in the flat vector, in its shape; -1 where the loss holds it."""


@dataclass(frozen=True)
class Pair:
    """Factors G and H of each head of one block, which the network uses only as ``G H^T``.

    ``first`` (heads, n, h) and ``second`` (heads, m, h) are the places of their entries in the flat vector.
    """

    name: str
    first: Tensor
    second: Tensor

    @property
    def places(self) -> Tensor:
        """All places of the pair, ``first`` before ``second``."""
        return torch.cat([self.first.reshape(-1), self.second.reshape(-1)])


@dataclass(frozen=True)
class _Projection:
    """Places of a weight (out, in) and of the rows (out,) that stand beside its inputs: biases."""

    weight: Tensor
    rows: tuple[Tensor, ...] = ()

    def heads(self, number: int) -> Tensor:
        """Return the factor of each head, (heads, in + rows, h): its outputs are ``[x, 1] @ factor``."""
        weights = [self.weight, *(row.view(-1, 1) for row in self.rows)]
        return torch.cat(weights, 1).unflatten(0, (number, -1)).transpose(1, 2)

    def chunks(self, number: int) -> list[_Projection]:
        """Return the projections that are stacked in this one, along its outputs."""
        rows = zip(*(row.chunk(number) for row in self.rows), strict=True) if self.rows else [()] * number
        return [_Projection(weight, tuple(own)) for weight, own in zip(self.weight.chunk(number), rows, strict=True)]


@dataclass(frozen=True)
class _Block:
    """The projections of one attention block; False where something between two of them sees more than the product."""

    heads: int
    inner: list[_Projection]  # of queries, keys, values
    output: _Projection
    queries_meet_keys: bool = True
    values_meet_output: bool = True

    def pairs(self, name: str) -> Iterator[Pair]:
        """Yield its pairs, heads first."""
        query, key, value = (projection.heads(self.heads) for projection in self.inner)
        if self.queries_meet_keys:
            yield Pair(f"{name} query-key", query, key)
        if self.values_meet_output:
            output = self.output.weight.unflatten(1, (self.heads, -1)).transpose(0, 1)
            yield Pair(f"{name} value-output", value, output)


def _projection(layer: Any, at: Places) -> _Projection:
    """Read a Linear layer, or transformers' Conv1D, whose weight is (in, out)."""
    weight = at(layer.weight) if isinstance(layer, nn.Linear) else at(layer.weight).T
    return _Projection(weight, () if layer.bias is None else (at(layer.bias),))


def _of_torch(module: Any, at: Places) -> _Block | None:
    if not isinstance(module, nn.MultiheadAttention):
        return None
    if (fused := module.in_proj_weight) is not None:
        weights = at(fused).chunk(3)
    else:
        weights = [at(getattr(module, f"{name}_proj_weight")) for name in "qkv"]
    rows = [()] * 3 if module.in_proj_bias is None else [(row,) for row in at(module.in_proj_bias).chunk(3)]
    inner = [_Projection(weight, own) for weight, own in zip(weights, rows, strict=True)]
    for i, extra in ((1, module.bias_k), (2, module.bias_v)):  # a key and a value that every sequence gets
        if extra is not None:
            inner[i] = replace(inner[i], rows=(*inner[i].rows, at(extra).reshape(-1)))
    return _Block(module.num_heads, inner, _projection(module.out_proj, at))


def _of_gpt2(module: Any, at: Places) -> _Block | None:
    if not (_has_layers(module, "c_attn", "c_proj") and hasattr(module, "num_heads")):
        return None
    stacked, crossing = _projection(module.c_attn, at), hasattr(module, "q_attn")
    inner = [_projection(module.q_attn, at), *stacked.chunks(2)] if crossing else stacked.chunks(3)
    return _Block(module.num_heads, inner, _projection(module.c_proj, at))


def _of_bert(module: Any, at: Places) -> _Block | None:
    inside: Any = getattr(module, "self", None)
    outside: Any = getattr(module, "output", None)
    if not (_has_layers(inside, "query", "key", "value") and _has_layers(outside, "dense")):
        return None
    inner = [_projection(getattr(inside, name), at) for name in ("query", "key", "value")]
    return _Block(inside.num_attention_heads, inner, _projection(outside.dense, at))


def _of_timm(module: Any, at: Places) -> _Block | None:
    if not (_has_layers(module, "qkv", "proj") and hasattr(module, "num_heads")):
        return None
    between = {name: getattr(module, name, None) for name in ("q_norm", "k_norm", "norm", "gate")}
    plain = {name: layer is None or isinstance(layer, nn.Identity) for name, layer in between.items()}
    return _Block(
        module.num_heads,
        _projection(module.qkv, at).chunks(3),
        _projection(module.proj, at),
        queries_meet_keys=plain["q_norm"] and plain["k_norm"],
        values_meet_output=plain["norm"] and plain["gate"],
    )


def _of_ours(module: Any, at: Places) -> _Block | None:
    if not isinstance(module, transformer.Block):
        return None
    inner = _projection(module.queries_keys_values, at).chunks(3)
    return _Block(transformer.HEADS, inner, _projection(module.heads, at))


def _has_layers(module: Any, *names: str) -> bool:
    layers = [getattr(module, name, None) for name in names]
    return all(isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D" for layer in layers)


PATTERNS: dict[str, Callable[[nn.Module, Places], _Block | None]] = {
    "torch.nn.MultiheadAttention": _of_torch,
    "GPT-2's c_attn and c_proj": _of_gpt2,
    "BERT's self.query, self.key, self.value and output.dense": _of_bert,
    "timm's qkv and proj": _of_timm,
    "char_transformer": _of_ours,
}
"""The attention blocks that are known by their type or by the names of their layers."""


def find_pairs(loss: Loss) -> list[Pair]:
    """Return the pairs of all attention blocks of a network whose weights are in the flat vector of its loss.

    A bias of queries, keys or values is one more row of its factor, because the product holds it too. Blocks that the
    loss holds fixed are left out, and so is the query-key pair where each is normalised in between, and the
    value-output pair where the heads' outputs are normalised or gated.

    Raises :class:`InputError` where there is no such block (``PATTERNS``) or none in the flat vector, where a part of a
    pair is held fixed, and where two pairs share weights.

    >>> model = nn.MultiheadAttention(4, 2)
    >>> loss = Loss(model, nn.functional.mse_loss, [(torch.zeros(1, 4), torch.zeros(1, 4))])
    >>> [(pair.name, tuple(pair.first.shape), tuple(pair.second.shape)) for pair in find_pairs(loss)]
    [('model query-key', (2, 5, 2), (2, 5, 2)), ('model value-output', (2, 5, 2), (2, 4, 2))]
    """
    names = {id(parameter): name for name, parameter in loss.model.named_parameters()}
    places = loss.layout.unflatten(torch.arange(loss.layout.size, device=loss.device))

    def at(parameter: Tensor) -> Tensor:
        held = torch.full(parameter.shape, -1, device=loss.device)
        return places.get(names.get(id(parameter), ""), held)

    found = [pair for name, module in loss.model.named_modules() for pair in _pairs_of(module, name or "model", at)]
    if not found:
        raise InputError(
            f"expected attention blocks ({', '.join(PATTERNS)}), got none in {type(loss.model).__name__}: "
            "use worst_case with scaling='adaptive'"
        )
    return _all_there(found)


def _pairs_of(module: nn.Module, name: str, at: Places) -> Iterator[Pair]:
    for reader in PATTERNS.values():
        if (block := reader(module, at)) is not None:
            yield from block.pairs(name)
            return


def _all_there(found: Iterable[Pair]) -> list[Pair]:
    """Return the pairs in the flat vector; :class:`InputError` for a part of one, none at all, and shared weights."""
    inside = list[Pair]()
    for pair in found:
        there = int((pair.places >= 0).sum())
        if 0 < there < len(pair.places):
            raise InputError(
                f"expected all weights of {pair.name} in the flat vector, got {there} of {len(pair.places)}: "
                "select both matrices with their biases, or neither"
            )
        if there:
            inside.append(pair)
    if not inside:
        raise InputError("expected attention weights in the flat vector, got none: select them as parameters")
    everything = torch.cat([pair.places for pair in inside])
    if len(everything.unique()) < len(everything):
        raise InputError("expected attention blocks with weights of their own, got shared ones: untie them")
    return inside


def transformed(x: Tensor, pairs: Iterable[Pair], seed: int) -> Tensor:
    """Return weights with G A and H A^-T for each head, A random with singular values from 1/2 to 2.

    >>> model = nn.MultiheadAttention(4, 1)
    >>> loss = Loss(model, nn.functional.mse_loss, [(torch.zeros(1, 4), torch.zeros(1, 4))], dtype=torch.float64)
    >>> pair, x = find_pairs(loss)[0], loss.weights
    >>> y = transformed(x, [pair], seed=0)
    >>> torch.allclose(x[pair.first] @ x[pair.second].mT, y[pair.first] @ y[pair.second].mT), torch.equal(x, y)
    (True, False)
    """
    moved = x.clone()
    for number, pair in enumerate(pairs):
        generator = torch.Generator().manual_seed(derived_seed(seed, "transformed", number))
        heads, _, h = pair.first.shape
        normal = torch.randn(2, heads, h, h, generator=generator, dtype=torch.float64)
        (left, right), sizes = torch.linalg.qr(normal)[0], torch.linspace(0.5, 2, h, dtype=torch.float64)
        change, inverse = ((left * scale @ right.mT).to(x) for scale in (sizes, 1 / sizes))
        moved[pair.first], moved[pair.second] = x[pair.first] @ change, x[pair.second] @ inverse
    return moved


def check_symmetric(loss: Loss, x: Tensor, base: float, pairs: list[Pair], seed: int) -> None:
    """Raise :class:`InputError` unless the loss at x, ``base``, stays where G and H become G A and H A^-T: one pass.

    It finds blocks that look like known ones and do more, such as to turn queries and keys by their places.
    """
    allowed = torch.finfo(x.dtype).eps ** 0.5 * abs(base) + 100 * torch.finfo(x.dtype).eps

    def changed(some: list[Pair]) -> bool:
        return abs(loss.value(transformed(x, some, seed)) - base) > allowed

    if changed(pairs):
        wrong = next((pair.name for pair in pairs if changed([pair])), "all of them together")
        raise InputError(
            f"expected a loss that stays for G A and H A^-T, got another one for {wrong}: "
            "the block uses more than the product G H^T, hold it fixed"
        )
