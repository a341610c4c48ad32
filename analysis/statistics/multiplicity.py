"""Many claims at once: which p values would stand if a stated share of those that stand may be false."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def discovery_rates(p_values: Sequence[float | None]) -> list[float | None]:
    """Return q for each p value: the least false-discovery rate at which it would stand; ``None`` where there is none.

    q_(i) = min_{j >= i} m p_(j) / j over the m sorted p values (Benjamini & Hochberg, Journal of the Royal Statistical
    Society B 57, 1995). It holds for independent claims and for positively dependent ones.

    >>> discovery_rates([0.01, None, 0.04, 0.03])
    [0.03, None, 0.04, 0.04]
    """
    from scipy.stats import false_discovery_control  # here, as it takes a second to load and few need it

    known = [each for each in p_values if each is not None]
    found = iter(false_discovery_control(np.array(known)).tolist() if known else ())
    return [None if each is None else next(found) for each in p_values]
