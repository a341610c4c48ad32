"""Graphs of networks for the search of symmetries, traced by ``torch.fx``."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx, nn


class Tracer(fx.Tracer):
    """A tracer that takes the modules for which ``is_layer`` holds as wholes, beside those of torch itself.

    >>> network = nn.Sequential(nn.Sequential(nn.Linear(1, 1), nn.ReLU()))
    >>> [str(node.target) for node in Tracer(lambda module: False).trace(network).nodes][1:-1]
    ['0.0', '0.1']
    >>> [str(node.target) for node in Tracer(lambda module: True).trace(network).nodes][1:-1]
    ['0']
    """

    def __init__(self, is_layer: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self.is_layer = is_layer

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is one node of the graph; ``fx`` calls this."""
        return self.is_layer(m) or super().is_leaf_module(m, module_qualified_name)


SHALLOW = Tracer(lambda module: True)
"""The tracer that sees a module's own forward and nothing of its children's."""
