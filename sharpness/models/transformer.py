"""A small causal transformer over characters."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.errors import InputError

TOKENS = 256
WIDTH = 128
HEADS = 4
DEPTH = 2


class Block(nn.Module):
    """``y = x + attention(norm(x))``, then ``y + mlp(norm(y))``: no position sees those after it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        # Without biases: the softmax is blind to that of the keys.
        self.queries_keys_values = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.heads = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """Return N x T x width for N x T x width."""
        pieces = self.queries_keys_values(self.norm1(x)).unflatten(-1, (3, HEADS, WIDTH // HEADS))
        queries, keys, values = pieces.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.heads(seen.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class CharacterTransformer(nn.Module):
    """A transformer that reads ``length`` characters and gives the logits of the one that follows."""

    def __init__(self, length: int, num_classes: int) -> None:
        super().__init__()
        self.characters, self.places = nn.Embedding(TOKENS, WIDTH), nn.Embedding(length, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.norm, self.logits = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, num_classes)
        for embedding in (self.characters, self.places):
            nn.init.normal_(embedding.weight, std=0.02)

    def states(self, inputs: Tensor) -> Tensor:
        """Return N x T x width: what the network makes of each character and of those before it."""
        return self.norm(self.blocks(self.characters(tokens_of(inputs)) + self.places.weight))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return N x classes for N inputs of T characters each."""
        return self.logits(self.states(inputs)[:, -1])


def tokens_of(inputs: Tensor) -> Tensor:
    """Return N x T bytes as int64: whole numbers as they are, others as the bytes that were divided by 255.

    >>> import torch
    >>> tokens_of(torch.tensor([[[[0.0, 0.2, 1.0]]]])), tokens_of(torch.tensor([[72, 105]]))
    (tensor([[  0,  51, 255]]), tensor([[ 72, 105]]))
    """
    numbers = (inputs * 255).round() if inputs.is_floating_point() else inputs
    return numbers.long().flatten(1)


def character_transformer(input_shape: tuple[int, ...], num_classes: int, norm: str) -> CharacterTransformer:
    """Return a transformer that reads an image of one row, 1 x 1 x T bytes, as T characters and predicts the next one.

    The network of no paper: 2 blocks of width 128 with LayerNorm before attention (4 heads, causal) and before the MLP
    (512, GELU), learned places, LayerNorm and Linear to the logits; no BatchNorm, no dropout. Data sets are bytes and
    class numbers, so the text is cut into windows of T bytes and the class is the byte that follows; only the last
    position is trained. Inputs are int64 tokens, or the bytes divided by 255 that batches of a data set hold: another
    scaling gives other characters. Embeddings start from N(0, 0.02^2), the rest from PyTorch's defaults. Raises
    :class:`sharpness.errors.InputError` for inputs of another shape.

    >>> import torch
    >>> character_transformer((1, 1, 32), 65, "none")(torch.zeros(2, 1, 1, 32)).shape
    torch.Size([2, 65])
    """
    if len(input_shape) != 3 or input_shape[:2] != (1, 1):
        raise InputError(
            f"expected inputs of 1 x 1 x T bytes for char_transformer, got {input_shape}: cut a text into such windows"
        )
    return CharacterTransformer(input_shape[2], num_classes)
