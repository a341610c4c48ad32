"""Any checkpoint from the command line: real networks against SciPy, the guards, and what a stop leaves behind."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sharpness.cli import main
from sharpness.cli.compare import run_compare
from sharpness.cli.options import Compare
from sharpness.errors import InputError
from sharpness.files import read_jsonl
from sharpness.loss import Loss
from sharpness.loss.counts import averaged_count, shifted_labels
from sharpness.measure.points import with_far_end, with_points, with_start
from sharpness.measure.request import ProbeRequest, Request
from sharpness.measure.user_checkpoint import load_user_checkpoint
from sharpness.models.user_model import load_model
from tests.cases import CASES as LOSS_CASES
from tests.conftest import PATIENCE, ROOT, SHIM, run_cold_python
from tests.given_cases import CASES, classifier, gpt2_config, images, mlp, seeded, top_eigenvalue
from tests.test_commands import assert_refused, sharpness

pytestmark = pytest.mark.dear

CPU = torch.device("cpu")


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    """Return the options for a small network of the user's own on random images."""
    return classifier(tmp_path, "tests.given_cases:mlp", seeded(mlp), 1, 8).arguments


def as_request(arguments: list[str], **changes: Any) -> tuple[Request, Path]:
    """Return what the command line makes of options such as ``[FILE, --model, SPEC, --data, SPEC]``."""
    names = [name.removeprefix("--").replace("-", "_") for name in arguments[1::2]]
    values: dict[str, Any] = dict(zip(names, arguments[2::2], strict=True))
    values["batch_size"] = int(values.get("batch_size", 3))
    kind = ProbeRequest if {"probes", "start", "trained_on"} & changes.keys() else Request
    return kind(**values | changes), Path(arguments[0])


SLOW = {"torchvision ResNet-18", "torchvision MobileNetV3", "timm ResNet-18", "BERT"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in CASES])
def test_real_networks_agree_with_scipy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = CASES[name](tmp_path)
    out = tmp_path / "out"
    options = ["--dtype", "float64", "--probes", "eigenvalues", "--eigenvalues.rtol", "1e-2", "--out", str(out)]
    # In this process, which has the network's library already: another would take longer to load it than to measure.
    monkeypatch.setattr("sys.argv", ["sharpness", "probe", *prepared.arguments, *options])
    main()
    (record,) = read_jsonl(out / "probes.jsonl")
    truth = top_eigenvalue(prepared)
    assert record["hvp_backend"] == ("exact" if prepared.exact else "finite_difference")
    assert record["value"] == pytest.approx(truth, rel=1e-4 if prepared.exact else 1e-3)
    # Hugging Face casts the logits of language models to float32, whatever the model is in.
    assert record["lower"] * (1 - 1e-6) <= truth <= record["upper"]
    assert "loss " in capsys.readouterr().out and (out / "eigenvalues.pdf").stat().st_size > 1000


def test_the_record_says_what_was_measured(small: list[str], tmp_path: Path) -> None:
    request, path = as_request(small, examples=4, seed=3)
    given = load_user_checkpoint(request, path, CPU)
    details = given.subject.details
    assert details["data"]["examples"] == 4 and details["data"]["subset_seed"] == 3
    assert details["model"]["model"] == "tests.given_cases:mlp" and details["criterion"] == "cross_entropy"
    assert details["at_checkpoint"]["loss"] == pytest.approx(given.subject.loss.value(given.subject.loss.weights))
    assert given.subject.checkpoint_sha256 and given.subject.loss.num_examples == 4
    json.dumps(details, allow_nan=False)
    other = load_user_checkpoint(as_request(small, examples=4, seed=4)[0], path, CPU)
    assert other.subject.loss.data_sha256() != given.subject.loss.data_sha256()


@pytest.mark.slow
def test_all_probes_leave_the_network_as_it_was(small: list[str], tmp_path: Path) -> None:
    from sharpness.cli.output import make_console
    from sharpness.cli.probe import measure_all
    from sharpness.cli.work_bar import WorkBar
    from sharpness.measure.runner import applicable, probes_named
    from sharpness.runs import RecordFolder

    request, path = as_request(small)
    given = load_user_checkpoint(request, path, CPU)
    model = given.model.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags, random_state = [m.training for m in model.modules()], torch.get_rng_state()
    probes = applicable(probes_named(["all"]), given.subject, named=())
    assert "distance" not in probes and "interpolation" not in probes and len(probes) >= 6
    folder = RecordFolder(tmp_path)
    quiet: dict[str, Any] = {"named": (), "found": lambda record: None, "bar": WorkBar(make_console(True), {})}
    outcomes = measure_all(given.subject, probes, folder, None, **quiet)
    assert [o.name for o in outcomes if o.status != "measured"] == ["geodesic_sharpness"]  # there is no attention
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert flags == [m.training for m in model.modules()] and torch.equal(random_state, torch.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    again = measure_all(given.subject, probes, folder, None, **quiet)
    assert [o.name for o in again if o.status != "there already"] == ["geodesic_sharpness"]
    assert not list(tmp_path.glob(".products/*"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": None}, ["--model"]),
        ({"data": None}, ["--data"]),
        ({"model": "tests.given_cases:nothing"}, ["tests.given_cases:nothing", "object"]),
        ({"model": "no_such_module:net"}, ["no_such_module"]),
        ({"model": "resnet"}, ["unknown model", "f1", "timm:..."]),
        ({"model": "timm:resnet1"}, ["timm", "resnet18"]),
        ({"model": "timm:resnet18,depth=3"}, ["timm:resnet18,depth=3", "depth"]),
        ({"model": "torchvision:resnet1"}, ["torchvision", "resnet18"]),
        ({"model": "hf:nowhere"}, ["config.json"]),
        ({"loss": "crossentropy"}, ["unknown loss", "cross_entropy"]),
        ({"loss": "model"}, ["returns its loss", "criterion"]),
        ({"loss": "mse"}, ["shape of the outputs", "(4,)", "cross_entropy"]),
        ({"parameters": "9.*"}, ["9.*"]),
        ({"examples": 100}, ["100"]),
        ({"batch_size": 0}, ["batch"]),
    ],
)
def test_a_bad_request_is_one_line(small: list[str], changes: dict[str, Any], words: list[str]) -> None:
    request, path = as_request(small, **changes)
    with pytest.raises(InputError) as caught:
        load_user_checkpoint(request, path, CPU)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600
    for word in words:
        assert word in text, text


def test_a_wrong_number_of_classes_names_the_layer_and_both_sizes(tmp_path: Path) -> None:
    prepared = CASES["timm ResNet-18"](tmp_path)
    model = prepared.arguments.index("--model") + 1
    arguments = [*prepared.arguments[:model], "timm:resnet18,in_chans=1", *prepared.arguments[model + 1 :]]
    result = sharpness("probe", *arguments, "--out", str(tmp_path / "out"))
    assert_refused(result, "fc.weight", "1000", "4", "num_classes=4")
    assert not (tmp_path / "out").exists()


def save_pairs(folder: Path, x: np.ndarray, y: np.ndarray) -> str:
    np.savez(folder / "other.npz", x=x, y=y)
    return f"npz:{folder / 'other.npz'}"


def test_data_that_do_not_fit_are_refused_before_any_number(small: list[str], tmp_path: Path) -> None:
    x, y = np.zeros((5, 1, 8, 8), np.float32), np.arange(5) % 4

    def refused(data: str, *words: str, model: str = "tests.given_cases:mlp", weights: Path | None = None) -> None:
        request, path = as_request(small, data=data, model=model)
        with pytest.raises(InputError) as caught:
            load_user_checkpoint(request, weights or path, CPU)
        assert all(word in str(caught.value) for word in words), caught.value

    refused(save_pairs(tmp_path, x, y + 1), "labels from 0 to 3", "1 to 4")
    refused(save_pairs(tmp_path, x[..., :7], y), "data that fit this network")
    conv = seeded(lambda: load_model("tests.test_given:small_conv").model)
    torch.save(conv.state_dict(), tmp_path / "conv.pt")
    refused(
        save_pairs(tmp_path, x, y),
        "3 channels",
        "got (1, 8, 8)",
        model="tests.test_given:small_conv",
        weights=tmp_path / "conv.pt",
    )
    bad = seeded(mlp).state_dict()
    bad["1.weight"][0, 0] = float("nan")
    save_file(bad, tmp_path / "nan.safetensors")
    refused(save_pairs(tmp_path, x, y), "NaN", "1.weight", weights=tmp_path / "nan.safetensors")


def small_conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 4))


def test_usual_mistakes_are_warned_of_with_their_numbers(tmp_path: Path) -> None:
    # A network that knows its task: class k is where row k of the image is bright.
    x = np.zeros((40, 1, 8, 8), np.float32)
    y = np.arange(40) % 4
    x[np.arange(40), 0, y] = 1.0
    model: Any = mlp()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        for k in range(4):
            model[1].weight[k, 8 * k : 8 * k + 8] = 0.5
            model[3].weight[k, k] = 5.0
    torch.save(model.state_dict(), tmp_path / "w.pt")

    def warnings(data: str) -> tuple[str, ...]:
        arguments = [str(tmp_path / "w.pt"), "--model", "tests.given_cases:mlp", "--data", data]
        request, path = as_request(arguments)
        return load_user_checkpoint(request, path, CPU).checked.warnings

    assert warnings(save_pairs(tmp_path, x, y)) == ()
    (scaled,) = warnings(save_pairs(tmp_path, 255 * x, y))
    assert "from 0 to 255" in scaled and "mean 31.88" in scaled and "scale=255" in scaled
    (chance,) = warnings(save_pairs(tmp_path, x, np.roll(y, 1)))
    assert "accuracy 0.0 %" in chance and "25.0 %" in chance


@pytest.mark.slow
def test_a_run_folder_needs_nothing_but_its_name(tmp_path: Path) -> None:
    from tests.test_commands import RUN

    (tmp_path / "run.toml").write_text(RUN)
    run = tmp_path / "run"
    assert sharpness("train", str(tmp_path / "run.toml"), "--out", str(run)).returncode == 0
    result = sharpness("probe", str(run), "--probes", "eigenvalues", "--eigenvalues.k", "2", "--json")
    assert result.returncode == 0, result.stderr
    (record,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert record["knobs"]["k"] == 2 and len(record["details"]["eigenvalues"]) == 2
    assert [record] == read_jsonl(run / "probes.jsonl")
    # The weights file by itself is the same point, and a flipped byte in it is found out.
    (weights,) = run.glob("checkpoint-*.safetensors")
    options = ["--model", "f1_small", "--data", "fashion_mnist_10k", "--examples", "60", "--out", str(tmp_path / "out")]
    good = sharpness("probe", str(weights), *options, "--probes", "keskar", "--norm", "batch")
    assert good.returncode == 0, good.stderr
    assert read_jsonl(tmp_path / "out" / "probes.jsonl")[0]["checkpoint_sha256"] == record["checkpoint_sha256"]
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    assert_refused(sharpness("probe", str(run), "--probes", "trace"), weights.name, "SHA-256")


def test_compare_puts_two_checkpoints_side_by_side(small: list[str], tmp_path: Path) -> None:
    torch.save(seeded(mlp).state_dict(), tmp_path / "first.pt")
    moved = {name: 1.1 * tensor for name, tensor in seeded(mlp).state_dict().items()}
    save_file(moved, tmp_path / "second.safetensors")
    both = [str(tmp_path / "first.pt"), str(tmp_path / "second.safetensors")]
    options = [*small[1:], "--out", str(tmp_path / "out"), "--probes", "eigenvalues,interpolation"]
    result = sharpness("compare", *both, *options)
    assert result.returncode == 0, result.stderr
    records = read_jsonl(tmp_path / "out" / "probes.jsonl")
    assert [record["probe"] for record in records] == ["eigenvalues", "eigenvalues", "interpolation"]
    line = records[2]["details"]
    request, _ = as_request(small)
    ends = [load_user_checkpoint(request, Path(path), CPU).checked.evaluation.loss for path in both]
    assert line["train_loss"][line["alphas"].index(0.0)] == pytest.approx(ends[0], rel=1e-6)
    assert line["train_loss"][line["alphas"].index(1.0)] == pytest.approx(ends[1], rel=1e-6)
    assert "first.pt" in result.stdout and "second.safetensors" in result.stdout and "ratio" in result.stdout
    assert (tmp_path / "out" / "interpolation.pdf").exists()
    again = sharpness("compare", *both, *options)
    assert again.returncode == 0 and again.stdout.count("in probes.jsonl already") == 3


def test_a_record_is_found_again_only_for_the_same_file_of_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = classifier(tmp_path, "tests.given_cases:mlp", seeded(mlp), 1, 8).arguments
    file, found = tmp_path / "my_loss_of_a_test.py", []
    monkeypatch.syspath_prepend(tmp_path)
    for written in ("outputs", "outputs * 1.0"):
        file.write_text(
            "from torch.nn.functional import cross_entropy\n\ndef mine(outputs, targets):\n"
            f"    return cross_entropy({written}, targets)\n"
        )
        monkeypatch.delitem(sys.modules, file.stem, raising=False)
        importlib.invalidate_caches()
        request, path = as_request(small, loss=f"{file.stem}:mine")
        found.append(load_user_checkpoint(request, path, CPU).subject.identity)
    one, other = found
    assert one["loss_at_checkpoint"] == other["loss_at_checkpoint"] and one["code"]["model"] == other["code"]["model"]
    assert one["code"]["loss"] != other["code"]["loss"]


def moved_checkpoint(moved: str, folder: Path) -> Path:
    """Save the small network with another tensor of one name, or of all names that begin with it."""
    state = seeded(mlp).state_dict()
    torch.save({n: t * (1.5 if n.startswith(moved) else 1) for n, t in state.items()}, folder / "moved.pt")
    return folder / "moved.pt"


@pytest.mark.parametrize(("moved", "ends_there"), [("1.", True), ("", False), ("3.bias", False)])
def test_a_line_in_some_parameters_ends_where_the_others_are_the_same(
    small: list[str], tmp_path: Path, moved: str, ends_there: bool
) -> None:
    request, path = as_request(small, parameters="1.*")
    other = moved_checkpoint(moved, tmp_path)
    first, second = (load_user_checkpoint(request, each, CPU) for each in (path, other))
    lines: list[Any] = [
        lambda: with_far_end(request, first, second, "moved"),
        lambda: with_points(request, first, "first", [("moved", other)]),
    ]
    for line in lines:
        if ends_there:
            (end,) = line().points_for("interpolation")
            assert first.subject.loss.value(end.weights) == second.checked.evaluation.loss
        else:
            with pytest.raises(InputError, match=r"measured parameters alone, got another 3\..*moved.pt"):
                line().points_for("interpolation")
    from_there: Any = as_request(small, parameters="1.*", start=other)[0]
    started = with_start(from_there, first).subject.start  # a distance is taken to it, and no line
    assert started is not None and torch.equal(started().weights, second.subject.loss.weights)


def test_a_line_ends_where_both_checkpoints_have_one_loss(tmp_path: Path) -> None:
    data, *_ = images(tmp_path, 1, 8)
    ends = []
    for seed, loss in enumerate(("cross_entropy", "square", "cross_entropy")):
        model = seeded(normed)
        state = {n: t + seed / 4 if t.is_floating_point() else t + seed for n, t in model.state_dict().items()}
        torch.save(state, tmp_path / f"{seed}.pt")
        options = [str(tmp_path / f"{seed}.pt"), "--model", "tests.test_given:normed", "--data", data, "--loss", loss]
        ends.append(load_user_checkpoint(*as_request(options), CPU))
    first, squares, other = ends
    request = as_request(["", "--data", data])[0]
    (end,) = with_far_end(request, first, other, "other").points_for("interpolation")  # BatchNorm's statistics may move
    assert torch.equal(end.weights, other.subject.loss.weights)
    with pytest.raises(InputError, match=r"one loss for both.*differ in --loss \(cross_entropy and square\)"):
        with_far_end(request, first, squares, "squares").points_for("interpolation")


def normed() -> nn.Module:
    """Return a network with running statistics."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4))


def test_compare_measures_both_and_leaves_out_a_line_that_does_not_end_at_the_second(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, (request, path) = moved_checkpoint("", tmp_path), as_request(small, probes=None, parameters="1.*")
    command = Compare(first=path, second=other, out=tmp_path / "out", **vars(request))
    run_compare(command, {})
    left_out = "interpolation, weights.pt: does not apply: expected checkpoints that differ"
    assert left_out in capsys.readouterr().err
    records = [record["probe"] for record in read_jsonl(tmp_path / "out" / "probes.jsonl")]
    assert records.count("eigenvalues") == 2 and "interpolation" not in records
    with pytest.raises(InputError, match="measured parameters alone"):
        run_compare(replace(command, probes="interpolation"), {})


def test_compare_refuses_other_shapes_with_a_table(tmp_path: Path) -> None:
    data, *_ = images(tmp_path, 1, 8)
    for width in (5, 6):
        torch.save(
            load_model(f"tests.given_cases:Recurrent,width={width}").model.state_dict(), tmp_path / f"{width}.pt"
        )
    both = [str(tmp_path / "5.pt"), str(tmp_path / "6.pt")]
    spec = ["--model", "tests.given_cases:Recurrent,width=5", "--data", data]
    result = sharpness("compare", *both, *spec, "--out", str(tmp_path / "out"))
    assert result.returncode == 2 and "(4, 5)" in result.stderr and "(4, 6)" in result.stderr
    assert "head.weight" in result.stderr and not (tmp_path / "out").exists()


def test_knobs_that_do_not_exist_are_one_line(small: list[str], tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out"), "--probes", "eigenvalues"]
    assert_refused(sharpness("probe", *small, *out, "--eigenvalues.kk", "5"), "kk", "expected one of k")
    assert_refused(sharpness("probe", *small, *out, "--eigenvalues.k", "many"), "expected int", "many")
    assert_refused(sharpness("probe", *small, *out, "--eigenvalues.which", "tpo"), "tpo", "top")
    assert_refused(sharpness("probe", *small, *out, "--density.steps", "5"), "density")
    assert_refused(sharpness("probe", *small, *out, "--eigenvalues.k"), "--eigenvalues.k VALUE")
    assert not (tmp_path / "out").exists()


def test_norms_need_no_derivatives_of_the_loss(small: list[str], tmp_path: Path) -> None:
    own = ["--loss", "tests.given_cases:zero_one", "--json"]
    found = sharpness("probe", *small, *own, "--probes", "norms", "--out", str(tmp_path / "out"))
    assert found.returncode == 0 and '"weight_norm"' in found.stdout, found.stderr
    refused = sharpness("probe", *small, *own, "--probes", "trace", "--out", str(tmp_path / "none"))
    assert refused.returncode == 2 and "expected a loss with derivatives" in refused.stderr


def test_time_bounds_the_whole_and_the_same_command_goes_on(small: list[str], tmp_path: Path) -> None:
    options = [*small, "--out", str(tmp_path / "out"), "--probes", "eigenvalues,keskar"]
    cut = sharpness("probe", *options, "--seconds", "0.001")
    assert cut.returncode == 0 and "out of time" in cut.stderr, cut.stderr
    whole = sharpness("probe", *options)
    assert whole.returncode == 0, whole.stderr
    assert [record["probe"] for record in read_jsonl(tmp_path / "out" / "probes.jsonl")][-2:] == [
        "eigenvalues",
        "keskar",
    ]


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """A network whose products take long enough to be stopped between two of them."""
    small = classifier(tmp_path, "tests.given_cases:mlp", seeded(mlp), 1, 8).arguments
    out = tmp_path / "out"
    options = ["--model", "tests.test_given:slow_mlp", "--out", str(out), "--probes", "keskar,eigenvalues"]
    options += ["--eigenvalues.cache", "0"]
    arguments = [*(a for a in small if a not in ("--model", "tests.given_cases:mlp")), *options]
    # Whoever runs the tests in the background has Ctrl-C ignored, and processes inherit that.
    listening = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{listening}; from sharpness.cli import main; main()", "probe", *arguments]
    environment = os.environ | {"PYTHONPATH": str(SHIM), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    started = time.monotonic()
    while len(list(out.glob(".products/*/product_*.safetensors"))) < 3:
        assert process.poll() is None and time.monotonic() - started < PATIENCE, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    *warned, last = errors.splitlines()
    assert process.returncode == 130 and "goes on from there" in last
    assert all(line.startswith("warning: ") for line in warned)
    (kept,) = read_jsonl(out / "probes.jsonl")
    assert kept["probe"] == "keskar"
    done = sharpness("probe", *arguments)
    assert done.returncode == 0 and "keskar: in probes.jsonl already" in done.stdout, done.stderr
    fresh = sharpness("probe", *arguments, "--out", str(tmp_path / "fresh"))
    assert fresh.returncode == 0
    values = [read_jsonl(folder / "probes.jsonl")[1]["value"] for folder in (out, tmp_path / "fresh")]
    assert values[0] == values[1] and not list(out.glob(".products/*"))


class _Slow(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return x


def slow_mlp() -> nn.Module:
    """Return the small network, each of whose passes takes a while; a graph kept for products would hide that."""
    return nn.Sequential(*mlp().children(), _Slow())


def test_a_causal_language_model_is_asked_whether_it_shifts_its_labels() -> None:
    from transformers import GPT2LMHeadModel

    tokens = torch.randint(1, 20, (5, 6), generator=torch.Generator().manual_seed(0))
    ragged = [tokens[:2], tokens[2:, :4]]
    batches = [{"input_ids": piece, "labels": piece} for piece in ragged]
    model = seeded(lambda: GPT2LMHeadModel(gpt2_config(20))).double()
    loss = Loss(model, None, batches, dtype=torch.float64)
    assert loss.data.count is shifted_labels
    total, number = 0.0, 0
    with torch.no_grad():
        for piece in ragged:
            logits = model(input_ids=piece).logits[:, :-1]
            total += float(nn.functional.cross_entropy(logits.flatten(0, 1), piece[:, 1:].flatten(), reduction="sum"))
            number += piece[:, 1:].numel()
    # Its own loss takes the logits in float32, whatever the model is in.
    assert loss.value(loss.weights) == pytest.approx(total / number, rel=1e-7)
    labels = averaged_count(None, batches[1]), averaged_count(None, batches[0])
    by_labels = sum(n * Loss(model, None, [b]).value(loss.weights) for n, b in zip(labels, batches[::-1], strict=True))
    assert abs(by_labels / sum(labels) - total / number) > 1e-6 * total / number  # the other weights are another loss
    own, pieces = LOSS_CASES["own loss over tokens"].build()
    assert getattr(Loss(own, None, pieces, dtype=torch.float64).data.count, "func", None) is averaged_count


def test_a_loss_that_averages_over_sequences_is_weighted_by_them() -> None:
    class PerSequence(nn.Module):
        """Averages over sequences, so that long and short ones count alike."""

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 9)

        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> Any:
            losses = [nn.functional.cross_entropy(self.table(i), y) for i, y in zip(input_ids, labels, strict=True)]
            return type("Output", (), {"loss": torch.stack(losses).mean(), "logits": self.table(input_ids)})()

    labels = torch.tensor([[1, 2, 3, 4], [5, -100, -100, -100]])
    batch = {"input_ids": torch.randint(9, (2, 4), generator=torch.Generator().manual_seed(0)), "labels": labels}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = PerSequence()
    loss = Loss(model, None, [{name: tensor[i : i + 1] for name, tensor in batch.items()} for i in range(2)])
    assert loss.value(loss.weights) == pytest.approx(float(model(**batch).loss.detach()), rel=1e-6)
    assert "a mean over examples" in Loss(model, None, [batch]).checks["mean"]


def test_help_starts_without_torch() -> None:
    start = "import sys; sys.argv = ['sharpness', '--help']\nfrom sharpness.cli import main\n"
    code = start + "try: main()\nexcept SystemExit: print('torch' in sys.modules)"
    result = run_cold_python("-c", code)
    assert result.stdout.strip().endswith("False"), result.stdout
    for command in ("probe", "compare"):
        text = sharpness(command, "--help").stdout
        for option in ("--model", "--data", "--loss", "--examples", "--norm", "--seconds", "--json", "--allow-global"):
            assert option in text


def test_one_probe_explains_itself() -> None:
    result = sharpness("probes", "eigenvalues")
    assert result.returncode == 0 and "--eigenvalues.k  1" in result.stdout and "Lanczos" in result.stdout
    assert_refused(sharpness("probes", "eigenvalue"), "eigenvalues")
    assert "timm:NAME" in sharpness("models").stdout and "npz:FILE" in sharpness("datasets").stdout


@pytest.mark.parametrize(
    ("spec", "library", "name"),
    [
        ("timm:resnet18", "timm", "timm"),
        ("torchvision:resnet18", "torchvision.models", "torchvision"),
        ("hf:FOLDER", "transformers", "hf"),
    ],
)
def test_a_missing_library_says_what_installs_it(
    spec: str, library: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=rf"pip install 'sharpness\[{name}\]'"):
        load_model(spec.replace("FOLDER", str(tmp_path)))
