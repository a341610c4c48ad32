"""The command line and the study as a user runs them: in processes of their own, with good and bad input."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from sharpness.files import read_jsonl
from tests.conftest import run_python

pytestmark = pytest.mark.dear

COMMAND = ("-c", "from sharpness.cli import main; main()")
RUN = """[data]
num_train = 120
num_test = 40
evaluation_batch_size = 60
[model]
name = "f1_small"
[training]
batch_size = 40
epochs = 2
"""


def sharpness(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return run_python(*COMMAND, *arguments, environment=environment)


def assert_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2 and one line on stderr that holds the words."""
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr


def test_train_then_probe_then_again(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(RUN)
    out = tmp_path / "runs" / "sb"
    first = sharpness("train", str(tmp_path / "run.toml"), "--out", str(out))
    assert first.returncode == 0 and "test loss" in first.stdout, first.stderr
    probe = sharpness("probe", str(out), "--probes", "eigenvalues,distance")
    assert probe.returncode == 0 and "top_eigenvalue" in probe.stdout, probe.stderr
    records = read_jsonl(out / "probes.jsonl")
    assert [record["probe"] for record in records] == ["eigenvalues", "distance"]
    assert (
        records[0]["checkpoint_sha256"]
        == json.loads((out / "manifest.json").read_text())["files"]["checkpoint-6.safetensors"]
    )
    again = sharpness("probe", str(out), "--probes", "eigenvalues,distance")
    assert again.stdout.count("in probes.jsonl already") == 2 and read_jsonl(out / "probes.jsonl") == records
    line = sharpness(
        "compare", str(out), str(out), "--probes", "interpolation,distance", "--out", str(tmp_path / "line")
    )
    assert line.returncode == 0, line.stderr
    first, second = sorted(read_jsonl(tmp_path / "line" / "probes.jsonl"), key=lambda r: r["probe"], reverse=True)
    assert (
        first["probe"] == "interpolation" and first["details"]["other_checkpoint_sha256"] == first["checkpoint_sha256"]
    )
    assert len(first["details"]["alphas"]) == 25 == len(first["details"]["test_loss"])
    assert second["value"] == records[1]["value"]
    assert_refused(sharpness("probe", str(out), "--probes", "interpolation"), "second checkpoint")
    assert_refused(sharpness("probe", str(out), "--probes", "eigenvalue"), "expected one of eigenvalues")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[training]\nbatch_sise = 3\n", ["batch_sise", "batch_size"]),
        ("[training]\nepochs = 'ten'\n", ["expected int", "'ten'"]),
        ("[training]\nbatch_size = 20000\n", ["10000 training examples", "20000"]),
        ("[data]\nname = 'fashion'\n", ["unknown dataset 'fashion'", "fashion_mnist"]),
        ("[data]\nname = 'cifar10'\n", ["cifar10"]),
    ],
)
def test_a_bad_config_is_one_line_and_nothing_is_written(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "run.toml").write_text(text)
    result = sharpness(
        "train",
        str(tmp_path / "run.toml"),
        "--out",
        str(tmp_path / "out"),
        environment={"SHARPNESS_CACHE": str(tmp_path / "cache")},
    )
    assert_refused(result, *words)
    assert not (tmp_path / "out").exists()


def test_other_bad_input_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(RUN)
    assert_refused(sharpness("train", "none.toml", "--out", str(tmp_path / "out")), "none.toml")
    assert_refused(
        sharpness("train", str(tmp_path / "run.toml"), "--out", str(tmp_path / "out"), "--device", "gpu"), "device"
    )
    assert_refused(sharpness("probe", str(tmp_path)), "folder without weights")
    assert_refused(run_python("scripts/keskar2017.py", "--preset", "gpu"), "unknown preset", "cpu")
    assert_refused(run_python("scripts/keskar2017.py", "--seeds", "0"), "at least 1 seed")
    assert_refused(run_python("scripts/keskar2017.py", "--workers", "0", "--runs", str(tmp_path / "runs")), "1 worker")


@pytest.mark.slow
def test_data_that_are_nowhere_end_the_study_in_one_line(tmp_path: Path) -> None:
    # The error comes from a worker process; `paper` needs MNIST, which is neither in the empty cache nor to be had.
    paths = ["--runs", str(tmp_path / "runs"), "--figures", str(tmp_path / "figures")]
    cache = {"SHARPNESS_CACHE": str(tmp_path / "cache")}
    result = run_python("scripts/keskar2017.py", "--preset", "paper", *paths, environment=cache)
    assert_refused(result, "four places", "--data-dir", "system folder", "SHARPNESS_OFFLINE")
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(("command", "names"), [("probes", "eigenvalues"), ("models", "f1"), ("datasets", "cifar100")])
def test_lists(command: str, names: str) -> None:
    result = sharpness(command)
    assert result.returncode == 0 and re.search(rf"^{names}\s+\S", result.stdout, re.MULTILINE)


@pytest.mark.parametrize("arguments", [[], ["train"], ["probe"]])
def test_help_is_there_for_every_command(arguments: list[str]) -> None:
    result = sharpness(*arguments, "--help")
    assert result.returncode == 0 and "usage: sharpness" in result.stdout


def test_a_command_that_there_is_not_is_refused() -> None:
    assert sharpness("trian").returncode == 2
