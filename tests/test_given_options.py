"""Options: what one changes is measured anew, the rest is kept, and the user's own code is called with care."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpness.cli.options import Probe
from sharpness.cli.probe import run_probe
from sharpness.errors import InputError
from sharpness.files import read_jsonl
from sharpness.measure.user_checkpoint import load_user_checkpoint
from sharpness.probes import CriticalSharpness
from tests.given_cases import CLASSES, classifier, mlp, seeded
from tests.test_given import CPU, as_request

CROSS_ENTROPY = "torch.nn.functional:cross_entropy"


def twice(output: Tensor, target: Tensor) -> Tensor:
    return 2 * F.cross_entropy(output, target)


def summed(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, reduction="sum")


def without_dictionary_key(output: Tensor, target: Tensor) -> Tensor:
    return {}["width"]


def doubled() -> nn.Module:
    """Return the small network with its outputs doubled: the same parameters, another function."""

    class Doubled(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    return Doubled(*mlp().children())


def broken() -> nn.Module:
    raise ValueError("no such\nwidth")


def normalised() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, CLASSES))


@pytest.fixture
def two_sets(tmp_path: Path) -> list[str]:
    """Return the options for a file with two sets of weights and an average."""
    options = classifier(tmp_path, "tests.given_cases:mlp", seeded(mlp), 1, 8).arguments
    first = seeded(mlp).state_dict()
    sets = {f"net_{i}": {k: (1 + 0.1 * i) * v for k, v in first.items()} for i in (1, 2)}
    torch.save(sets | {"ema": {k: 1.5 * v for k, v in first.items()}}, tmp_path / "weights.pt")
    return options


def probe(options: list[str], out: Path, **changes: Any) -> list[dict[str, Any]]:
    """Measure the directional sharpness, or what else is named, and return all records of the folder."""
    request, path = as_request(options, **({"probes": "directional_sharpness", "key": "net_1"} | changes))
    run_probe(Probe(checkpoint=path, out=out, **vars(request)), {})
    return read_jsonl(out / "probes.jsonl")


def test_what_an_option_changes_is_measured_anew_and_what_it_does_not_is_not(
    two_sets: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    changes = [
        {},
        {"loss": "tests.test_given_options:twice"},
        {"model": "tests.test_given_options:doubled"},
        {"key": "net_2"},
        {"key": None, "ema": True},
        {"examples": 4},
        {"batch_size": 2},
        {"parameters": "1.*"},
    ]
    for number, change in enumerate(changes, 1):
        assert len(probe(two_sets, out, **change)) == number, change
    values = [record["value"] for record in read_jsonl(out / "probes.jsonl")]
    assert len({f"{value:.5g}" for value in values}) == len(changes) - 1  # not by the split into batches
    capsys.readouterr()
    for change in changes:
        assert len(probe(two_sets, out, **change)) == len(changes), change
    assert capsys.readouterr().out.count("in probes.jsonl already") == len(changes)


def test_another_start_is_another_distance(two_sets: list[str], tmp_path: Path) -> None:
    for number, factor in enumerate((0.0, 2.0), 1):
        start = tmp_path / f"start-{number}.pt"
        torch.save({k: factor * v for k, v in seeded(mlp).state_dict().items()}, start)
        records = probe(two_sets, tmp_path / "out", probes="distance", start=start)
        assert len(records) == number
        w = torch.cat([v.flatten() for v in seeded(mlp).state_dict().values()])
        assert records[-1]["value"] == pytest.approx(float(w.norm()) * abs(1.1 - factor), rel=1e-5)
        assert records[-1]["details"]["start_checkpoint"] == str(start)
    with pytest.raises(InputError, match="where nothing is"):
        probe(two_sets, tmp_path / "out", start=tmp_path / "nowhere.pt")


def test_an_ignored_class_is_left_out_of_the_mean_in_uneven_batches(tmp_path: Path) -> None:
    options = classifier(tmp_path, "tests.given_cases:mlp", seeded(mlp), 1, 8).arguments
    x = np.random.default_rng(1).standard_normal((7, 1, 8, 8)).astype(np.float32)
    y = np.array([255, 1, 2, 255, 255, 0, 3])
    np.savez(tmp_path / "data.npz", x=x, y=y)
    request, path = as_request(options, loss=f"{CROSS_ENTROPY},ignore_index=255", dtype="float64")
    given = load_user_checkpoint(request, path, CPU)
    outputs = seeded(mlp).double()(torch.from_numpy(x).double()).detach()
    assert given.checked.evaluation.loss == pytest.approx(
        float(F.cross_entropy(outputs, torch.from_numpy(y), ignore_index=255)), rel=1e-12
    )
    right = (outputs.argmax(1).numpy() == y)[y != 255]
    assert given.checked.evaluation.accuracy == pytest.approx(right.mean())
    with pytest.raises(InputError, match="labels from 0 to 3 for 4 outputs, got 1 to 255"):
        load_user_checkpoint(as_request(options)[0], path, CPU)


def test_a_sum_counts_as_one_only_where_it_says_so(tmp_path: Path) -> None:
    options = classifier(tmp_path, "tests.given_cases:mlp", seeded(mlp), 1, 8).arguments
    with pytest.raises(InputError, match="averages, got one that adds up"):
        load_user_checkpoint(as_request(options, loss="tests.test_given_options:summed")[0], Path(options[0]), CPU)
    sums, path = as_request(options, loss=f"{CROSS_ENTROPY},reduction=sum")
    means = load_user_checkpoint(as_request(options)[0], path, CPU).checked.evaluation
    assert load_user_checkpoint(sums, path, CPU).checked.evaluation.loss == pytest.approx(7 * means.loss, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model": "tests.test_given_options:broken"},
            ["broken", "ValueError: no such width", "test_given_options.py"],
        ),
        ({"loss": "tests.test_given_options:without_dictionary_key"}, ["KeyError: 'width'", "test_given_options.py"]),
        ({"loss": f"{CROSS_ENTROPY},smoothing=1"}, ["smoothing"]),
    ],
)
def test_an_error_in_the_users_own_code_is_one_line_with_its_place(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    options = classifier(tmp_path, "tests.given_cases:mlp", seeded(mlp), 1, 8).arguments
    request, path = as_request(options, **changes)
    with pytest.raises(InputError) as caught:
        load_user_checkpoint(request, path, CPU)
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words), caught.value


def test_recalibrated_statistics_are_those_of_the_data_and_stay(tmp_path: Path) -> None:
    spec = "tests.test_given_options:normalised"
    options = classifier(tmp_path, spec, seeded(normalised), 1, 8).arguments
    request, path = as_request(options, norm="recalibrate", dtype="float64")
    given = load_user_checkpoint(request, path, CPU)
    loss = given.subject.loss
    x = torch.from_numpy(np.load(tmp_path / "data.npz")["x"]).double()
    activations = seeded(normalised).double()[0](x)
    means = activations.mean((0, 2, 3))
    torch.testing.assert_close(loss.tensors(loss.weights)["1.running_mean"], means, rtol=1e-12, atol=1e-14)
    assert loss.norm == "frozen" and given.subject.details["recalibrated"]
    assert loss.value(loss.weights) == pytest.approx(given.checked.evaluation.loss, rel=1e-12)
    frozen = load_user_checkpoint(as_request(options, dtype="float64")[0], path, CPU)
    assert frozen.checked.evaluation.loss != pytest.approx(given.checked.evaluation.loss, rel=1e-3)
    out = tmp_path / "out"
    for change in ({"norm": "frozen"}, {"norm": "recalibrate"}):
        records = probe(options, out, key=None, **change)
    assert len(records) == 2 and records[0]["value"] != records[1]["value"]


def test_relative_critical_sharpness_goes_along_the_gradient_of_other_data(tmp_path: Path) -> None:
    options = classifier(tmp_path, "tests.given_cases:mlp", seeded(mlp), 1, 8).arguments
    x = np.random.default_rng(5).standard_normal((5, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "other.npz", x=x, y=np.array([0, 1, 2, 3, 0]))
    other, out = f"npz:{tmp_path / 'other.npz'}", tmp_path / "out"
    for change in ({}, {"trained_on": other}, {"trained_on": other}):
        records = probe(options, out, key=None, probes="critical_sharpness,trace", **change)
    plain, trace, relative = records  # of the three calls the last measures nothing, and the trace knows no other data
    assert [r["quantity"] for r in records] == ["critical_sharpness", "trace", "relative_critical_sharpness"]
    request, path = as_request(options)
    requests = [as_request(options, data=data)[0] for data in (request.data, other)]
    losses = [load_user_checkpoint(each, path, CPU).subject.loss for each in requests]
    assert relative["value"] == CriticalSharpness()(losses[0], trained=losses[1]).value != plain["value"]
    assert relative["details"]["trained_on_examples"] == 5 and "trained_on_examples" not in trace["details"]
    np.savez(tmp_path / "other.npz", x=x, y=np.array([0, 1, 2, 3, 9]))
    with pytest.raises(InputError, match="labels from 0 to 3"):
        probe(options, out, key=None, trained_on=other)


def test_a_bad_knob_ends_the_command_but_what_was_found_is_shown(
    two_sets: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request, path = as_request(two_sets, key="net_1", probes="directional_sharpness,eigenvalues")
    command = Probe(checkpoint=path, out=tmp_path / "out", **vars(request))
    with pytest.raises(InputError, match="k"):
        run_probe(command, {"eigenvalues": {"k": 0}})
    assert "directional_sharpness" in capsys.readouterr().out
    assert [record["probe"] for record in read_jsonl(tmp_path / "out" / "probes.jsonl")] == ["directional_sharpness"]
