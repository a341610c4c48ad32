"""The tensors of a network that can be rescaled without changing what it computes (Dinh et al. 2017)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from sharpness.loss.eval_mode import measuring
from sharpness.symmetries.homogeneity import (
    NORMS,
    SCALE_FREE,
    WEIGHTED,
    is_homogeneous,
    owns_its_weight,
    scales_its_output,
)
from sharpness.symmetries.tracing import SHALLOW, Tracer
from sharpness.vectors import Layout

PATTERNS = (
    "a layer or the scale of a normalisation, then ReLU, pooling, reshaping or nothing, then linear or convolution "
    "layers (T_alpha); a layer before BatchNorm, LayerNorm, GroupNorm, InstanceNorm or RMSNorm"
)
"""What :func:`find_rescalings` looks for, in words."""


@dataclass(frozen=True)
class Rescaling:
    """Tensors that are multiplied by powers of one number alpha > 0 while the network's outputs stay the same.

    ``powers`` are the exponents by the names of parameters and buffers. ``offsets`` are added before and taken away
    after: ``running_var + eps`` is what scales, not ``running_var``. ``kind`` is ``pair`` for T_alpha of Dinh et al.
    2017 (arXiv 1703.04933), where later layers undo what an earlier one does, and ``norm`` where a normalisation does;
    outputs of a pair are equal to rounding, those of LayerNorm and of BatchNorm on batch statistics up to its eps.

    >>> pair = Rescaling("pair", "0 -> 2", {"0.weight": 1, "2.weight": -1})
    >>> layout = Layout(("0.weight", "2.weight"), (torch.Size([2]), torch.Size([1])))
    >>> pair.factors(layout, 4.0)
    tensor([4.0000, 4.0000, 0.2500], dtype=torch.float64)
    """

    kind: str
    name: str
    powers: Mapping[str, int]
    offsets: Mapping[str, float] = field(default_factory=dict)

    def scaled(self, tensors: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
        """Return the tensors of the group as they are after it, from all tensors by name."""
        changed = {}
        for name, power in self.powers.items():
            offset = self.offsets.get(name, 0.0)
            changed[name] = (tensors[name] + offset) * alpha**power - offset if offset else tensors[name] * alpha**power
        return changed

    def factors(self, layout: Layout, alpha: float) -> Tensor:
        """Return the vector f, shape (n,), float64, with ``w' = f * w``; gradients become ``g / f``, Hessians D H D.

        ``D = diag(1 / f)``.
        """
        factors = torch.ones(layout.size, dtype=torch.float64)
        for name, piece in layout.unflatten(factors).items():
            piece.fill_(alpha ** self.powers.get(name, 0))
        return factors


def find_rescalings(model: nn.Module) -> list[Rescaling]:
    """Return the rescalings found in the graph of a network, pairs first; an empty list where there are none.

    The graph is traced by ``torch.fx``; where a module's forward cannot be traced (control flow that depends on the
    data), it is tried with its children as black boxes, and each of its children by itself. A group is one layer and
    everything that its output goes into, all of which must be able to undo the factor: a path into a sum, such as a
    skip connection, rules it out, and so does a weight that is used twice. What is found is a claim about graphs; a
    subclass of a layer may do something else, so outputs are compared before it is used
    (:func:`sharpness.measure.stress.rescaled`).

    >>> [group.name for group in find_rescalings(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))]
    ['0 -> 2']
    """
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    uses.update(id(b) for _, b in model.named_buffers(remove_duplicate=False))
    shared = {identity for identity, times in uses.items() if times > 1}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with measuring(model, device, batch_statistics=False):
        groups = [group for prefix, part, graph in _graphs(model) for group in _Search(prefix, part, graph, shared)]
    return sorted(groups, key=lambda group: group.kind != "pair")


def _graphs(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module, fx.Graph]]:
    """Yield the graphs of the largest parts of a network that can be traced, each with the path to it."""
    if (graph := _traced(Tracer(lambda module: isinstance(module, WEIGHTED + NORMS)), model)) is not None:
        yield prefix, model, graph
        return
    if (graph := _traced(SHALLOW, model)) is not None:
        yield prefix, model, graph
    for name, child in model.named_children():
        yield from _graphs(child, f"{prefix}{name}.")


def _traced(tracer: fx.Tracer, model: nn.Module) -> fx.Graph | None:
    try:
        return tracer.trace(model)
    except Exception:  # a forward that meets a proxy may fail in any way
        return None


class _Search:
    """The rescalings of one traced graph."""

    def __init__(self, prefix: str, root: nn.Module, graph: fx.Graph, shared: set[int]) -> None:
        self.prefix, self.root, self.graph, self.shared = prefix, root, graph, shared
        self.calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
        self.read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}

    def __iter__(self) -> Iterator[Rescaling]:
        for node in self.graph.nodes:
            layer = self._module(node)
            if layer is None or not scales_its_output(layer):
                continue
            ends = self._ends(node)
            if ends:
                yield self._group(str(node.target), layer, ends)

    def _module(self, node: fx.Node) -> nn.Module | None:
        """Return the module that a node calls if it is used here alone: called once, its tensors not shared or read."""
        if node.op != "call_module" or self.calls[node.target] != 1:
            return None
        module = self.root.get_submodule(str(node.target))
        tensors = [*module.named_parameters(), *module.named_buffers()]
        if module._forward_hooks or module._forward_pre_hooks:
            return None
        alone = all(id(t) not in self.shared and f"{node.target}.{name}" not in self.read for name, t in tensors)
        return module if alone else None

    def _ends(self, node: fx.Node) -> dict[str, Any] | None:
        """Return the layers that the output goes into, by name; ``None`` if it goes anywhere else too."""
        ends: dict[str, Any] = {}
        for user in node.users:
            if (user.op, str(user.target)) in SCALE_FREE or _reads_shape(user):
                continue
            module = self._module(user)
            if isinstance(module, NORMS) or (isinstance(module, WEIGHTED) and owns_its_weight(module)):
                ends[str(user.target)] = module
            elif is_homogeneous(user, self.root):
                further = self._ends(user)
                if further is None:
                    return None
                ends |= further
            else:
                return None
        return ends or None

    def _group(self, source: str, layer: nn.Module, ends: Mapping[str, Any]) -> Rescaling:
        powers = {f"{self.prefix}{source}.{name}": 1 for name, _ in layer.named_parameters()}
        offsets: dict[str, float] = {}
        for target, module in ends.items():
            path = f"{self.prefix}{target}"
            if isinstance(module, WEIGHTED):
                powers[f"{path}.weight"] = -1
            elif getattr(module, "running_mean", None) is not None:
                powers |= {f"{path}.running_mean": 1, f"{path}.running_var": 2}
                offsets[f"{path}.running_var"] = float(module.eps)
        kind = "norm" if any(isinstance(module, NORMS) for module in ends.values()) else "pair"
        return Rescaling(kind, f"{self.prefix}{source} -> {', '.join(self.prefix + t for t in ends)}", powers, offsets)


def _reads_shape(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target is getattr and node.args[1] in ("shape", "ndim", "dtype")
