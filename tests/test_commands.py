"""The command line and the study as a user runs them: in processes of their own, with good and bad input."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from sharpness.files import read_jsonl
from tests.conftest import PATIENCE, ROOT, run_cold_python, run_python
from tests.oracles import assert_alike

COMMAND = ("-c", "from sharpness.cli import main; main()")
RUN = """[data]
num_train = 120
num_test = 40
evaluation_batch_size = 60
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
    first = run_cold_python(*COMMAND, "train", str(tmp_path / "run.toml"), "--out", str(out))
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
    assert sharpness("trian").returncode == 2


@pytest.mark.study
def test_the_study_runs_from_end_to_end(smoke: Path) -> None:
    output = (smoke / "output.txt").read_text()
    assert "λ_max" in output and "PyHessian" in output and "agreement" in output
    assert re.search(r"train \d+ s, probe \d+ s, render \d+ s; \d+ s in all\s*$", output)
    files = list((smoke / "runs").glob("*/probes.jsonl"))
    assert len(files) == 24
    probes = Counter(record["probe"] for path in files for record in read_jsonl(path))
    assert probes == {
        **dict.fromkeys(("eigenvalues", "trace", "worst_case"), 2),
        "keskar": 24 + 2,  # the pair in random dimensions too
        "keskar_maximum": 4,
        "distance": 24,
        "fisher_rao_norm": 24,
        "interpolation": 2,
        "pyhessian": 2,
    }


@pytest.mark.study
def test_the_study_again_does_nothing_twice(smoke: Path) -> None:
    arguments = [
        "--preset",
        "smoke",
        "--seeds",
        "1",
        "--runs",
        str(smoke / "runs"),
        "--figures",
        str(smoke / "figures"),
    ]
    before = {path: path.read_bytes() for path in smoke.rglob("*") if path.is_file() and path.name != ".lock"}
    result = run_python("scripts/keskar2017.py", *arguments)
    assert result.returncode == 0, result.stderr
    assert "train: " not in result.stdout and "probe: " not in result.stdout
    after = {path: path.read_bytes() for path in before}
    assert {path for path in before if before[path] != after[path]} == set()


@pytest.mark.slow  # that training and probes survive kills is tested by itself, too
@pytest.mark.study
def test_a_killed_study_goes_on_and_ends_with_the_same_records(smoke: Path, tmp_path: Path) -> None:
    command = [sys.executable, "scripts/keskar2017.py", "--preset", "smoke", "--seeds", "1", "--workers", "2",
               "--runs", str(tmp_path / "runs"), "--figures", str(tmp_path / "figures")]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for begun in ("*/x0.safetensors", "*/checkpoint-*.safetensors", "*/probes.jsonl"):  # while it trains and probes
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
            while not list((tmp_path / "runs").glob(begun)):
                assert process.poll() is None
                time.sleep(0.02)
            process.kill()
        assert process.returncode == -signal.SIGKILL
    assert subprocess.run(command, cwd=ROOT, env=environment, timeout=PATIENCE, check=False).returncode == 0
    for path in sorted((smoke / "runs").glob("*/probes.jsonl")):
        again = read_jsonl(tmp_path / "runs" / path.parent.name / "probes.jsonl")
        ours, theirs = ({(r["probe"], json.dumps(r["knobs"])): r for r in rows} for rows in (again, read_jsonl(path)))
        assert len(ours) == len(again)  # none doubled
        assert ours.keys() == theirs.keys()
        for key, record in ours.items():
            assert_alike(record, theirs[key], rtol=0)
