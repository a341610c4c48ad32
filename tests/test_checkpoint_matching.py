"""Weights that do not fit a model, or might fit in several ways, are refused, and the model stays as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sharpness.checkpoints import load_into
from sharpness.errors import InputError
from tests.checkpoint_cases import (
    AVERAGED,
    OTHER,
    S,
    State,
    holds,
    lightning,
    network,
    prefixed,
    saved,
)

EMA, LOOSE, KEY = {"ema": True}, {"strict": False}, {"key": "fist"}
AVERAGES = prefixed("ema_model.", AVERAGED)


@dataclass(frozen=True)
class Refused:
    """A saved file, how it is asked for, and a pattern of what the error says."""

    content: Any
    says: str
    options: Mapping[str, Any] = field(default_factory=dict)


WIDE = network(5).state_dict()
EXTRA = S | {"criterion.weight": torch.ones(3)}
WITHOUT_FC = {name: tensor for name, tensor in S.items() if not name.startswith("fc.")}
REFUSED: dict[str, Refused] = {
    "several fit": Refused({"first": S, "second": OTHER}, r"choose one with --key first or second"),
    "student and teacher fit": Refused(
        prefixed("student.", S) | prefixed("teacher.", S), r"--key :student. or :teacher."
    ),
    "file and wrapper fit": Refused(S | prefixed("module.", S), r"--key '' or :module."),
    "unknown key": Refused(
        {"first": S, "second": OTHER}, r"unknown --key 'fist': expected one of first", {"key": "fist"}
    ),
    "averages without asking": Refused({"model_ema": S}, r"averages only \(model_ema\): add --ema"),
    "averages without asking, by their name": Refused(
        {"model": S, "model_ema": OTHER}, r"add --ema", {"key": "model_ema"}
    ),
    "averages by their prefix": Refused({"s": prefixed("ema_model.", S)}, r"add --ema"),
    "no averages": Refused({"model": S}, r"expected averaged weights, got only model: leave out --ema", EMA),
    "classes": Refused(
        WIDE, r"fc.weight has 5 rows in the file and 3 in the model.*wrong number of classes\? use num_classes=5"
    ),
    "classes, not strict": Refused({"model": WIDE}, r"in 'model'.*num_classes=5", LOOSE),
    "channels": Refused(S | {"conv.weight": torch.ones(2, 3, 3, 3)}, r"conv.weight takes 3 of them in the file"),
    "shape": Refused(S | {"conv.weight": torch.ones(4, 1, 5, 5)}, r"conv.weight is \(4, 1, 5, 5\) in the file"),
    "missing": Refused(WITHOUT_FC, r"2 missing \(fc.weight, fc.bias\).*--no-strict"),
    "unexpected": Refused(EXTRA, r"1 unexpected \(criterion.weight\)"),
    "unexpected beside a prefix": Refused(
        lightning(S) | {"state_dict": prefixed("net.", S) | {"loss.weight": S["fc.bias"]}},
        r"unexpected \(loss.weight\)",
    ),
    "unexpected beside averages": Refused(
        {"s": prefixed("net.", S) | AVERAGES | {"head.bias": S["fc.bias"]}}, r"1 unexpected \(head.bias\)"
    ),
    "unexpected among averages": Refused(
        AVERAGES | {"ema_model.module.more": torch.ones(1)}, r"1 unexpected \(ema_model.module.more\)", EMA
    ),
    "another model": Refused(
        nn.LSTM(2, 2).state_dict(), r"got others \(weight_ih_l0, .*choose the model", {"strict": False}
    ),
    "a layer of another model": Refused({"0.norm.weight": torch.ones(2)}, r"got 1 of them, 7 missing"),
    "two halves, not strict": Refused({"a": WITHOUT_FC, "b": dict(WITHOUT_FC)}, r"--key a or b", {"strict": False}),
    "NaN": Refused(
        S | {"fc.bias": torch.tensor([1.0, float("nan"), 2.0])}, r"NaN or infinity in fc.bias \(1 of 3 entries\)"
    ),
    "infinity": Refused(S | {"fc.bias": torch.full((3,), float("inf"))}, r"NaN or infinity in fc.bias"),
    "too large for the model's type": Refused(
        S | {"fc.bias": torch.full((3,), 1e300, dtype=torch.float64)}, r"fc.bias"
    ),
    "integers": Refused(
        S | {"fc.weight": torch.ones(3, 8, dtype=torch.int8)}, r"fc.weight in floating point.*int8: quantised"
    ),
    "8 bits": Refused(S | {"fc.weight": S["fc.weight"].to(torch.float8_e4m3fn)}, r"float8_e4m3fn: quantised"),
    "complex": Refused(S | {"fc.weight": S["fc.weight"].to(torch.complex64)}, r"complex64"),
    "line break in a name": Refused(S | {"a\nb": torch.ones(1)}, r"unexpected \('a\\nb'\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_and_the_model_stays(name: str, tmp_path: Path) -> None:
    refused, model = REFUSED[name], network()
    before = {own: tensor.clone() for own, tensor in model.state_dict().items()}
    checkpoint = saved(refused.content, tmp_path / "model.pt")
    with pytest.raises(InputError) as caught:
        load_into(model, checkpoint, **refused.options)
    message = str(caught.value)
    assert re.search(refused.says, message) and message.startswith(str(tmp_path / "model.pt: ")) and "\n" not in message
    assert holds(model, before)


@pytest.mark.parametrize(("content", "missing", "unexpected"), [(WITHOUT_FC, 2, 0), (EXTRA, 0, 1)])
def test_without_strictness_what_fits_is_read(content: State, missing: int, unexpected: int, tmp_path: Path) -> None:
    model = network()
    report = load_into(model, saved(content, tmp_path / "model.pt"), strict=False)
    assert (len(report.missing), len(report.unexpected)) == (missing, unexpected) and not report.fits
    assert all(torch.equal(tensor, S[own]) for own, tensor in model.state_dict().items() if own in report.used)


class HoldsModule(nn.Module):
    """A model whose own part has the name of a wrapper."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(2, 2)


def test_a_name_that_is_the_models_own_is_not_stripped(tmp_path: Path) -> None:
    model, state = HoldsModule(), HoldsModule().state_dict()
    report = load_into(model, saved(state, tmp_path / "model.pt"))
    assert report.prefix == "" and report.wrappers == ()
    assert holds(model, state)
    report = load_into(model, saved(prefixed("module.", state), tmp_path / "model.pt"))
    assert report.prefix == "module."
