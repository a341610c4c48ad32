"""A walk that follows the units of each layer through one traced graph, on an example that gives the shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from sharpness.symmetries.permutations import operations
from sharpness.symmetries.permutations.groups import Key, Slot, Ties


class UnitWalk(fx.Interpreter):
    """Runs a graph and says in ``ties`` which axes of which tensors hold the same units.

    ``names`` are those of parameters and buffers by identity. What a graph is given and what it returns is fixed, and
    so is everything that goes through an operation which is not in :mod:`sharpness.symmetries.permutations.operations`.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, names: Mapping[int, str], ties: Ties) -> None:
        super().__init__(root, graph=graph)
        self.names, self.ties = names, ties
        self.slots: dict[fx.Node, Slot | None] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation, and note where its result has which units."""
        calls = n.op in ("call_module", "call_function", "call_method")
        args, kwargs = self.fetch_args_kwargs_from_env(n) if calls else ((), {})
        inputs = [(node, tuple(v.shape)) for node in n.all_input_nodes if isinstance(v := self.env.get(node), Tensor)]
        result = super().run_node(n)
        if n.op == "get_attr":
            self._fix_tensor(result)
        slot = self._module(n, args, inputs, result) if n.op == "call_module" else None
        if n.op in ("call_function", "call_method"):
            slot = self._function(n, args, kwargs, inputs, result)
        if n.op == "output":
            self._fix_inputs(n)
        self.slots[n] = slot
        return result

    def _module(self, n: fx.Node, args: tuple[Any, ...], inputs: list[Any], result: Any) -> Slot | None:
        module: Any = self.module.get_submodule(str(n.target))
        kind = operations.plain_kind(module)
        if kind is not None and len(inputs) == 1 and isinstance(args[0], Tensor) and isinstance(result, Tensor):
            ((node, shape),) = inputs
            slot = self.slots.get(node)
            if kind in operations.LAYERS:
                return self._layer(module, kind, slot, shape, result)
            if kind in operations.ELEMENTWISE_MODULES:
                return slot
            if kind in operations.MOVING_MODULES:
                return self._moved(slot, shape, module)
            if kind in operations.LOCAL_MODULES:
                return self._local(slot, len(shape), operations.LOCAL_MODULES[kind])
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            self._fix_tensor(tensor)
        return self._fix_inputs(n)

    def _layer(
        self, module: Any, kind: type[nn.Module], slot: Slot | None, shape: tuple[int, ...], result: Tensor
    ) -> Slot | None:
        rank = len(shape)
        if kind is nn.Linear:
            return self._weighted(module, slot, rank - 1, result.ndim - 1, inward=1)
        if kind is nn.Embedding:
            return self._weighted(module, slot, -1, result.ndim - 1, inward=0)
        if kind in operations.CONVOLUTIONS:
            channels = rank - module.weight.ndim + 1
            if module.groups == module.in_channels == module.out_channels:
                return self._scaled(module, slot, channels)
            return self._weighted(module, slot, channels, channels, inward=1)
        if kind in operations.TRANSPOSED:
            channels = rank - module.weight.ndim + 1
            return self._weighted(module, slot, channels, channels, inward=0)
        if kind is nn.PReLU and module.num_parameters == 1:
            return slot
        last = kind in operations.LAST_NORMS
        if last and len(module.normalized_shape) > 1:
            return self._scaled(module, slot, -1)
        return self._scaled(module, slot, rank - 1 if last else 1)

    def _weighted(self, module: Any, slot: Slot | None, dim_in: int, dim_out: int, inward: int) -> Slot | None:
        """Enter a layer whose weight has the units of its input on axis ``inward`` and its own on the other."""
        weight, bias = module.weight, getattr(module, "bias", None)
        outward, name = 1 - inward, self.names[id(module.weight)]
        if getattr(module, "groups", 1) != 1:
            self._fix_tensor(weight)
            self._fix_tensor(bias)
            return self.ties.fix_slot(slot)
        self._enter(slot, dim_in, (name, inward), weight.shape[inward])
        own = Slot((name, outward), dim_out, weight.shape[outward]) if weight.shape[outward] > 1 else None
        for tensor, axis in ((weight, outward), (bias, 0)):
            if tensor is not None:  # a single unit has no other place
                self.ties.enter(own, (self.names[id(tensor)], axis), tensor.shape[axis])
        return own

    def _scaled(self, module: Any, slot: Slot | None, dim: int) -> Slot | None:
        """Enter a layer that treats each unit of a dimension by itself, such as BatchNorm."""
        for tensor in (getattr(module, n, None) for n in ("weight", "bias", "running_mean", "running_var")):
            if tensor is not None:
                self._enter(slot, dim, (self.names[id(tensor)], 0), tensor.shape[0])
                for axis in range(1, tensor.ndim):  # of a depthwise kernel
                    self.ties.fix((self.names[id(tensor)], axis))
        if slot is not None and slot.dim != dim:
            self.ties.fix_slot(slot)
        return slot

    def _enter(self, slot: Slot | None, dim: int, key: Key, length: int) -> None:
        if slot is not None and slot.dim != dim:
            self.ties.fix_slot(slot)
            slot = None
        self.ties.enter(slot, key, length)

    def _function(
        self, n: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[Any], result: Any
    ) -> Slot | None:
        name = operations.name_of(n)
        if name in operations.SHAPE_READERS:
            return None
        if not isinstance(result, Tensor) or not inputs:
            return self._fix_inputs(n)
        if name in operations.ELEMENTWISE:
            return self._elementwise(inputs, result.ndim)
        if len(inputs) == 1 and args and isinstance(args[0], Tensor):
            ((node, shape),) = inputs
            if name in operations.LOCAL:
                return self._local(self.slots.get(node), len(shape), operations.LOCAL[name])
            if name in operations.MOVES:
                target: Any = n.target
                apply = (lambda x: getattr(x, target)(*args[1:], **kwargs)) if n.op == "call_method" else None
                return self._moved(self.slots.get(node), shape, apply or (lambda x: target(x, *args[1:], **kwargs)))
        return self._fix_inputs(n)

    def _elementwise(self, inputs: list[tuple[fx.Node, tuple[int, ...]]], rank: int) -> Slot | None:
        """Join the units of tensors that are broadcast against each other."""
        slots = [
            (number, Slot(slot.key, slot.dim + rank - len(shape), slot.size, slot.repeat, slot.block))
            for number, (node, shape) in enumerate(inputs)
            if (slot := self.slots.get(node)) is not None
        ]
        if not slots:
            return None
        (_, first), *others = slots
        alike = all(slot.dim == first.dim for _, slot in others)
        held = {number for number, _ in slots}
        for number, (_, shape) in enumerate(inputs):
            dim = first.dim - rank + len(shape)
            varies = dim >= 0 and shape[dim] > 1
            alike = alike and (number in held) >= varies  # fixed numbers may only be the same for all units
        if not alike:
            for _, slot in slots:
                self.ties.fix_slot(slot)
            return None
        for _, slot in others:
            self.ties.join(first, slot)
        return first

    def _local(self, slot: Slot | None, rank: int, dims: int) -> Slot | None:
        return slot if slot is None or slot.dim < rank - dims else self.ties.fix_slot(slot)

    def _moved(self, slot: Slot | None, shape: tuple[int, ...], apply: Callable[[Tensor], Any]) -> Slot | None:
        """Return where units are after an operation that looks at places only, found by moving their numbers."""
        if slot is None:
            return None
        numbers = torch.arange(slot.length).div(slot.block, rounding_mode="floor") % slot.size
        view = [slot.length if dim == slot.dim else 1 for dim in range(len(shape))]
        moved = apply(numbers.double().view(view).expand(shape).contiguous())
        for dim, length in enumerate(moved.shape):
            line = moved.transpose(0, dim).reshape(length, -1)
            block = int((line[:, 0] == 0).long().cumprod(0).sum()) or 1
            expected = torch.arange(length).div(block, rounding_mode="floor") % slot.size
            whole = length % (block * slot.size) == 0
            if whole and torch.equal(line, expected.double()[:, None].expand_as(line)):
                return Slot(slot.key, dim, slot.size, length // (block * slot.size), block)
        return self.ties.fix_slot(slot)

    def _fix_tensor(self, tensor: Any) -> None:
        """Fix every axis of a parameter or buffer."""
        if isinstance(tensor, Tensor) and (name := self.names.get(id(tensor))) is not None:
            for axis in range(tensor.ndim):
                self.ties.fix((name, axis))

    def _fix_inputs(self, n: fx.Node) -> None:
        for node in n.all_input_nodes:
            self.ties.fix_slot(self.slots.get(node))
