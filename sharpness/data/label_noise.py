"""Labels replaced at random: the noise under which a network has to memorise some of its training examples."""

from __future__ import annotations

import torch
from torch import Tensor


def with_random_labels(targets: Tensor, num_classes: int, share: float, seed: int) -> Tensor:
    """Return class numbers (int64, shape (N,)) of which each is, with probability ``share``, drawn uniformly instead.

    The draws are independent, and from all the classes, so that about ``share / num_classes`` of the labels are drawn
    and right all the same ("partially corrupted labels" of Zhang et al. 2017, arXiv 1611.03530, section 2.1). They are
    functions of N, the number of classes and the seed: what one share replaces a larger share replaces by the same.
    ``share`` is from 0 to 1.

    >>> targets = torch.zeros(1000, dtype=torch.int64)
    >>> few, many = (with_random_labels(targets, 10, share, seed=0) for share in (0.2, 0.4))
    >>> int((few != 0).sum()), int((many != 0).sum()), bool((many == few)[few != 0].all())
    (181, 368, True)
    """
    generator = torch.Generator().manual_seed(seed)
    replaced = torch.rand(len(targets), generator=generator, dtype=torch.float64) < share
    drawn = torch.randint(num_classes, (len(targets),), generator=generator)
    return torch.where(replaced.to(targets.device), drawn.to(targets.device), targets)
