"""Hessian products compiled as one program, which keeps nothing between them.

By reverse over reverse: forward mode took a little longer on every network that was tried, is wrong for BatchNorm on
batch statistics, and ends the process while the squared error is traced (torch 2.13).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from sharpness.data.batches import Batch, named_tensors
from sharpness.loss import Loss
from sharpness.loss.graphs import Pieces
from sharpness.loss.shares import MicroBatch
from sharpness.vectors import random_unit_vector

MOST_DIFFERENCE = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Between a compiled and an eager product, of their length: more is another function, not rounding."""


class CompiledProducts:
    """The product of each micro-batch with a direction, ``d/dt grad l_b(w + t v)``, by ``torch.compile``.

    One program takes the gradient, and that of its inner product with the direction. It serves the micro-batches that
    have the shapes of the first one. It is used where it compiles, where on every micro-batch its first product agrees
    with autograd's, and where on the first one it takes less time than that; ``why_not`` says otherwise, and ``facts``
    what was found.
    """

    def __init__(self, loss: Loss, leaves: Pieces) -> None:
        self.loss, self.facts, self.why_not = loss, dict[str, str](), ""
        self._pieces = tuple(leaf.detach() for leaf in leaves)
        self._shapes: tuple[Any, ...] | None = None
        self._compared = set[int]()
        self._program: Callable[..., Pieces] | None = None

    def serves(self, micro: MicroBatch, eager: Callable[[Pieces], Pieces]) -> bool:
        """Return whether the program is used for a micro-batch, whose product by autograd is ``eager``.

        Call it, and :meth:`product`, while the loss is ``measuring``.
        """
        shapes = _shapes(micro.batch)
        if self.why_not or self._shapes not in (None, shapes):
            return False
        if micro.first_example not in self._compared:
            self.why_not = self._fault(micro, eager)
            if self.why_not:
                self.facts["compiled"] = f"no: {self.why_not}"
            self._compared.add(micro.first_example)
            self._shapes = shapes
        return not self.why_not

    def product(self, micro: MicroBatch, v: Pieces) -> Pieces:
        """Return the product of one micro-batch."""
        with torch.no_grad():
            tensors, form = tree_flatten(micro.batch)
            if self._program is None:
                self._program = torch.compile(self._traced(form, v, tensors), fullgraph=True, dynamic=False)
            return self._program(self._pieces, tuple(v), tensors)

    def _fault(self, micro: MicroBatch, eager: Callable[[Pieces], Pieces]) -> str:
        """Return why the program is not used, or nothing."""
        if self.loss.fixed_draw:
            return "the network draws random numbers, and a compiled program would draw others"
        flat = random_unit_vector(self.loss.layout.size, 0, self.loss.dtype, self.loss.device)
        v = self.loss.pieces(flat)
        try:
            found = _joined(self.product(micro, v))
        except Exception as error:  # the tracing's errors, the program's, and those of a compiler that is not there
            return f"it does not compile here: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        expected = _joined(eager(v))
        difference = float((found - expected).norm() / expected.norm().clamp(min=torch.finfo(expected.dtype).tiny))
        if not difference <= MOST_DIFFERENCE[self.loss.dtype]:
            return f"its product differs from autograd's by {difference:.2g} of the length"
        return "" if self._compared else self._slower(micro, v, eager)

    def _slower(self, micro: MicroBatch, v: Pieces, eager: Callable[[Pieces], Pieces]) -> str:
        """Return that the program is slower than autograd, or nothing."""
        ours = seconds_of(lambda: self.product(micro, v), self.loss.device)
        theirs = seconds_of(lambda: eager(v), self.loss.device)
        said = f"{ours:.3g} s for a product where autograd takes {theirs:.3g} s"
        self.facts["compiled"] = f"yes: {said}"
        return "" if ours < theirs else f"it is slower: {said}"

    def _traced(self, form: TreeSpec, v: Pieces, tensors: list[Tensor]) -> GraphModule:
        """Return the product as elementary operations: the compiler's own tracing knows few Python programs."""
        program = make_fx(partial(self._along, form))(self._pieces, tuple(v), tensors)
        program.graph.eliminate_dead_code()  # tests of sizes, which are answered
        program.recompile()
        return program

    def _along(self, form: TreeSpec, pieces: Pieces, v: Pieces, tensors: list[Tensor]) -> Pieces:
        loss, batch = self.loss, tree_unflatten(tensors, form)

        def value(*pieces: Tensor) -> Tensor:
            return loss.at(pieces, lambda model: loss.criterion_value(loss.forward(model, batch), batch))

        leaves = tuple(range(len(pieces)))

        def along(*pieces: Tensor) -> Tensor:
            gradients = torch.func.grad(value, argnums=leaves)(*pieces)
            return torch.stack([(g * piece).sum() for g, piece in zip(gradients, v, strict=True)]).sum()

        return torch.func.grad(along, argnums=leaves)(*pieces)


def _shapes(batch: Batch) -> tuple[Any, ...]:
    return tuple((name, tensor.shape, tensor.dtype) for name, tensor in named_tensors(batch))


def _joined(pieces: Pieces) -> Tensor:
    return torch.cat([piece.detach().double().reshape(-1) for piece in pieces])


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one call, with all that the device still has to do."""
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronise()
    started = time.perf_counter()
    work()
    synchronise()
    return time.perf_counter() - started
