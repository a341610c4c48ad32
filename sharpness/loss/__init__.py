"""A network's mean loss over fixed data as a function of one flat vector, and everything that evaluates it.

It stands on data, vectors and the machine; curvature, landscapes, training and probes ask it for every number.
"""

from sharpness.loss.loss import Evaluation, Loss

__all__ = ["Evaluation", "Loss"]
