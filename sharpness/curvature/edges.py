"""The edge of stability: the curvature at which an optimiser's steps begin to grow on a quadratic."""

from __future__ import annotations


def descent_edge(rate: float, momentum: float = 0.0, *, nesterov: bool = False, dampening: float = 0.0) -> float | None:
    """Return the largest eigenvalue at which gradient descent is stable, ``2 (1 + beta) / rate``, beta the momentum.

    With Nesterov's momentum ``2 (1 + beta) / ((1 + 2 beta) rate)``; the dampening d makes the rate
    ``(1 - d)`` times as large where there is a momentum, as in torch's SGD. Cohen et al. 2021 (arXiv 2103.00065),
    section 2 and appendix B. ``None`` for a dampening of 1 or more, which keeps the gradient out of the momentum.

    >>> descent_edge(0.1), round(descent_edge(0.1, 0.9), 9), round(descent_edge(0.1, 0.5, nesterov=True), 9)
    (20.0, 38.0, 15.0)
    """
    share = 1 - dampening if momentum else 1.0
    if share <= 0:
        return None
    return 2 * (1 + momentum) / (rate * (1 + 2 * momentum if nesterov else 1) * share)


def adam_edge(beta1: float) -> float:
    """Return the sharpness at the edge of stability times the learning rate, ``(2 + 2 beta1) / (1 - beta1)``.

    >>> round(adam_edge(0.9), 9), adam_edge(0.0)
    (38.0, 2.0)
    """
    return (2 + 2 * beta1) / (1 - beta1)
