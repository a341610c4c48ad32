"""A network as a function of one flat vector of its parameters; the module itself is never changed."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sharpness.data.batches import Batch, batch_length, cast, named_tensors
from sharpness.data.digests import rows_of_bytes
from sharpness.errors import InputError, unknown_name
from sharpness.loss import eval_mode as modes
from sharpness.loss.batch_norm import closed_form_norms
from sharpness.loss.calls import call
from sharpness.loss.graphs import needing_second_derivatives
from sharpness.machine.distributed import is_distributed, on_all_ranks, sum_over_ranks, sums_over_ranks
from sharpness.machine.random_states import seed_everything
from sharpness.vectors import Layout, flatten

T = TypeVar("T")


class _Inside(nn.Module):
    """Runs a function on a network while ``functional_call`` holds other weights in it.

    The backward passes run inside too: a checkpointed block recomputes itself then, and would otherwise do so with
    the network's own weights, which gives wrong derivatives at any other point, silently.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[nn.Module], T]) -> T:
        return work(self.model)


def _has_ties(model: nn.Module) -> bool:
    """Return whether a network has a parameter or buffer under two names."""
    kinds = (model.named_parameters, model.named_buffers)
    return any(len(list(kind(remove_duplicate=False))) != len(list(kind())) for kind in kinds)


class FlatNetwork:
    """A network whose trainable parameters, or those matching the globs ``selection``, are one flat vector ``w``.

    ``weights`` is the network's own point, ``layout`` says where each parameter lies. The other parameters and the
    buffers are copies in ``dtype``; they and the pieces of ``w`` go in by ``torch.func.functional_call``. ``norm`` says
    what BatchNorm does (:class:`sharpness.loss.Loss`). Raises :class:`InputError` for an unknown ``norm``, a model
    without the running statistics that it needs, and weights that are no real numbers.

    >>> FlatNetwork(nn.Linear(2, 1), None, "frozen", torch.float32).weights.shape
    torch.Size([3])
    """

    def __init__(self, model: nn.Module, selection: Sequence[str] | None, norm: str, dtype: torch.dtype) -> None:
        self.model, self.selection, self.norm, self.dtype = model, selection, norm, dtype
        self.own_loss = False  # the network takes the targets and returns its loss
        self.training = False  # its modules, but for BatchNorm and dropout, believe that they train
        self.fused = False  # values and gradients by kernels that have no second derivative
        self.fixed_draw = False  # its random numbers are the same at every pass, one draw for each batch
        self._inside, self._norms, self._tied = _Inside(model), modes.batch_norms(model), _has_ties(model)
        self._check_norm()
        self.layout = Layout.of(model, selection)
        start = flatten(model, self.layout)
        self.device = start.device
        self.weights = self.point(start)
        fixed = {name: p for name, p in model.named_parameters() if name not in set(self.layout.names)}
        self._fixed = {name: cast(p.detach().clone(), self.device, dtype) for name, p in fixed.items()}
        self._buffers = {name: cast(b.detach().clone(), self.device, dtype) for name, b in model.named_buffers()}

    def _check_norm(self) -> None:
        if self.norm not in modes.NORM_MODES:
            raise unknown_name("norm", self.norm, modes.NORM_MODES)
        if self.norm != "batch" and any(module.running_mean is None for module in self._norms):
            raise InputError(
                f"expected running statistics for norm={self.norm!r}, but the model keeps none: use norm='batch'"
            )

    def restricted(self, parameters: str | Sequence[str], w: Tensor | None = None) -> Self:
        """Return the same function of the parameters matching these globs alone, the others as in ``w``.

        >>> FlatNetwork(nn.Linear(2, 1), None, "frozen", torch.float32).restricted("bias").layout.names
        ('bias',)
        """
        other = copy.copy(self)
        values = self.layout.unflatten(self.weights if w is None else self.point(w))
        other.selection = (parameters,) if isinstance(parameters, str) else parameters
        other.layout = Layout.of(self.model, other.selection)
        if missing := set(other.layout.names) - set(self.layout.names):
            raise InputError(f"expected parameters of this loss, got {sorted(missing)[0]}, which it holds fixed")
        held = self.layout.as_parameters(values.values())
        other._fixed = self._fixed | {name: v for name, v in held.items() if name not in set(other.layout.names)}
        other.weights = torch.cat([values[name].reshape(-1) for name in other.layout.names])
        return other

    def point(self, w: Tensor) -> Tensor:
        """Return ``w`` in the dtype and on the device of this loss, detached."""
        return w.detach().to(device=self.device, dtype=self.dtype)

    def measuring(self, twice: bool = False) -> AbstractContextManager[None]:
        """Return the context in which the network is evaluated: see :func:`sharpness.loss.eval_mode.measuring`.

        ``twice`` says that second derivatives are taken in it.
        """
        statistics, fused = self.norm == "batch", self.fused and not twice
        options = {"batch_statistics": statistics, "training": self.training, "fused": fused}
        return modes.measuring(self.model, self.device, **options)

    @contextmanager
    def differentiating_twice(self) -> Iterator[None]:
        """Hold the network as :meth:`measuring` does, with what makes second derivatives fast and their lack clear."""
        with self.measuring(twice=True), needing_second_derivatives(), closed_form_norms(self._norms):
            yield

    def fixed_tensors(self) -> Iterator[Tensor]:
        """Yield the parameters and buffers that are not part of ``w``."""
        yield from self._fixed.values()
        yield from self._buffers.values()

    def pieces(self, vector: Tensor) -> tuple[Tensor, ...]:
        """Return the views of a flat vector that belong to the parameters, in their order."""
        return tuple(self.layout.unflatten(vector).values())

    def leaves(self, w: Tensor, gradient: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the parameters at ``w`` as leaves of a new graph; ``backward()`` adds to ``gradient`` in place.

        One leaf per parameter: differentiating with respect to one flat leaf would copy a full-length vector for every
        batch. Reentrant checkpoints allow ``backward()`` only.
        """
        leaves = tuple(piece.detach().requires_grad_() for piece in self.pieces(self.point(w)))
        if gradient is not None:
            for leaf, piece in zip(leaves, self.pieces(gradient), strict=True):
                leaf.grad = piece
        return leaves

    def at(
        self, pieces: Sequence[Tensor], work: Callable[[nn.Module], T], buffers: Mapping[str, Tensor] | None = None
    ) -> T:
        """Return ``work(network)``, done while the network holds these parameters; call it while ``measuring``."""
        # Buffers are cloned for each pass because BatchNorm in training mode writes to the ones it is given.
        state = self.layout.as_parameters(pieces) | self._fixed
        state |= {name: b.clone() for name, b in self._buffers.items()} if buffers is None else buffers
        held = {f"model.{name}": value for name, value in state.items()}
        return functional_call(self._inside, held, (work,), tie_weights=self._tied)  # to look for ties takes a while

    def forward(self, model: nn.Module, batch: Batch) -> Any:
        """Return a network's output on one batch, of any form that :func:`sharpness.loss.calls.call` knows.

        Raises :class:`InputError` where the batch is too small for its own statistics.
        """
        if self.fixed_draw:
            seed_everything(zlib.crc32(b"".join(rows_of_bytes(tensor).tobytes() for _, tensor in named_tensors(batch))))
        try:
            return call(model, batch, own_loss=self.own_loss)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise InputError(
                f"expected at least two values per channel in each batch for its statistics, got {batch_length(batch)} "
                "example: choose another batch size, or norm='frozen'"
            ) from error

    def buffers_at(self, w: Tensor, calibration: Iterable[Batch]) -> Mapping[str, Tensor] | None:
        """Return the buffers with running statistics recalibrated at ``w`` over all processes; ``None`` to keep all."""
        if self.norm != "recalibrate":
            return None
        with torch.enable_grad(), self.measuring():  # as for values: a forward pass may differentiate
            buffers, seen = on_all_ranks(lambda: self._recalibrated(self.pieces(self.point(w)), calibration))
        (everything,) = sums_over_ranks(seen, device=self.device)
        for name, buffer in buffers.items():
            if is_distributed() and name.rpartition(".")[2] in modes.RUNNING_STATISTICS:
                sum_over_ranks(buffer.mul_(seen / everything))
        return buffers

    def _recalibrated(self, pieces: Sequence[Tensor], calibration: Iterable[Batch]) -> tuple[dict[str, Tensor], int]:
        """Return the buffers after a pass over this process's calibration data, and its number of examples.

        The statistics are the example-weighted mean of those of the batches, so these are never cut to fit in memory.
        """
        buffers, seen = {name: b.clone() for name, b in self._buffers.items()}, 0
        for batch in calibration:
            seen += batch_length(batch)
            with modes.averaging_statistics(self._norms, share=batch_length(batch) / seen):
                self.at(pieces, lambda model, b=batch: self.forward(model, cast(b, self.device, self.dtype)), buffers)
        return buffers, seen
