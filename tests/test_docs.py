"""What the documentation shows is run: every command and every snippet of the README, the example of CONTRIBUTING."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import sharpness as sh
from tests.conftest import ROOT, run_cold_python, run_python

README = (ROOT / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [content for name, content in fences if name == language]


def commands() -> list[str]:
    return [line.strip() for block in blocks(README, "bash") for line in block.splitlines()]


def test_the_python_snippet_runs_as_it_stands() -> None:
    snippet, *_ = blocks(README, "python")
    result = run_cold_python("-W", "error", "-c", snippet)
    assert result.returncode == 0, result.stderr
    eigenvalue, keskar = result.stdout.splitlines()
    assert re.fullmatch(r"[\d.]+ in \[[\d.]+, [\d.]+\] at 99 %, residual \S+, \d+ HVPs, [\d.]+ s", eigenvalue)
    assert keskar.startswith("phi >= ")


@pytest.mark.parametrize("library", ["transformers", pytest.param("timm", marks=pytest.mark.slow)])
def test_the_snippets_of_libraries_run_as_they_stand(library: str) -> None:
    (snippet,) = [s for s in blocks(README, "python") if f"sh, {library}" in s or f"torch, {library}" in s]
    result = run_python("-c", snippet)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"-?[\d.e-]+ in \[.*\] at 99 %, residual \S+, \d+ HVPs, [\d.]+ s\s*", result.stdout)
    assert len([line for line in snippet.strip().splitlines() if line]) <= 6


def test_the_recipe_tracks_a_training_run(tmp_path: Path) -> None:
    """With Hugging Face's own Trainer, and as Lightning's LambdaCallback calls the hook."""
    from torch import nn
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    (recipe,) = [s for s in blocks(README, "python") if "def track" in s]
    names: dict[str, Any] = {}
    exec(compile(recipe, "README.md", "exec"), names)
    torch.manual_seed(0)
    config = GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=20, n_positions=8, resid_pdrop=0, embd_pdrop=0)
    tokens = [torch.randint(20, (8,)) for _ in range(12)]
    data = [{"input_ids": t, "labels": t} for t in tokens]
    batches = [{name: torch.stack([row[name] for row in data]) for name in ("input_ids", "labels")}]
    callback = names["Sharpness"](batches)
    settings: dict[str, Any] = {"num_train_epochs": 2, "report_to": [], "use_cpu": True, "save_strategy": "no"}
    arguments = TrainingArguments(str(tmp_path), disable_tqdm=True, **settings)
    model = GPT2LMHeadModel(config)
    Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()  # pyright: ignore[reportArgumentType]
    first, second = callback.history
    assert first.upper is not None and second.upper is None and "start" in second.reasons["upper"]
    cold = sh.TopEigenvalues(rtol=1e-4)(sh.Loss(model, None, batches))
    assert second.value == pytest.approx(cold.value, rel=5e-2)

    net = nn.Linear(3, 2)
    module = SimpleNamespace(net=net, criterion=nn.functional.cross_entropy, sharpness=[])
    module.probe_batches = [(torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 1, 0]))]
    for _ in range(2):
        names["hook"](None, module)
    assert module.sharpness[1].num_hvps < module.sharpness[0].num_hvps


@pytest.mark.slow
def test_the_snippet_of_spectra_runs_as_it_stands() -> None:
    (snippet,) = [s for s in blocks(README, "python") if "SpectralDensity" in s]
    result = run_python("-W", "error", "-c", snippet)
    assert result.returncode == 0, result.stderr
    eigenvalues, layers, density, trace, biases = result.stdout.splitlines()
    assert eigenvalues.count(" in [") == 3 and "at 99 %" in eigenvalues and "NOT" not in eigenvalues
    assert layers.startswith("1 ") and ", 3 " in layers
    assert "negative" in density and "xtrace" in trace
    largest = float(re.findall(r"[\d.]+", eigenvalues)[0])
    assert 0 < float(biases) <= largest  # a block of the whole


def test_the_snippet_of_landscapes_runs_as_it_stands() -> None:
    (snippet,) = [s for s in blocks(README, "python") if "RandomPlane" in s]
    result = run_python("-W", "error", "-c", snippet)
    assert result.returncode == 0 and result.stdout.startswith("largest rise "), result.stderr


@pytest.mark.slow
def test_the_commands_of_a_run_of_your_own(tmp_path: Path) -> None:
    (config,) = blocks(README, "toml")
    (tmp_path / "run.toml").write_text(config)
    lines = [command for command in commands() if command.startswith("sharpness ")]
    assert len(lines) == 10
    code = f"import os; os.chdir({str(tmp_path)!r}); from sharpness.cli import main\nimport sys\n" + "".join(
        f"print({line!r}, flush=True); sys.argv = {shlex.split(line)!r}; main()\n" for line in lines
    )  # in one process, because loading torch takes longer than most of them
    result = run_python("-c", code)
    assert result.returncode == 0, f"{result.stdout[-500:]}: {result.stderr}"
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        said = result.stdout.partition(line + "\n")[2]
        assert said.partition(after + "\n")[0] if after else said, line
    assert (tmp_path / "runs" / "small-batch" / "probes.jsonl").exists()


@pytest.mark.study
def test_the_two_commands_are_targets_that_the_tests_run(smoke: Path) -> None:
    # `make test` runs this file; `make reproduce` is how the smoke study is run, with a smaller preset.
    makes = [command for command in commands() if command.startswith("make")]
    assert makes == ["make reproduce", "make test"]
    assert set(commands()) == {*makes, *(c for c in commands() if c.startswith("sharpness "))}
    assert "scripts/keskar2017.py --preset smoke" in (smoke / "output.txt").read_text()  # make shows what it runs
    assert "@@" not in README


def test_the_worked_example_of_contributing_runs() -> None:
    snippets = blocks((ROOT / "CONTRIBUTING.md").read_text(), "python")
    assert len(snippets) == 2
    result = run_python("-W", "error", "-c", "\n".join(snippets))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_and_paths_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    paths = re.findall(r"`((?:sharpness|analysis|tests|scripts|figures)/[\w./-]+)`", text)
    missing = [path for path in [*links, *paths] if "<" not in path and not (ROOT / path).exists()]
    assert set(missing) <= {"sharpness/probes/gradient_norm.py", "figures/keskar2017/cpu-2-seeds/"}


def test_the_file_tree_is_the_one_on_disk() -> None:
    tree = next(block for block in blocks(README, "") if block.startswith("sharpness/"))
    shown = set(re.findall(r"^  (\w+(?:\.py|/))", tree, re.MULTILINE))
    there = {p.name + ("/" if p.is_dir() else "") for p in (ROOT / "sharpness").iterdir()}
    assert shown == {name for name in there if not name.startswith("__")}
