"""Networks of one kind as one: their weights stacked, their gradients taken at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy


class Stack:
    """The networks of several runs, whose parameters and buffers become slices of tensors with an axis for the runs.

    What changes a network's weights in place changes the stack. ``models`` are by their slots; there may be more
    ``slots``. A gradient's bits then depend on the slot and on how many there are, but not on which are in use.

    >>> layers = {slot: nn.Linear(3, 2) for slot in (0, 3)}
    >>> stack = Stack(layers, slots=4)
    >>> layers[3].weight.data.fill_(5.0)[0, 0] == stack.parameters["weight"][3, 0, 0]
    tensor(True)
    """

    def __init__(self, models: Mapping[int, nn.Module], slots: int) -> None:
        first = next(iter(models.values()))
        self.parameters, self.buffers = stack_module_state([models.get(slot, first) for slot in range(slots)])
        # The same layers without weights, which are put in at each call.
        self.template = copy.deepcopy(first).to("meta").train()
        self.networks = {slot: dict(model.named_parameters()) for slot, model in models.items()}
        for slot, model in models.items():
            for name, p in self.networks[slot].items():
                p.data = self.parameters[name].data[slot]
            for name, buffer in model.named_buffers():
                buffer.data = self.buffers[name][slot]

    def backward(
        self, inputs: Tensor, targets: Tensor, used: Sequence[int], label_smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Give the networks in the slots ``used`` the gradients of their own mean cross-entropies.

        ``inputs`` and ``targets`` have a leading axis of all slots. Returns the losses and the numbers of right
        answers, shapes ``(slots,)``. Running statistics of other slots stay as they are. Raises ``RuntimeError`` where
        ``torch.func.vmap`` cannot map the network, or the network draws random numbers.
        """
        buffers = {name: buffer.clone() for name, buffer in self.buffers.items()}

        def outcome(tensors: tuple[dict[str, Tensor], ...], images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
            logits = functional_call(self.template, tensors, (images,))
            loss = cross_entropy(logits, classes, label_smoothing=label_smoothing)
            return loss, (logits.argmax(1) == classes).sum()

        losses, right = vmap(outcome)((self.parameters, buffers), inputs, targets)
        # A slice has a part in its own loss alone, so the gradient of the sum is that of each.
        gradients = torch.autograd.grad(losses.sum(), list(self.parameters.values()))
        stacked = dict(zip(self.parameters, gradients, strict=True))
        for slot in used:
            for name, p in self.networks[slot].items():
                # Many come transposed, and fused optimisers want them as the weights lie; PyTorch is quickest at
                # transposing one matrix at a time.
                p.grad = stacked[name][slot].contiguous()
            for name, buffer in self.buffers.items():
                buffer[slot] = buffers[name][slot]
        return losses.detach(), right
