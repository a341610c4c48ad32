"""Does the list of measures that no rescaling moves say what a rescaling does?"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from sharpness.loss import Loss
from sharpness.measure.stress import has_moved, stress_test
from sharpness.probes import PROBES
from sharpness.records.invariance import INVARIANT, is_invariant
from sharpness.symmetries.permutations import find_groups, permuted
from tests.conftest import ROOT

MEASURES = ROOT / "docs" / "measures.md"
MOVED: dict[str, dict[str, Any]] = {
    "drift": {},
    "eigenvalues": {},
    "fisher_trace": {},
    "gradient_noise": {},
    "keskar": {},
    "norms": {},
    "pac_bayes": {"scaling": "plain"},
    "sam": {"scaling": "plain"},
    "trace": {},
    "worst_case": {"scaling": "plain"},
}
FEWER: dict[str, dict[str, Any]] = {
    "gradient_noise": {"num_hvps": 8},
    "pac_bayes": {"num_pairs": 6, "rtol": 0.05},
    "relative_flatness": {"num_hvps": 60},
}
"""Knobs for fewer draws than usual, whose wider intervals still tell what moves under a large rescaling."""
NOT_DRAWN = (
    "adaptive_radius",
    "eigenvalues",
    "fisher_rao_norm",
    "gradient_noise",
    "keskar",
    "norms",
    "sam",
    "worst_case",
)
"""Those whose value is not a mean over draws, which would hide a small change."""


def rectified() -> Loss:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    x, y = torch.randn(60, 5).double(), torch.randint(3, (60,))
    return Loss(model, nn.functional.cross_entropy, [(x[:40], y[:40]), (x[40:], y[40:])], dtype=torch.float64)


@pytest.mark.parametrize(("invariant", "name"), [(True, n) for n in INVARIANT] + [(False, n) for n in MOVED])
def test_a_rescaling_moves_what_it_is_said_to_move(invariant: bool, name: str) -> None:
    probe = replace(PROBES[name].probe(), **(INVARIANT if invariant else MOVED)[name], **FEWER.get(name, {}))
    (row,) = stress_test(rectified(), {name: probe}, 16.0)
    assert row.moved is not invariant, row.reason
    assert is_invariant(row.before.to_record()) is invariant


def test_another_order_of_the_hidden_units_moves_nothing() -> None:
    loss = rectified()
    tensors, generator = dict(loss.tensors(loss.weights)), torch.Generator().manual_seed(1)
    for group in find_groups(loss.model, next(iter(loss.batches))):
        tensors |= permuted(tensors, group, torch.randperm(group.size, generator=generator))
    other = loss.with_tensors(tensors)
    assert float((other.weights - loss.weights).norm()) > 1
    for name in NOT_DRAWN:
        probe = PROBES[name].probe()
        moved, reason = has_moved(probe(loss), probe(other))
        assert moved is False, f"{name}: {reason}"


def test_the_page_of_measures_says_the_same() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| ([^|]*) \| [^|]* \| [^|]* \|$", MEASURES.read_text(), re.MULTILINE)
    assert {name for name, _ in rows} == set(PROBES)
    can_stay = {name for name, said in rows if "stays" in said}
    # Attention has tests of its own, and of a line both ends may be rescaled alike.
    assert can_stay - {"geodesic_sharpness", "interpolation"} == set(INVARIANT)
