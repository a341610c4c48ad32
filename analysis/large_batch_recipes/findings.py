"""The claims about recipes for large batches, each with its rule; rules were fixed before the seeds that are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from analysis.large_batch_recipes.numbers import USABLE, best_batch, error_of, excess, usable_ratio
from analysis.report.findings import Finding, variants
from analysis.report.numbers import ABSENT, difference, ratio
from analysis.report.verdicts import Judged, Least, Range, judge, judge_within
from analysis.statistics.intervals import Interval

MARGIN = 0.5
"""Percentage points of error by which a recipe may be worse than the base batch and still count as keeping it."""
WHY = "Goyal et al. call 0.1 points more kept and 1.2 points more a failure; a second seed moves half a point"
HIGHER = Least(0.5, "what a second seed moves", "pp")
BEST_BATCHES = Range(2.0, 32.0, "what the paper says", ratio=True, ends=())
NARROWER = Least(2.0, "neighbouring rates that were tried differ by this factor", ratio=True)
Claim = tuple[str, str, Mapping[str, Interval], Callable[[Interval], Judged]]
"""A claim, its figure, differences of errors, of which the first is the claim's and others are variants, the rule."""


def kept(interval: Interval) -> Judged:
    """Judge a claim that an error is at most so many points above that of the base batch."""
    return judge_within(interval, Range(-np.inf, MARGIN, WHY, "pp"))


def broken(interval: Interval) -> Judged:
    """Judge a claim that it is more."""
    return judge_within(interval, Range(MARGIN, np.inf, WHY, "pp"))


def batches_of(settings: Mapping[str, Any], recipe: str) -> list[int]:
    """Return the batches of a recipe in growing order; as settings were written, their keys are text."""
    return sorted(int(batch) for batch in settings["sweeps"][recipe])


def findings(rows: pd.DataFrame, arms: pd.DataFrame, settings: Mapping[str, Any]) -> list[Finding]:
    """Return the verdict on each claim."""
    plain, normed = (_setting(settings, name) for name in ("base", "norm_base"))
    found = [_finding(*each, plain) for each in [*goyal(arms, settings), *you(arms, settings)]]
    found += [_finding(*each, normed) for each in hoffer(arms, settings)]
    found += [*masters_and_luschi(rows, arms, settings, plain)]
    claim = "Mikami et al. 2018: ResNet-50 on ImageNet in 122 seconds"
    why = "it takes a cluster of GPUs; the table resnet50_on_paper says what each step may then take"
    return [*found, Finding(claim, "on paper", "resnet50_on_paper", ABSENT, "not testable here", why)]


def _setting(settings: Mapping[str, Any], name: str) -> str:
    config = settings[name]
    data, norm = config["data"], config["model"]["norm"]
    images = "all" if data["num_train"] is None else data["num_train"] - data["num_validation"]
    return (
        f"{config['model']['name']}, {'no norms' if norm == 'none' else 'BatchNorm'}, on {data['name']} ({images} "
        f"images in {settings['cells']} x {settings['cells']} cells), {config['training']['epochs']} epochs, base "
        f"batch {config['training']['batch_size']}, {settings['seeds']} seeds; test errors in percentage points; "
        f"tuned on held-out images of {len(settings['tuning_seeds'])} other seeds"
    )


def _finding(
    claim: str, figure: str, excesses: Mapping[str, Interval], rule: Callable[[Interval], Judged], setting: str
) -> Finding:
    (_, own), *others = excesses.items()
    told = variants(dict(others), difference, rule)
    return Finding(claim, setting, figure, difference(own), *rule(own), variants=told)


def goyal(arms: pd.DataFrame, settings: Mapping[str, Any]) -> Iterator[Claim]:
    """Yield the claims of Goyal et al. 2017: up to a batch the linear rule with warm-up keeps the error."""
    base, large = ("tuned", settings["base"]["training"]["batch_size"]), settings["claim_batch"]
    batches = batches_of(settings, "warm-up")
    largest, warm = batches[-1], "linear + warm-up"
    found = {f"batch {large}": excess(arms, base, (warm, large))}
    found |= {f"batch {each}": excess(arms, base, (warm, each)) for each in batches if each < large}
    found |= {f"without warm-up, batch {large}": excess(arms, base, ("linear", large))}
    found |= {f"tuned at batch {large}": excess(arms, base, ("warm-up, tuned", large))}
    claim = f"{warm}, batch {large}: the error is at most {MARGIN:g} above that of batch {base[1]}"
    yield f"Goyal et al. 2017: {claim}", "recipes", found, kept
    claim = f"the rule breaks beyond some batch (here {largest}: the error is over {MARGIN:g} above)"
    found = {f"batch {largest}": excess(arms, base, (warm, largest))}
    found |= {f"tuned at batch {largest}": excess(arms, base, ("warm-up, tuned", largest))}
    yield f"Goyal et al. 2017: {claim}", "recipes", found, broken
    found = {f"batch {large}": excess(arms, (warm, large), ("linear", large))}
    for each in batches:
        fail = min(error_of(arms, (warm, each)), error_of(arms, ("linear", each))) >= USABLE
        if each != large:
            place = f"batch {each}, where neither trains" if fail else f"batch {each}"
            found[place] = excess(arms, (warm, each), ("linear", each))
    found[f"each tuned at batch {largest}"] = excess(arms, ("warm-up, tuned", largest), ("tuned", largest))
    yield f"Goyal et al. 2017: without warm-up it is higher (batch {large})", "recipes_table", found, higher()


def you(arms: pd.DataFrame, settings: Mapping[str, Any]) -> Iterator[Claim]:
    """Yield the claims of You et al. 2017: LARS keeps the error, also where the linear rule does not."""
    base, largest = ("tuned", settings["base"]["training"]["batch_size"]), max(batches_of(settings, "LARS"))
    large, own = settings["claim_batch"], "LARS, tuned"
    found = {f"batch {each}": excess(arms, base, (own, each)) for each in dict.fromkeys((largest, large))}
    claim = f"LARS, batch {largest}: the error is at most {MARGIN:g} above that of batch {base[1]}"
    yield f"You et al. 2017: {claim}", "recipes", found, kept
    found = {
        "each tuned": excess(arms, (own, largest), ("warm-up, tuned", largest)),
        "the linear rule's rate": excess(arms, (own, largest), ("linear + warm-up", largest)),
        "without warm-up, tuned": excess(arms, (own, largest), ("tuned", largest)),
    }
    claim = f"LARS has a lower error than SGD with warm-up (batch {largest}, each tuned there)"
    yield f"You et al. 2017: {claim}", "recipes", found, higher()


def hoffer(arms: pd.DataFrame, settings: Mapping[str, Any]) -> Iterator[Claim]:
    """Yield the claims of Hoffer et al. 2017: what a large batch loses, one change after the other brings back."""
    small, large = settings["norm_base"]["training"]["batch_size"], settings["norm_batch"]
    base, constant, sqrt = ("BatchNorm, tuned", small), ("BatchNorm, constant rate", large), ("BatchNorm, sqrt", large)
    ghosts, longer, tuned = ("sqrt + ghosts", large), ("sqrt + ghosts + longer", large), ("BatchNorm, tuned", large)
    rows: list[tuple[str, dict[str, Interval]]] = [
        (f"at the same rate it grows with the batch ({small} to {large})", {"": excess(arms, base, constant)}),
        (f"the square-root rule lowers it (batch {large})", {"": excess(arms, sqrt, constant)}),
        (
            f"ghost batch norm lowers it further (batch {large})",
            {
                "the rule's rate": excess(arms, ghosts, sqrt),
                "each tuned": excess(arms, ("ghosts, tuned", large), tuned),
            },
        ),
    ]
    rows[0][1]["at the rate tuned there"] = excess(arms, base, tuned)
    for claim, found in rows:
        yield f"Hoffer et al. 2017: {claim}", "norms", found, higher()
    claim = f"sqrt + ghosts + longer, batch {large}: the error is at most {MARGIN:g} above that of batch {small}"
    found = {"": excess(arms, base, longer), "without longer training": excess(arms, base, ghosts)}
    yield f"Hoffer et al. 2017: {claim}", "norms", found, kept


def higher() -> Callable[[Interval], Judged]:
    """Return the rule of a claim that one error is above another."""
    return partial(judge, null=0.0, direction=1, least=HIGHER)


def masters_and_luschi(
    rows: pd.DataFrame, arms: pd.DataFrame, settings: Mapping[str, Any], setting: str
) -> Iterator[Finding]:
    """Yield the claims of Masters & Luschi 2018: small batches are best, and can be trained at more rates."""
    claim = "Masters & Luschi 2018: batches of 2 to 32 have the lowest error, the rate tuned at each batch"
    best = best_batch(arms, "tuned")
    told = variants({"BatchNorm, of two batches": best_batch(arms, "BatchNorm, tuned")}, _batch_text, _best)
    yield Finding(claim, setting, "recipes", _batch_text(best), *_best(best), variants=told)
    small, large = settings["base"]["training"]["batch_size"], max(batches_of(settings, "plain"))
    claim = f"Masters & Luschi 2018: the largest usable rate per image falls with the batch ({large} over {small})"
    found = usable_ratio(rows, settings, small, large)
    yield Finding(claim, setting, "rates", ratio(found), *judge(found, 1.0, -1, NARROWER))


def _best(interval: Interval) -> Judged:
    return judge_within(interval, BEST_BATCHES)


def _batch_text(best: Interval) -> str:
    return ABSENT if best.value is None else f"{best.value:g} [{best.lower:g}, {best.upper:g}], a bootstrap over seeds"
