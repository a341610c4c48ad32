"""Parameters of a network as one flat vector, and back."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sharpness.errors import InputError

PIECE = 1 << 20
"""Numbers that are float64 at a time: a whole vector of those would be two of float32."""


@dataclass(frozen=True)
class Layout:
    """The places of the trainable parameters in the flat vector ``w``: names and shapes as of ``named_parameters``.

    A tensor that several modules share (tied weights) is one entry, as ``named_parameters`` lists it once. Complex
    ones (``complex_names``) are pairs of reals, in a last dimension of 2.

    >>> layout = Layout.of(nn.Linear(3, 2))
    >>> layout.names, layout.size
    (('weight', 'bias'), 8)
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    complex_names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: nn.Module, parameters: Sequence[str] | None = None) -> Layout:
        """Return the layout of the parameters with ``requires_grad`` whose names match one of the glob patterns.

        Without patterns it is all of them. Raises :class:`InputError` where none is left or one is no number with
        derivatives.

        >>> Layout.of(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)), ["*.weight"]).names
        ('0.weight', '1.weight')
        """
        named = dict(model.named_parameters())
        trainable = {name: p for name, p in named.items() if p.requires_grad}
        if not trainable:
            raise InputError(f"expected a model with trainable parameters, got none{_cure(model)}")
        if parameters is not None:
            chosen: set[str] = set()
            for pattern in parameters:
                matching = fnmatch.filter(trainable, pattern)
                if not matching:
                    raise InputError(
                        f"expected patterns that match trainable parameters, got {pattern!r}: "
                        f"names are {', '.join(list(trainable)[:6])}{' ...' if len(trainable) > 6 else ''}"
                    )
                chosen.update(matching)
            trainable = {name: p for name, p in trainable.items() if name in chosen}
        for name, p in trainable.items():
            if not p.is_floating_point() and not p.is_complex():
                raise InputError(f"expected real weights, got {name} of {p.dtype}: no derivatives exist there")
        shapes = tuple(as_reals(p).shape for p in trainable.values())
        return cls(tuple(trainable), shapes, frozenset(name for name, p in trainable.items() if p.is_complex()))

    def layers(self) -> dict[str, tuple[str, ...]]:
        """Return the parameter names of each module that owns some, in order.

        >>> Layout.of(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))).layers()
        {'0': ('0.weight', '0.bias'), '2': ('2.weight', '2.bias')}
        """
        layers: dict[str, tuple[str, ...]] = {}
        for name in self.names:
            owner = name.rpartition(".")[0] or name
            layers[owner] = (*layers.get(owner, ()), name)
        return layers

    @property
    def numels(self) -> list[int]:
        """Number of entries of each parameter."""
        return [shape.numel() for shape in self.shapes]

    @property
    def size(self) -> int:
        """Length n of the flat vector."""
        return sum(self.numels)

    def unflatten(self, w: Tensor) -> dict[str, Tensor]:
        """Return named views of ``w`` (shape ``(n,)``); :class:`InputError` for a vector of another shape."""
        if w.shape != (self.size,):
            raise InputError(
                f"expected a flat vector of shape ({self.size},), got {tuple(w.shape)}: use flatten(model)"
            )
        pieces = torch.split(w, self.numels)
        return {name: piece.view(shape) for name, piece, shape in zip(self.names, pieces, self.shapes, strict=True)}

    def as_parameters(self, pieces: Iterable[Tensor]) -> dict[str, Tensor]:
        """Return the pieces of a flat vector by name as a network takes them: pairs of reals as complex numbers.

        >>> Layout(("a",), (torch.Size([1, 2]),), frozenset("a")).as_parameters([torch.tensor([[1.0, 2.0]])])["a"]
        tensor([1.+2.j])
        """
        named = zip(self.names, pieces, strict=True)
        # Not as a view, which would need an even place in memory.
        return {n: torch.complex(p[..., 0], p[..., 1]) if n in self.complex_names else p for n, p in named}


def _cure(model: nn.Module) -> str:
    """Say what can be done for a model without trainable parameters; integer and quantised weights never have any.

    Buffers of int64 count or number things, as those of BatchNorm and of embeddings do, and are no weights.
    """
    tensors = [*model.parameters(), *(t for t in model.buffers() if t.dtype not in (torch.int64, torch.bool))]
    whole = sorted({str(t.dtype).removeprefix("torch.") for t in tensors if not _has_derivatives(t)})
    if whole:
        return f", its weights are {', '.join(whole)}: measure the network as it was before it was quantised"
    if not any(True for _ in model.parameters()):
        return " and no others either: measure a network that has some"
    return ": set requires_grad on those to measure"


def _has_derivatives(t: Tensor) -> bool:
    return t.is_floating_point() or t.is_complex()


def is_finite(t: Tensor) -> bool:
    """Return whether a real tensor holds no NaN and no infinity: by its extremes, in one pass and without a copy.

    >>> [is_finite(torch.tensor([0.0, x])) for x in (float("-inf"), float("nan"), 1.0)]
    [False, False, True]
    """
    return t.numel() == 0 or bool(torch.isfinite(torch.stack(t.aminmax())).all())


def refuse_non_finite(what: str, named: Iterable[tuple[str, Tensor]], cure: str) -> None:
    """Raise :class:`InputError` naming the first tensors that hold NaN or infinity, with how many entries.

    >>> refuse_non_finite("weights", [("fc.bias", torch.tensor([1.0, float("nan")]))], "train again")
    Traceback (most recent call last):
    sharpness.errors.InputError: expected finite weights, got NaN or infinity in fc.bias (1 of 2 entries): train again
    """
    dense = ((name, t.coalesce().values() if t.is_sparse else t) for name, t in named)
    bad = [(name, t) for name, t in dense if t.is_floating_point() and not is_finite(t)]
    if bad:
        first = ", ".join(f"{name} ({int((~torch.isfinite(t)).sum())} of {t.numel()} entries)" for name, t in bad[:3])
        more = f" and {len(bad) - 3} more tensors" if len(bad) > 3 else ""
        raise InputError(f"expected finite {what}, got NaN or infinity in {first}{more}: {cure}")


def flatten(model: nn.Module, layout: Layout | None = None) -> Tensor:
    """Return a detached copy of the trainable parameters as one contiguous vector of shape ``(n,)``.

    >>> flatten(nn.Linear(3, 2)).shape
    torch.Size([8])
    """
    layout = layout or Layout.of(model)
    parameters = dict(model.named_parameters())
    return torch.cat([as_reals(parameters[name]).reshape(-1) for name in layout.names])


def as_reals(tensor: Tensor) -> Tensor:
    """Return a detached tensor, a complex one as pairs of reals."""
    tensor = tensor.detach()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def assign(model: nn.Module, w: Tensor) -> None:
    """Copy a flat vector into the model's trainable parameters, in place (dtype and device of the model are kept)."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        layout = Layout.of(model)
        for name, value in layout.as_parameters(layout.unflatten(w).values()).items():
            parameters[name].copy_(value)


def norm(v: Tensor) -> float:
    """Return the Euclidean norm of a tensor, accumulated in float64.

    >>> norm(torch.tensor([3.0, 4.0]))
    5.0
    """
    v = v.cpu() if v.device.type == "mps" else v  # MPS has no float64
    # In pieces: torch converts its whole argument first, which would double the memory of a float32 vector.
    pieces = [torch.linalg.vector_norm(piece, dtype=torch.float64) for piece in v.reshape(-1).split(PIECE)]
    return float(torch.linalg.vector_norm(torch.stack(pieces)))


def dot(a: Tensor, b: Tensor) -> float:
    """Return the inner product of two vectors of one length, accumulated in float64.

    >>> dot(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    11.0
    """
    if a.device.type == "mps":  # has no float64
        a, b = a.cpu(), b.cpu()
    pieces = [x.double() @ y.double() for x, y in zip(a.split(PIECE), b.split(PIECE), strict=True)]
    return float(torch.stack(pieces).sum())


def sha256_of(tensors: Iterable[Tensor]) -> str:
    """Return the SHA-256 of the bytes of tensors one after the other.

    >>> sha256_of([torch.zeros(2)]) == sha256_of([torch.zeros(1), torch.zeros(1)])
    True
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def normal_vector(size: int, seed: int, like: Tensor) -> Tensor:
    """Return independent standard normal numbers, for a seed the same on every device and in every dtype.

    >>> single, double = (normal_vector(3, 0, torch.zeros(1, dtype=dtype)) for dtype in (torch.float32, torch.float64))
    >>> torch.equal(single, double.float())
    True
    """
    generator, v = torch.Generator().manual_seed(seed), torch.empty(size, dtype=like.dtype)
    for piece in v.split(PIECE):
        piece.copy_(torch.randn(len(piece), generator=generator, dtype=torch.float64))
    return v.to(like.device)


def random_unit_vector(size: int, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a vector uniform on the unit sphere of R^size, for a seed the same on every device and in every dtype.

    >>> float(random_unit_vector(100, 0, torch.float64, torch.device("cpu")).norm().round(decimals=12))
    1.0
    """
    generator, v, squares = torch.Generator().manual_seed(seed), torch.empty(size, dtype=dtype), 0.0
    for piece in v.split(PIECE):
        drawn = torch.randn(len(piece), generator=generator, dtype=torch.float64)
        squares += float(drawn.dot(drawn))
        piece.copy_(drawn)
    return v.div_(squares**0.5).to(device)
