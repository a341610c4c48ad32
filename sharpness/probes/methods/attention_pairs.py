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

QUERY_KEY = "query-key"
NEGLIGIBLE = 0.01
"""A share of the change of the loss by something that is no symmetry, beside which a change is none."""
Places = Callable[[Tensor], Tensor]
"""Gives for a parameter the places of its entries in the flat vector, in its shape; -1 where the loss holds it."""


@dataclass(frozen=True)
class Pair:
    """Factors G and H of each head of one block, which the network uses only as ``G H^T``.

    ``first`` (heads, n, h) and ``second`` (heads, m, h) are the places of their entries in the flat vector. Where
    queries and keys are turned by their places in the sequence (rotary embeddings), the product that is used is that of
    complex columns, ``G H^H``, one for each frequency, and both have a last dimension of 2: real and imaginary part.
    """

    name: str
    first: Tensor
    second: Tensor

    @property
    def places(self) -> Tensor:
        """All places of the pair, ``first`` before ``second``."""
        return torch.cat([self.first.reshape(-1), self.second.reshape(-1)])

    def of(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a flat vector has at the two factors, (heads, n, h) and (heads, m, h), real or complex."""
        first, second = vector[self.first], vector[self.second]
        if self.first.ndim == 3:
            return first, second
        return torch.view_as_complex(first), torch.view_as_complex(second)


def entries(factor: Tensor) -> Tensor:
    """Return the entries of a factor in the order of its places."""
    return (torch.view_as_real(factor.resolve_conj()) if factor.is_complex() else factor).reshape(-1)


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
    """The projections of one attention block; False where something between two of them sees more than the product.

    ``groups`` queries share each key and value: their factors stand one below the other, because what a key's or
    value's head is multiplied by has to be undone in all of them. ``turned`` says that queries and keys go through
    rotary embeddings, which turn the entries i and i + h/2 of each head as one complex number.
    """

    heads: int  # of keys and values
    inner: list[_Projection]  # of queries, keys, values
    output: _Projection
    queries_meet_keys: bool = True
    values_meet_output: bool = True
    groups: int = 1
    turned: bool = False

    def pairs(self, name: str) -> Iterator[Pair]:
        """Yield its pairs, heads first."""
        query, key, value = (
            p.heads(n) for p, n in zip(self.inner, (self.heads * self.groups, *2 * [self.heads]), strict=True)
        )
        if self.queries_meet_keys:
            factors = self._grouped(query), key
            first, second = (_by_frequency(factor) for factor in factors) if self.turned else factors
            yield Pair(f"{name} {QUERY_KEY}", first, second)
        if self.values_meet_output:
            output = self.output.weight.unflatten(1, (self.heads * self.groups, -1)).transpose(0, 1)
            yield Pair(f"{name} value-output", value, self._grouped(output))

    def _grouped(self, factor: Tensor) -> Tensor:
        """Return the factors of queries or outputs, (heads * groups, m, h), as those of the keys' heads."""
        return factor.unflatten(0, (self.heads, self.groups)).flatten(1, 2)


def _by_frequency(factor: Tensor) -> Tensor:
    """Return the places of each complex column, (heads * h/2, n, 1, 2), of factors (heads, n, h)."""
    return factor.unflatten(2, (2, -1)).permute(0, 3, 1, 2).flatten(0, 1).unsqueeze(2).contiguous()


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


def _of_llama(module: Any, at: Places) -> _Block | None:
    if not (_has_layers(module, "q_proj", "k_proj", "v_proj", "o_proj") and hasattr(module, "head_dim")):
        return None
    inner = [_projection(getattr(module, f"{name}_proj"), at) for name in "qkv"]
    output, (queries, keys, values) = _projection(module.o_proj, at), (len(p.weight) for p in inner)
    if queries % keys or keys != values or keys % module.head_dim or output.weight.shape[1] != queries:
        return None  # as where the queries' layer makes a gate too
    plain = [getattr(module, name, None) is None for name in ("q_norm", "k_norm")]
    return _Block(
        keys // module.head_dim,
        inner,
        output,
        queries_meet_keys=all(plain),
        groups=queries // keys,
        turned=True,
    )


def _of_ours(module: Any, at: Places) -> _Block | None:
    if not isinstance(module, transformer.Block):
        return None
    inner = _projection(module.queries_keys_values, at).chunks(3)
    return _Block(module.num_heads, inner, _projection(module.heads, at), turned=True)


def _has_layers(module: Any, *names: str) -> bool:
    layers = [getattr(module, name, None) for name in names]
    return all(isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D" for layer in layers)


PATTERNS: dict[str, Callable[[nn.Module, Places], _Block | None]] = {
    "torch.nn.MultiheadAttention": _of_torch,
    "GPT-2's c_attn and c_proj": _of_gpt2,
    "BERT's self.query, self.key, self.value and output.dense": _of_bert,
    "timm's qkv and proj": _of_timm,
    "Llama's and Qwen's q_proj, k_proj, v_proj and o_proj": _of_llama,
    "char_transformer": _of_ours,
}
"""The attention blocks that are known by their type or by the names of their layers."""


def find_pairs(loss: Loss) -> list[Pair]:
    """Return the pairs of all attention blocks of a network whose weights are in the flat vector of its loss.

    A bias of queries, keys or values is one more row of its factor, because the product holds it too. Blocks that the
    loss holds fixed are left out, and so is the query-key pair where each is normalised in between, and the
    value-output pair where the heads' outputs are normalised or gated. Queries that share a key are one factor with it;
    after rotary embeddings each frequency of a key's head is a pair of its own.

    Raises :class:`InputError` where there is no such block (``PATTERNS``) or none in the flat vector, where a part of a
    pair is held fixed, and where two pairs share weights.

    >>> model = nn.MultiheadAttention(4, 2)
    >>> x = torch.ones(1, 4)
    >>> loss = Loss(model, lambda output, target: output[0].square().mean(), [((x, x, x), x)])
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
    >>> x = torch.ones(1, 4)
    >>> square = lambda output, target: output[0].square().mean()
    >>> loss = Loss(model, square, [((x, x, x), x)], dtype=torch.float64)
    >>> pair, x = find_pairs(loss)[0], loss.weights
    >>> y = transformed(x, [pair], seed=0)
    >>> torch.allclose(x[pair.first] @ x[pair.second].mT, y[pair.first] @ y[pair.second].mT), torch.equal(x, y)
    (True, False)
    """
    moved = x.clone()
    for number, pair in enumerate(pairs):
        generator = torch.Generator().manual_seed(derived_seed(seed, "transformed", number))
        g, h = pair.of(x)
        width, exact = g.shape[-1], torch.complex128 if g.is_complex() else torch.float64
        normal = torch.randn(2, len(g), width, width, generator=generator, dtype=exact)
        (left, right), sizes = torch.linalg.qr(normal)[0], torch.linspace(0.5, 2, width, dtype=torch.float64)
        change, inverse = ((left * scale @ right.mH).to(g) for scale in (sizes, 1 / sizes))
        moved[pair.places] = torch.cat([entries(g @ change), entries(h @ inverse)])
    return moved


def check_symmetric(loss: Loss, x: Tensor, base: float, pairs: list[Pair], seed: int) -> int:
    """Raise :class:`InputError` unless the loss at x, ``base``, stays where G and H become G A and H A^-T.

    Return the number of passes over the data that this took, two where all stays to rounding.

    It finds blocks that look like known ones and do more, such as to turn queries and keys by their places in another
    way. A change counts that is beyond rounding and not small beside that of G A alone, which is no symmetry.
    """
    values = list[float]()
    rounding = 20 * torch.finfo(torch.float32).eps * abs(base) + 100 * torch.finfo(x.dtype).eps

    def change(some: list[Pair], half: bool = False) -> float:
        moved = transformed(x, some, seed)
        for pair in some if half else ():
            moved[pair.second] = x[pair.second]
        values.append(loss.value(moved))
        return abs(values[-1] - base)

    def changed(some: list[Pair]) -> bool:
        together = change(some)
        return together > rounding and not together <= NEGLIGIBLE * change(some, half=True)

    if any(changed(kind) for kind in _by_kind(pairs)):
        wrong = next((pair.name for pair in pairs if changed([pair])), "all of them together")
        raise InputError(
            f"expected a loss that stays for G A and H A^-T, got another one for {wrong}: "
            "the block uses more than the product G H^T, hold it fixed"
        )
    return len(values)


def _by_kind(pairs: list[Pair]) -> list[list[Pair]]:
    """Return the pairs of queries and keys, and the others: a change of the one is small beside one of the other."""
    kinds = ([p for p in pairs if p.name.endswith(QUERY_KEY)], [p for p in pairs if not p.name.endswith(QUERY_KEY)])
    return [kind for kind in kinds if kind]
