"""Conservative training: the proximal term that holds the weights near those at the start of an update."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def add_gradient(parameters: Sequence[nn.Parameter], anchors: Sequence[Tensor], strength: float) -> None:
    """Add ``lambda (x - x_k)`` to the gradients: that of ``lambda/2 |x - x_k|^2``, ``anchors`` being ``x_k``.

    An update is ``x_{k+1} = argmin_x L_B(x) + lambda/2 |x - x_k|^2``, inexactly by some steps of the optimiser (Keskar
    et al. 2017, Appendix E.2, with 3 of Adam). The optimiser's state is kept from one batch to the next, which the
    paper leaves open.
    """
    for p, anchor in zip(parameters, anchors, strict=True):
        if p.grad is not None:
            p.grad.add_(p.detach() - anchor, alpha=strength)
