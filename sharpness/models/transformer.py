"""A small causal transformer over the bytes of a text, with rotary positions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import InputError

TOKENS = 256
HEAD_WIDTH = 32
LONGEST_WAVE = 10000.0
NORMS: dict[str, type[nn.Module]] = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}
"""The norms that it can be built with, by their names in ``model.norm``."""


class Block(nn.Module):
    """``y = x + attention(norm(x))``, then ``y + mlp(norm(y))``: no position sees those after it."""

    def __init__(self, width: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.num_heads = width // HEAD_WIDTH
        self.norm1, self.norm2 = norm(width), norm(width)
        # Without biases: the softmax is blind to that of the keys.
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.heads = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return N x T x width for N x T x width."""
        pieces = self.queries_keys_values(self.norm1(x)).unflatten(-1, (3, self.num_heads, HEAD_WIDTH))
        queries, keys, values = pieces.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(turned(queries), turned(keys), values, is_causal=True)
        x = x + self.heads(seen.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class CharacterTransformer(nn.Module):
    """A transformer that gives at each place of a text of any length the logits of the byte that follows."""

    def __init__(self, width: int, depth: int, num_classes: int, norm: type[nn.Module], tied: bool) -> None:
        super().__init__()
        self.characters = nn.Embedding(TOKENS, width)
        self.blocks = nn.Sequential(*(Block(width, norm) for _ in range(depth)))
        self.norm = norm(width)
        self.logits = None if tied else nn.Linear(width, num_classes)
        nn.init.normal_(self.characters.weight, std=0.02)

    def states(self, inputs: Tensor) -> Tensor:
        """Return N x T x width: what the network makes of each byte and of those before it."""
        return self.norm(self.blocks(self.characters(tokens_of(inputs))))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return N x classes x T for N inputs of T bytes each, as cross-entropy takes them with N x T targets."""
        states = self.states(inputs)
        logits = F.linear(states, self.characters.weight) if self.logits is None else self.logits(states)
        return logits.transpose(1, 2)


def turned(x: Tensor) -> Tensor:
    """Return queries or keys (... x T x h) turned by their places: a rotary embedding.

    At place t the entries i and i + h/2 are one complex number, which is multiplied by ``exp(i t b^(-2 i / h))`` with
    b = 10000, so that the product of a query and a key depends on how far apart they are, not on where (Su et al. 2021,
    arXiv 2104.09864, equation 15, with the pairs half a head apart). There is no longest text.

    >>> x = torch.ones(3, 4)
    >>> torch.equal(turned(x)[0], x[0]), bool((turned(x)[1] @ turned(x)[2]).isclose(turned(x)[0] @ turned(x)[1]))
    (True, True)
    """
    length, width = x.shape[-2:]
    exact = {"dtype": torch.promote_types(x.dtype, torch.float32), "device": x.device}
    rates = LONGEST_WAVE ** (-torch.arange(0, width, 2, **exact) / width)
    angles = torch.arange(length, **exact)[:, None] * rates
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


def tokens_of(inputs: Tensor) -> Tensor:
    """Return N x T bytes as int64: whole numbers as they are, others as the bytes that were divided by 255.

    >>> import torch
    >>> tokens_of(torch.tensor([[[[0.0, 0.2, 1.0]]]])), tokens_of(torch.tensor([[72, 105]]))
    (tensor([[  0,  51, 255]]), tensor([[ 72, 105]]))
    """
    numbers = (inputs * 255).round() if inputs.is_floating_point() else inputs
    return numbers.long().flatten(1)


def character_transformer(
    width: int, depth: int, *, tied: bool = False
) -> Callable[[tuple[int, ...], int, str], CharacterTransformer]:
    """Return the function that builds a transformer over windows of bytes, 1 x 1 x T, that predicts each next byte.

    The network of no paper: ``depth`` blocks with a norm before attention (heads of 32, causal, rotary positions) and
    before the MLP (four times as wide, GELU), a norm, and Linear to the logits, which ``tied`` makes the transpose of
    the embedding; no dropout. The norm is LayerNorm (``layer``) or RMSNorm (``rms``). Inputs are int64 tokens, or the
    bytes divided by 255 that batches of a data set hold: another scaling gives other bytes. Embeddings start from
    N(0, 0.02^2), the rest from PyTorch's defaults. It raises :class:`sharpness.errors.InputError` for inputs of
    another shape, and for other than 256 classes where they are tied.

    >>> character_transformer(32, 1)((1, 1, 16), 65, "rms")(torch.zeros(2, 1, 1, 24)).shape
    torch.Size([2, 65, 24])
    """

    def create(input_shape: tuple[int, ...], num_classes: int, norm: str) -> CharacterTransformer:
        if len(input_shape) != 3 or input_shape[:2] != (1, 1):
            raise InputError(
                f"expected inputs of 1 x 1 x T bytes for char_transformer, got {input_shape}: take a text, such as kjv"
            )
        if tied and num_classes != TOKENS:
            raise InputError(
                f"expected {TOKENS} classes for a char_transformer with tied embeddings, got {num_classes}: take one "
                "that is not tied"
            )
        return CharacterTransformer(width, depth, num_classes, NORMS[norm], tied)

    return create
