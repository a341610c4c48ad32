"""Runs of what the documentation shows: every command and every snippet of the README, of docs/ and of CONTRIBUTING."""

from __future__ import annotations

import importlib
import io
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.table import Table

import sharpness as sh
from analysis.pages.papers import PAPERS
from analysis.report.places import name_of, script_of
from sharpness import plots
from sharpness.cli import advise, predict
from sharpness.files import read_jsonl
from sharpness.landscapes import LANDSCAPES
from sharpness.measure.advise import advice_of, record_of
from sharpness.measure.batch_rules import Settings
from sharpness.probes import PROBES
from sharpness.records import ProbeRecord
from sharpness.runs import RunFolder
from sharpness.runs.networks import load_run_data
from sharpness.training import train
from sharpness.training.tracker import QUANTITIES
from tests.conftest import ROOT, SCRIPTS, run_cold_python, run_python
from tests.study_cases import script
from tests.test_imports import LADDER

README = (ROOT / "README.md").read_text()
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "concepts").glob("*.md"))]
"""The pages that people wrote; those that the site adds lie in folders that git ignores."""
DOCS = {path.name: path.read_text() for path in PAGES}
AFTER_MEASURE = ("track.md", "results.md", "predict.md", "batch_size.md", "landscapes.md")
IN_ORDER = (DOCS["start.md"], DOCS["train.md"], README, DOCS["measure.md"], *(DOCS[name] for name in AFTER_MEASURE))
"""The pages with commands, that of the run which the others measure before them."""
RUN_BY_NAME = {"extend.md", "landscapes.md", "measure.md", "numbers.md", "start.md", "track.md"}
"""The pages with snippets, each of which a test below runs."""
OF_REPRODUCE = "runs/keskar2017/fc_256_256_256-fashion_mnist_10k-b32-s0-5934fee2"
OF_MERRILL = "runs/merrill2025/char_transformer_small-kjv-b4-s0-20a7dd2f"


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of one language."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [content for name, content in fences if name == language]


def commands() -> list[str]:
    return [line.strip() for page in IN_ORDER for block in blocks(page, "bash") for line in block.splitlines()]


@pytest.mark.dear
def test_the_python_snippet_runs_as_it_stands() -> None:
    snippet, *_ = blocks(README, "python")
    result = run_cold_python("-W", "error", "-c", snippet)
    assert result.returncode == 0, result.stderr
    eigenvalue, keskar = result.stdout.splitlines()
    assert re.fullmatch(r"[\d.]+ in \[[\d.]+, [\d.]+\] at 99 %, residual \S+, \d+ HVPs, [\d.]+ s", eigenvalue)
    assert keskar.startswith("phi >= ")


def test_the_page_to_start_with_installs_as_the_makefile_does_and_its_snippet_prints_what_it_shows() -> None:
    make, page = (ROOT / "Makefile").read_text(), DOCS["start.md"]
    (install,) = blocks(page, "sh")
    assert "$(PYTHON) -m venv .venv\n" in make and "python3 -m venv .venv\n" in install
    assert (
        "-c constraints.txt -e .\n" in make and ".venv/bin/python -m pip install -c constraints.txt -e .\n" in install
    )
    (snippet,) = blocks(page, "python")
    result = run_python("-W", "error", "-c", snippet)
    assert result.returncode == 0, result.stderr
    *_, shown = blocks(page, "")
    assert without_numbers(result.stdout) == without_numbers(shown)


def without_numbers(text: str) -> str:
    """Return a text with each number as N, whatever it is, and each run of spaces or of a line as one space."""
    return re.sub(r"[\s─]+", " ", re.sub(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", "N", text)).strip()


@pytest.mark.parametrize("library", ["transformers", pytest.param("timm", marks=pytest.mark.slow)])
@pytest.mark.dear
def test_the_snippets_of_libraries_run_as_they_stand(library: str) -> None:
    (snippet,) = [s for s in blocks(DOCS["measure.md"], "python") if f"sh, {library}" in s or f"torch, {library}" in s]
    result = run_python("-c", snippet)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"-?[\d.e-]+ in \[.*\] at 99 %, residual \S+, \d+ HVPs, [\d.]+ s\s*", result.stdout)
    assert len([line for line in snippet.strip().splitlines() if line]) <= 6


@pytest.mark.dear
def test_the_tracker_of_the_page_measures_and_its_callbacks_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, callbacks = blocks(DOCS["track.md"], "python")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(loop, "track.md", "exec"), names)
    rows = read_jsonl(tmp_path / "track.jsonl")
    assert rows and rows == names["tracker"].rows
    assert rows[0].keys() >= {"step", "critical_sharpness", "learning_rate", "examples", "seconds", "overhead"}
    exec(compile(callbacks, "track.md", "exec"), names)
    assert [type(each).__module__ for each in names["callbacks"]] == ["sharpness.integrations.lightning"]


def test_every_quantity_of_the_tracker_is_explained() -> None:
    shown = re.findall(r"^\| `(\w+_\w+)` \| .* \| .* \| .*\|$", DOCS["track.md"], re.MULTILINE)
    assert sorted(shown) == sorted(QUANTITIES)


@pytest.mark.slow
def test_the_snippet_of_spectra_runs_as_it_stands() -> None:
    (snippet,) = blocks(DOCS["numbers.md"], "python")
    result = run_python("-W", "error", "-c", snippet)
    assert result.returncode == 0, result.stderr
    eigenvalues, layers, density, diagonal, trace, biases = result.stdout.splitlines()
    assert eigenvalues.count(" in [") == 3 and "at 99 %" in eigenvalues and "NOT" not in eigenvalues
    assert layers.startswith("1 ") and ", 3 " in layers
    assert "negative" in density and "random signs" in diagonal and "xtrace" in trace
    largest = float(re.findall(r"[\d.]+", eigenvalues)[0])
    assert 0 < float(biases) <= largest  # a block of the whole


def test_the_snippets_of_landscapes_and_of_extending_run_as_they_stand() -> None:
    snippets = [*blocks(DOCS["landscapes.md"], "python"), *blocks(DOCS["extend.md"], "python")]
    assert len(snippets) == 4
    # In one process, each with names of its own, because loading torch takes longer than all of them.
    result = run_python("-W", "error", "-c", "".join(f"exec({snippet!r}, {{}})\n" for snippet in snippets))
    assert result.returncode == 0 and result.stdout.startswith("largest rise "), result.stderr


@pytest.mark.slow
def test_the_commands_run_as_they_stand(tmp_path: Path) -> None:
    configs = [*blocks(DOCS["start.md"], "toml"), *blocks(DOCS["train.md"], "toml")]
    for name, config in zip(("start", "run", "text", "edge"), configs, strict=True):
        (tmp_path / f"{name}.toml").write_text(config)
    lines = [command for command in commands() if command.startswith("sharpness ")]
    assert len(lines) == 23
    # The README measures a network of `make reproduce`: the run of the first command lies in its place.
    reproduced = tmp_path / OF_REPRODUCE
    reproduced.parent.mkdir(parents=True)
    reproduced.symlink_to(tmp_path / "runs" / "small-batch")
    # It measures a run of the study of Merrill et al. too, at checkpoints that take seconds to train.
    config = of_merrill().config
    train(config, load_run_data(config), RunFolder.create(tmp_path / OF_MERRILL, config), torch.device("cpu"))
    code = f"import os; os.chdir({str(tmp_path)!r}); from sharpness.cli import main\nimport sys\n" + "".join(
        f"print({line!r}, flush=True); sys.argv = {shlex.split(line)!r}; main()\n" for line in lines
    )  # in one process, because loading torch takes longer than most of them
    result = run_python("-c", code)
    assert result.returncode == 0, f"{result.stdout[-500:]}: {result.stderr}"
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        said = result.stdout.partition(line + "\n")[2]
        assert said.partition(after + "\n")[0] if after else said, line
    assert (tmp_path / "runs" / "small-batch" / "probes.jsonl").exists()
    shown, _ = blocks(DOCS["start.md"], "")
    for line in filter(str.strip, shown.splitlines()):
        assert without_numbers(line) in without_numbers(result.stdout), line


def test_the_two_commands_are_targets_that_the_tests_run() -> None:
    # `make test` runs this file; test_keskar2017_smoke.py runs `make reproduce`, with a smaller preset.
    makes = [command for command in commands() if command.startswith("make")]
    assert makes == ["make reproduce", "make test"]
    assert set(commands()) == {*makes, *(c for c in commands() if c.startswith("sharpness "))}
    assert "@@" not in README


def test_the_worked_example_of_contributing_runs() -> None:
    snippets = blocks((ROOT / "CONTRIBUTING.md").read_text(), "python")
    assert len(snippets) == 2
    result = run_python("-W", "error", "-c", "\n".join(snippets))
    assert result.returncode == 0, result.stderr


def test_the_network_that_the_readme_measures_is_one_of_make_reproduce() -> None:
    keskar2017 = script("keskar2017")
    small, _ = keskar2017.cells_of(keskar2017.PRESETS["cpu"], 1)
    assert f"runs/keskar2017/{small.config.run_id}" == OF_REPRODUCE
    assert OF_REPRODUCE in README


def of_merrill() -> Any:
    """Return the run of the study of Merrill et al. that the page on measuring measures."""
    merrill2025 = script("claims2026.merrill2025")
    small, *_ = merrill2025.cells_of(merrill2025.PRESETS["cpu"], 1)
    return small


@pytest.mark.parametrize("command", ["predict", "advise"])
def test_what_predict_and_advise_print_is_what_their_committed_records_hold(command: str) -> None:
    assert f"runs/merrill2025/{of_merrill().config.run_id}" == OF_MERRILL
    folder = f"figures/{command}/merrill2025"
    (line,) = [each for each in commands() if each.startswith(f"sharpness {command} ")]
    assert OF_MERRILL in line and line.endswith(f"--out {folder}")
    records = [ProbeRecord.from_dict(row) for row in read_jsonl(ROOT / folder / "probes.jsonl")]
    assert records[0].details["checkpoint"]["path"].startswith(OF_MERRILL)
    if command == "predict":
        tables, said = [predict.predictions_table(records)], predict.said(records)
    else:
        *measured, advised = records
        found = advice_of(
            measured, Settings(**advised.knobs["settings"]), advised.knobs["overhead"], advised.confidence or 0.0
        )
        assert record_of(found, measured[0]).value == advised.value
        tables, said = [advise.noise_table(found, measured), advise.advice_table(found)], advise.said(found, measured)
    page = {"predict": "predict.md", "advise": "batch_size.md"}[command]
    assert as_printed(tables, said) in blocks(DOCS[page], "")


def as_printed(tables: Iterable[Table], said: Iterable[str]) -> str:
    """Return tables and lines as a terminal shows them, without spaces at the ends of lines."""
    stream = io.StringIO()
    console = Console(file=stream, width=200)
    for table in tables:
        console.print(table)
    shown = [line.rstrip() for line in stream.getvalue().splitlines()]
    titles = [number for number, line in enumerate(shown) if number and line and not line.startswith(" ")]
    parts = "\n".join(line if number not in titles else f"\n{line}" for number, line in enumerate(shown) if line)
    return "\n".join([parts, *(f"- {line}" for line in said), ""])


def test_what_the_readme_prints_is_the_committed_table_and_five_sentences() -> None:
    (output,) = [block for block in blocks(README, "") if block.startswith("Keskar et al. 2017")]
    said, checked = output.split("\nChecks:\n")
    text = (ROOT / "figures" / "keskar2017" / "cpu-10-seeds" / "pairs_table.md").read_text()
    _, _, *rows = [line.strip("| ") for line in text.splitlines() if line.startswith("|")]
    printed = [line.split() for line in said.splitlines()]
    assert len(rows) == 8 and all(row.replace("|", "").split() in printed for row in rows)
    assert said.count("\n- ") == 5 and "- Test loss" in said and "PyHessian" in checked


def test_every_block_of_code_is_of_a_language_that_is_run() -> None:
    assert set(languages(README)) <= {"", "bash", "python"}
    for name, text in DOCS.items():
        shown = set(languages(text))
        assert shown <= {"", "bash", "python", "toml", "sh"}, name  # sh: for other machines, and git
        assert "bash" not in shown or text in IN_ORDER, name
        assert "python" not in shown or name in RUN_BY_NAME, name
        assert "toml" not in shown or name in {"start.md", "train.md"}, name
    assert len(blocks(README, "python")) == 1 and len(blocks(DOCS["measure.md"], "python")) == 2


def languages(text: str) -> list[str]:
    """Return the languages of the fenced blocks."""
    return re.findall(r"^```(\w*)\n.*?^```$", text, re.MULTILINE | re.DOTALL)


def test_links_and_paths_exist() -> None:
    missing = set()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]:
        text = path.read_text()
        links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
        missing |= {f"{path.name}: {link}" for link in links if not (path.parent / link).exists()}
        inline = " ".join(re.findall(r"`([^`\n]+)`", text))
        named = re.findall(r"(?<![\w./-])(?:sharpness|analysis|tests|scripts|figures|docs)/[\w./<>-]+", inline)
        modules = [f"{name.replace('.', '/')}.py" for name in re.findall(r"python -m (analysis[\w.]+)", inline)]
        wanted = [name for name in [*named, *modules] if "<" not in name and "NAME" not in name]
        missing |= {f"{path.name}: {name}" for name in wanted if not (ROOT / name).exists()}
    assert missing <= {
        "CONTRIBUTING.md: sharpness/probes/gradient_norm.py",  # the worked example's
        "studies.md: figures/cohen2021/smoke-1-seeds",  # likewise
    }


def test_the_file_tree_is_the_one_on_disk() -> None:
    tree = next(block for block in blocks(README, "") if block.startswith("sharpness/"))
    library, _, others = tree.partition("\nanalysis/")
    shown = set(re.findall(r"^  (\w+(?:\.py|/))", library, re.MULTILINE))
    assert shown == entries(ROOT / "sharpness")
    assert {"scripts", "figures", "docs", "tests"} == set(re.findall(r"^(\w+)/", others, re.MULTILINE))
    architecture = next(block for block in blocks(DOCS["architecture.md"], "") if block.startswith("analysis/"))
    analysis, _, scripts = architecture.partition("\nscripts/")
    studies = {name_of(study) for paper in PAPERS.values() for study in paper.studies}
    assert shown_beside(analysis) == entries(ROOT / "analysis") - {f"{name}/" for name in studies}
    assert shown_beside(scripts) == entries(ROOT / "scripts") - {f"{name}.py" for name in studies}
    there = {path.relative_to(ROOT).as_posix() for path in SCRIPTS}
    assert [script_of(study) for study in studies if script_of(study) not in there] == []


def entries(folder: Path) -> set[str]:
    """Return the modules and packages that lie in a folder."""
    there = {p.name + ("/" if p.is_dir() else "") for p in folder.iterdir() if p.is_dir() or p.suffix == ".py"}
    return {name for name in there if not name.startswith("__")}


def shown_beside(tree: str) -> set[str]:
    """Return what a tree shows, but for the studies that it has as <study>."""
    return set(re.findall(r"^  (\w+(?:\.py|/))", tree, re.MULTILINE))


def test_the_readme_is_short() -> None:
    assert len(README.encode()) <= 12_000


def test_every_page_is_in_the_index() -> None:
    index = DOCS["README.md"]
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in PAGES}
    assert pages - {"README.md"} == set(re.findall(r"\| \[[\w.]+\]\(([\w./]+)\)", index))


def test_the_walk_and_the_table_of_places_name_what_is_there() -> None:
    """Every stop of the walk, and every other place, is a function or class of its file."""
    walk, _, places = DOCS["architecture.md"].partition("## Where is what I look for?")
    stops = re.findall(r"^\| (\d+) \| `[\w/.]+` \| `\w+` \|", walk, re.MULTILINE)
    assert [int(number) for number in stops] == list(range(1, len(stops) + 1)) and len(stops) > 15
    rows = re.findall(r"\| `([\w/]+\.py)` \| (`\w+`(?:, `\w+`)*) \|", walk + places)
    assert len(rows) > len(stops) + 5
    wanted = [(file, name) for file, names in rows for name in re.findall(r"\w+", names)]
    gone = [each for each in wanted if not re.search(rf"^ *(?:def|class) {each[1]}\b", read(each[0]), re.MULTILINE)]
    assert gone == []


def read(name: str) -> str:
    """Return the text of a file of the project."""
    return (ROOT / name).read_text()


def test_the_tree_in_numbers_is_that_on_disk() -> None:
    rows = re.findall(r"^\| `(\w+)/` \| \d+ \| (\d+) \|", DOCS["architecture.md"], re.MULTILINE)
    there = {name: [p for p in (ROOT / name).iterdir() if p.name != "__pycache__"] for name, _ in rows}
    assert len(rows) == 3 and dict(rows) == {name: str(len(inside)) for name, inside in there.items()}


def test_the_ladder_is_the_one_that_the_tests_hold() -> None:
    shown = next(block for block in blocks(DOCS["architecture.md"], "") if block.startswith("errors"))
    assert tuple(tuple(line.split()) for line in shown.splitlines()) == LADDER


def test_every_measure_and_landscape_is_explained() -> None:
    def first_column(text: str, pattern: str) -> set[str]:
        return set(re.findall(pattern, text, re.MULTILINE))

    assert first_column(DOCS["measures.md"], r"^\| `(\w+)` \|") == set(PROBES)
    assert first_column(DOCS["landscapes.md"], r"^\| `(\w+) [A-Z][^`]*` \|") == set(LANDSCAPES)


def test_every_measure_has_a_formula_and_no_empty_cell() -> None:
    rows = re.findall(r"^\| (`\w+` \| .*) \|$", DOCS["measures.md"], re.MULTILINE)
    cells = {row[0]: row for row in (re.split(r" *(?<!\\)\| *", line) for line in rows)}
    assert len(cells) == len(PROBES)
    for name, row in cells.items():
        assert len(row) == 6 and all(row), name
        assert re.search(r"`[^` ]+ [^`]+`", row[1]), name  # a name or a knob has no space, a formula does


def test_the_page_of_the_library_lists_every_public_name() -> None:
    _, *parts = DOCS["api.md"].split(".. currentmodule:: ")
    shown = set[str]()
    for part in parts:
        module, *names = re.findall(r"^ *([\w.]+)$", part, re.MULTILINE)
        shown |= {f"{module}.{name}" for name in names}
    constants = {f"sharpness.{name}" for name in re.findall(r"`(plots\.[A-Z_]+)`", DOCS["api.md"])}
    public = {f"{module.__name__}.{name}" for module in (sh, plots) for name in module.__all__}
    assert public - shown - constants == set()
    homes = [name.rpartition(".") for name in sorted(shown | constants)]
    assert [".".join(home) for home in homes if not hasattr(importlib.import_module(home[0]), home[2])] == []


def test_every_study_is_listed_with_where_it_ran() -> None:
    page = DOCS["studies.md"]
    studies = {name_of(study) for paper in PAPERS.values() for study in paper.studies}
    assert set(re.findall(r"^\| `scripts/(?:\w+/)?(\w+)\.py` \|", page, re.MULTILINE)) == studies
    assert set(re.findall(r"^\| `(\w+)` \| `cpu`", page, re.MULTILINE)) == studies
