"""Synthetic run folders with planted numbers: does the analysis count, compute, draw and say what is in them?"""

from __future__ import annotations

import csv
import hashlib
import inspect
import io
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from analysis import runs as tidy
from analysis.keskar2017 import figures, report
from analysis.keskar2017.curves import curves
from analysis.keskar2017.numbers import Results, results_of, solutions
from analysis.keskar2017.sentences import checks_of_pairs, of_pairs
from analysis.report.report import Drawing, Written, render_study
from analysis.report.texts import csv_text, latex_text, markdown_text
from sharpness.errors import InputError
from sharpness.files import append_jsonl
from sharpness.plots import style
from sharpness.plots.frames import records
from sharpness.plots.save import save_figure
from sharpness.records import ProbeRecord
from tests.conftest import ROOT, SHIM
from tests.drawings import faults
from tests.keskar2017_cases import settings_of

SETTINGS = settings_of("cpu")
NUM_EPOCHS = 30
FIGURES = ("training_curves", "line_mlp", "accuracy_vs_sharpness", "pairs")
TABLE = ("pairs_table.md", "pairs_table.csv", "pairs_table.tex", "pairs_table.json")
LOOKS = {
    "SB": {"batch": 64, "test_accuracy": 0.854, "test_loss": 0.64, "train_loss": 0.02, "rate": 0.25},
    "LB": {"batch": 1000, "test_accuracy": 0.855, "test_loss": 0.78, "train_loss": 4e-4, "rate": 0.35},
}
EIGENVALUES = {"SB": (1.59, 1.87, 1.7, 2.2, 1.4), "LB": (9.3, 16.2, 11.0, 14.1, 8.5)}
TRACE_OVER_TOP = 7.0
WORST = {"SB": (0.9, 1.0, 1.1, 1.2, 0.8), "LB": (1.1, 0.8, 1.2, 0.9, 1.0)}
PHIS = {"SB": (0.35, 0.63, 0.9, 0.4, 1.2), "LB": (7.9, 120.0, 33.0, 376.0, 61.0)}


def place(role: str, seed: int, folder: Path) -> tidy.Place:
    """Return a run of the pairs with its labels."""
    return {"network": "MLP", "role": role, "arm": "base", "seed": seed}, folder


def make_run(root: Path, role: str, seed: int, *, status: str = "finished", probes: bool = True) -> tidy.Place:
    """Write a run folder like those of the study; seeds 0 to 4 differ, the numbers are those planted above."""
    folder = root / f"{role}-{seed}"
    folder.mkdir(parents=True)
    look = LOOKS[role]
    (folder / "config.toml").write_text(f"[training]\nbatch_size = {look['batch']}\nseed = {seed}\n")
    for row in epoch_rows(role, seed, status):
        append_jsonl(folder / "train.jsonl", row)
    manifest: dict[str, Any] = {"schema": 1, "run_id": f"f1-b{look['batch']}-s{seed}", "status": status, "step": 300}
    manifest |= {"epochs_done": NUM_EPOCHS, "git_commit": "c0ffee", "device": "cpu", "threads": 2, "seconds": 26.0}
    manifest |= {"versions": {"torch": "2.10"}, "data_sha256": "da7a", "config_sha256": f"cf{seed}"}
    manifest |= {"files": {"checkpoint-0.safetensors": "start", "checkpoint-300.safetensors": checkpoint(role, seed)}}
    if status == "finished":
        last = epoch_rows(role, seed, status)[-1]
        manifest["final"] = {key: last[key] for key in ("train_loss", "train_accuracy", "test_loss", "test_accuracy")}
    if status == "diverged":
        manifest["reason"] = "the training loss is not finite at step 120"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    if probes:
        for record in probe_records(role, seed):
            append_jsonl(folder / "probes.jsonl", record.to_dict())
    return place(role, seed, folder)


def checkpoint(role: str, seed: int) -> str:
    return f"{role}{seed}weights"


def epoch_rows(role: str, seed: int, status: str) -> list[dict[str, Any]]:
    look, noise = LOOKS[role], np.random.default_rng(seed + 10 * (role == "LB"))
    rows = []
    for epoch in range(NUM_EPOCHS + 1):
        done = float(np.exp(-look["rate"] * epoch))
        row: dict[str, Any] = {"epoch": epoch, "step": 10 * epoch, "seconds": 0.9 * epoch}
        row["train_loss"] = look["train_loss"] + 2.3 * done * float(np.exp(0.2 * noise.normal()))
        row["test_loss"] = look["test_loss"] * (1 - 0.4 * np.exp(-0.05 * epoch)) + 1.9 * done
        row["train_accuracy"] = 1 - 0.9 * done * float(np.exp(0.1 * noise.normal() - 0.1))
        row["test_accuracy"] = look["test_accuracy"] - 0.75 * done + 0.004 * noise.normal()
        rows.append({key: float(value) for key, value in row.items()} | {"epoch": epoch, "step": 10 * epoch})
    if status == "diverged":
        rows = [*rows[:12], rows[12] | dict.fromkeys(("train_loss", "test_loss"))]
    return rows


def probe_records(role: str, seed: int) -> list[ProbeRecord]:
    shared: dict[str, Any] = {"checkpoint_sha256": checkpoint(role, seed), "num_examples": 10_000}
    top, phi = EIGENVALUES[role][seed], PHIS[role][seed]
    eigenvalue: dict[str, Any] = {"lower": top, "upper": 1.02 * top, "confidence": 0.99, "residual": 2e-3}
    keskar = {"epsilon": 1e-3, "start": "random"}
    result = [
        ProbeRecord(probe="eigenvalues", quantity="top_eigenvalue", value=top, **eigenvalue, **shared),
        ProbeRecord(probe="trace", quantity="trace", value=TRACE_OVER_TOP * top, **shared),
        ProbeRecord(probe="worst_case", quantity="worst_case_sharpness", value=WORST[role][seed], **shared),
        ProbeRecord(probe="keskar", quantity="keskar_sharpness", value=phi, details=keskar, **shared),
        ProbeRecord(probe="distance", quantity="distance_from_start", value=9.0 + seed + (role == "LB"), **shared),
    ]
    if role == "SB":
        line = interpolation(seed) | {"other_checkpoint_sha256": checkpoint("LB", seed)}
        result.append(ProbeRecord(probe="interpolation", quantity="loss_barrier", value=2.0, details=line, **shared))
    if seed == 0:
        cross = {"ours": top, "ours_lower": top, "ours_upper": 1.02 * top, "agree": role == "SB"}
        name = "top_eigenvalue_pyhessian"
        result.append(ProbeRecord(probe="pyhessian", quantity=name, value=1.001 * top, details=cross, **shared))
    return result


def interpolation(seed: int) -> dict[str, Any]:
    alpha = np.linspace(-1, 2, 25)
    flat, sharp = np.minimum(abs(alpha) * 2.2, 3), np.minimum(abs(alpha - 1) * 6, 5)
    shape = np.minimum(flat, sharp) + 2 * np.maximum(alpha - 1, 0) + 1.5 * np.maximum(-alpha, 0)
    train = 0.01 + 0.9 * shape * (1 + 0.1 * seed)
    test = 0.62 + 1.1 * shape * (1 + 0.1 * seed) + 0.1 * (alpha > 0.5)
    train_accuracy, test_accuracy = 0.1 + 0.9 * np.exp(-0.8 * train), 0.1 + 0.754 * np.exp(-0.6 * (test - 0.6))
    lists = {"train_loss": train, "test_loss": test, "train_accuracy": train_accuracy, "test_accuracy": test_accuracy}
    details: dict[str, Any] = {name: [float(x) for x in values] for name, values in lists.items()}
    details["train_loss"][24] = None
    return details | {"alphas": [float(a) for a in alpha]}


def make_pairs(root: Path, num_seeds: int) -> list[tidy.Place]:
    return [make_run(root, role, seed) for seed in range(num_seeds) for role in LOOKS]


def results(places: list[tidy.Place]) -> Results:
    return results_of(tidy.load(places, []), SETTINGS)


def drawings(places: list[tidy.Place]) -> dict[str, Drawing | str]:
    return dict(report.report(tidy.load(places, []), SETTINGS).drawings)


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[tidy.Place], Path, Written]:
    """Five seeds of both roles, rendered once."""
    root = tmp_path_factory.mktemp("five")
    places, out = make_pairs(root / "runs", 5), root / "out"
    return places, out, render_study(report.report, places, [], SETTINGS, out)


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


# --- loading ---


def test_every_run_is_counted(tmp_path: Path) -> None:
    places = [make_run(tmp_path, "SB", 0), make_run(tmp_path, "LB", 0), make_run(tmp_path, "SB", 1)]
    places += [make_run(tmp_path, "LB", 1, status="diverged"), place("LB", 2, tmp_path / "none")]
    places.append(make_run(tmp_path, "SB", 2))
    (places[-1][1] / "manifest.json").unlink()
    found, out = results(places), tmp_path / "out"
    statuses = {(run["role"], run["seed"]): run["status"] for run in records(found.tables.runs)}
    assert statuses == {
        ("SB", 0): "finished",
        ("LB", 0): "finished",
        ("SB", 1): "finished",
        ("LB", 1): "diverged",
        ("LB", 2): "missing",
        ("SB", 2): "missing",
    }
    table = solutions(found)
    assert list(zip(table["role"], table["seed"], strict=True)) == [("SB", 0), ("SB", 1), ("LB", 0)]
    texts = render_study(report.report, places, [], SETTINGS, out).checks
    line = "2 of 3 SB runs (batch 64) finished, 1 missing (seed 2); "
    line += "1 of 3 LB runs (batch 1000) finished, 1 diverged (seed 1), 1 missing (seed 2)."
    assert texts[0] == line
    assert line in (out / "pairs_table.md").read_text()
    assert "MLP, LB, base, seed 1 diverged: the training loss is not finite at step 120." in texts
    assert "MLP, LB, base, seed 2 missing: there is no run folder." in texts
    # The line of SB 1 ends at a run that did not finish.
    assert "There is no record of loss_barrier on the final weights of SB seed 1." in texts
    assert [row["status"] for row in read_csv(out / "runs.csv")].count("missing") == 2
    assert "diverged" in {row["status"] for row in read_csv(out / "training_curves.csv")}


def test_the_last_record_of_the_final_weights_and_all_examples_counts(tmp_path: Path) -> None:
    labels, folder = make_run(tmp_path, "LB", 0)
    top: dict[str, Any] = {"probe": "eigenvalues", "quantity": "top_eigenvalue"}
    later = [
        ProbeRecord(**top, value=7.5),
        ProbeRecord(**top, value=999.0, checkpoint_sha256="other weights"),
        ProbeRecord(**top, value=888.0, details={"subset": 200}),
    ]
    for record in later:
        append_jsonl(folder / "probes.jsonl", record.to_dict())
    assert list(solutions(results([(labels, folder)]))["top_eigenvalue"]) == [7.5]
    stranger = make_run(tmp_path, "LB", 1, probes=False)
    append_jsonl(stranger[1] / "probes.jsonl", later[1].to_dict())
    found = results([stranger])
    assert np.isnan(solutions(found)["top_eigenvalue"]).all()
    assert "There is no record of top_eigenvalue on the final weights of LB seed 1." in checks_of_pairs(found)


def test_a_line_to_other_weights_neither_counts_nor_replaces_the_one_to_lb(tmp_path: Path) -> None:
    places = make_pairs(tmp_path, 1)
    details = interpolation(3) | {"other_checkpoint_sha256": "another network"}
    record = ProbeRecord(probe="interpolation", quantity="loss_barrier", value=9.0, details=details)
    append_jsonl(places[0][1] / "probes.jsonl", record.to_dict())
    assert "Train loss barrier on the straight line from SB to LB: 2.0 nats (1 seed)." in checks_of_pairs(
        results(places)
    )


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    labels, folder = make_run(tmp_path, "SB", 0)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest.json: expected a manifest in JSON"):
        results([(labels, folder)])


def test_other_boxes_are_not_averaged_in_and_other_starts_are_refused(tmp_path: Path) -> None:
    places = make_pairs(tmp_path, 1)

    def add(epsilon: float, start: str) -> None:
        details = {"epsilon": epsilon, "start": start}
        record = ProbeRecord(probe="keskar", quantity="keskar_sharpness", value=1.0, details=details)
        append_jsonl(places[0][1] / "probes.jsonl", record.to_dict() | {"knobs": {"epsilon": epsilon}})

    add(5e-4, "random")
    assert list(solutions(results(places))["keskar_sharpness"]) == [PHIS["SB"][0], PHIS["LB"][0]]
    add(1e-3, "centre")
    with pytest.raises(InputError, match="one start"):
        report.report(tidy.load(places, []), SETTINGS)


# --- tables ---


def test_table_holds_the_planted_numbers(five: tuple[list[tidy.Place], Path, Written]) -> None:
    rows = {row["quantity"]: row for row in records(five[2].tables[0].numbers)}
    top, small, large = rows["top_eigenvalue"], np.array(EIGENVALUES["SB"]), np.array(EIGENVALUES["LB"])
    assert top["SB_mean"] == pytest.approx(small.mean())
    assert top["LB_std"] == pytest.approx(large.std(ddof=1))
    assert top["difference"] == pytest.approx((large - small).mean())
    assert top["ratio"] == pytest.approx(stats.gmean(large / small))
    assert (top["SB_n"], top["LB_n"], top["pairs"]) == (5, 5, 5)
    assert rows["trace"]["ratio"] == pytest.approx(top["ratio"])
    test = rows["test_accuracy"]
    last = [epoch_rows("LB", seed, "finished")[-1]["test_accuracy"] for seed in range(5)]
    assert test["LB_mean"] == pytest.approx(100 * np.mean(last))
    assert test["ratio"] is None
    assert len(rows) == 8 and "ε = 0.001 and starts at random" in five[2].tables[0].caption


def test_table_texts(five: tuple[list[tidy.Place], Path, Written]) -> None:
    table = five[2].tables[0]
    texts = table.header, table.rows, "5 % & more"
    markdown, latex = markdown_text(*texts), latex_text(*texts)
    assert "| λ_max [nats] | 1.75 ± 0.30 | 11.8 ± 3.3 | +10 [+6, +14] | 6.6 [5.5, 8.0] | 5 |" in markdown
    assert markdown.endswith("\n5 % & more\n")
    assert r"$\lambda_{\max}$ [nats] & 1.75 $\pm$ 0.30 & 11.8 $\pm$ 3.3 &" in latex
    assert r"5 \% \& more" in latex
    assert [latex.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    body = latex.split(r"\midrule")[1].split(r"\bottomrule")[0]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body.strip().splitlines()} == {5}
    assert latex.isascii()
    assert f"{np.mean(EIGENVALUES['LB'])}" in csv_text(table.numbers)


# --- what is written ---


def test_all_files_are_written_and_complete(five: tuple[list[tidy.Place], Path, Written]) -> None:
    places, out, rendered = five
    names = {f"{name}{suffix}" for name in FIGURES for suffix in (".pdf", ".png", ".csv", ".json")} | {*TABLE}
    assert {path.name for path in out.iterdir()} == {path.name for path in rendered.files} == {*names, "runs.csv"}
    runs = out / "runs.csv"
    for name in (*FIGURES, "pairs_table"):
        text = (out / f"{name}.json").read_text()
        content = json.loads(text, parse_constant=pytest.fail)  # NaN is a constant to the parser.
        assert content["csv_sha256"] == hashlib.sha256((out / f"{name}.csv").read_bytes()).hexdigest()
        assert content["runs_sha256"] == hashlib.sha256(runs.read_bytes()).hexdigest()
        assert content["runs"] == {"finished": 10, "diverged": 0, "missing": 0}
        assert content["settings"]["preset"] == "cpu" and content["data_sha256"] == ["da7a"]
        assert str(out.parent) not in text
    weights = {row["checkpoint_sha256"] for row in read_csv(runs)}
    assert weights == {checkpoint(labels["role"], labels["seed"]) for labels, _ in places}


@pytest.mark.parametrize(
    ("name", "size"),
    [("training_curves", (3.25, 3.8)), ("line_mlp", (3.25, 2.5)), (FIGURES[2], (3.25, 5.8)), ("pairs", (3.25, 3.8))],
)
def test_png_has_its_size(five: tuple[list[tidy.Place], Path, Written], name: str, size: tuple) -> None:
    # With the dots per inch of tests/shim.
    pixels = struct.unpack(">II", (five[1] / f"{name}.png").read_bytes()[16:24])
    assert pixels == tuple(round(40 * inches) for inches in size)


def test_png_has_300_dpi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Figure, "savefig", inspect.unwrap(Figure.savefig))
    save_figure(Figure(figsize=(1.5, 1)), pd.DataFrame(), tmp_path, "figure", "", {})
    content = (tmp_path / "figure.png").read_bytes()
    assert struct.unpack(">II", content[16:24]) == (450, 300)
    start = content.index(b"pHYs") + 4
    per_metre = struct.unpack(">I", content[start : start + 4])[0]
    assert per_metre * 0.0254 == pytest.approx(300, abs=0.1)


@pytest.mark.slow  # all figures from nothing; test_plots draws again in one process
def test_second_render_gives_the_same_bytes(five: tuple[list[tidy.Place], Path, Written], tmp_path: Path) -> None:
    places, out, _ = five
    # Another process with another hash seed: the order of sets must not reach the files.
    code = "import json, sys; from pathlib import Path; from analysis.keskar2017.report import report; "
    code += "from analysis.report.report import render_study; "
    code += "places = [(labels, Path(folder)) for labels, folder in json.loads(sys.argv[2])]; "
    code += "render_study(report, places, [], json.loads(sys.argv[3]), Path(sys.argv[1]))"
    arguments = [json.dumps([(labels, str(folder)) for labels, folder in places]), json.dumps(SETTINGS)]
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join((str(ROOT), str(SHIM)))}
    subprocess.run([sys.executable, "-c", code, str(tmp_path), *arguments], check=True, env=environment)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {p.name: p.read_bytes() for p in out.iterdir()}


def pdf_fonts(figure: Figure, **settings: Any) -> set[bytes]:
    stream = io.BytesIO()
    rc: dict[Any, Any] = {**style.STYLE, "pdf.compression": 0, **settings}
    with mpl.rc_context(rc):
        figure.savefig(stream, format="pdf")
    return set(re.findall(rb"/Subtype /(Type3|Type0|CIDFontType2|TrueType)", stream.getvalue()))


def test_pdf_has_no_type_3_font(five: tuple[list[tidy.Place], Path, Written]) -> None:
    plain = Figure()
    plain.text(0.5, 0.5, "text")
    assert pdf_fonts(plain, **{"pdf.fonttype": 3}) == {b"Type3"}  # The search would find one.
    for figure in all_drawings(five[0]):
        figure.set_layout_engine("none")  # where texts stand has no part in their fonts, and takes most of the time
        assert pdf_fonts(figure) == {b"Type0", b"CIDFontType2"}


def test_csv_holds_the_numbers_drawn(five: tuple[list[tidy.Place], Path, Written]) -> None:
    rows = read_csv(five[1] / "accuracy_vs_sharpness.csv")
    assert len(rows) == 10
    assert {float(row["top_eigenvalue"]) for row in rows} == {*EIGENVALUES["SB"], *EIGENVALUES["LB"]}
    curves = read_csv(five[1] / "training_curves.csv")
    last = [float(r["train_loss"]) for r in curves if (r["role"], r["epoch"], r["line"]) == ("SB", "30", "run")]
    (mean,) = [float(r["train_loss"]) for r in curves if (r["role"], r["epoch"], r["line"]) == ("SB", "30", "mean")]
    assert mean == pytest.approx(stats.gmean(last))
    assert sum(row["train_loss"] == "" for row in read_csv(five[1] / "line_mlp.csv")) == 5


def test_captions_say_n_and_what_is_drawn(five: tuple[list[tidy.Place], Path, Written]) -> None:
    captions = {
        name: json.loads((five[1] / f"{name}.json").read_text())["caption"] for name in (*FIGURES, "pairs_table")
    }
    assert "SB n = 5, LB n = 5" in captions["training_curves"]
    assert "no band" in captions["training_curves"]
    assert "n = 5 pairs, 25 values of alpha" in captions["line_mlp"]
    assert "Bold: the pair of seed 0; faint: the pairs of the other seeds (1, 2, 3, 4)" in captions["line_mlp"]
    assert "Values that could not be measured leave gaps (5)." in captions["line_mlp"]
    assert "n = 10" in captions["accuracy_vs_sharpness"]
    assert "Bars at the top: 99 % interval" in captions["accuracy_vs_sharpness"]
    assert "bootstrap interval" in captions["accuracy_vs_sharpness"]
    assert "sample standard deviation" in captions["pairs_table"]


def test_sentences_are_honest_in_both_directions(five: tuple[list[tidy.Place], Path, Written]) -> None:
    assert len(five[2].sentences) == 5
    text = "\n".join([*five[2].sentences, *five[2].checks])
    assert re.search(
        r"Large-batch minima are sharper by every one of 3 measures; LB / SB: λ_max 6\.6 \[5\.5, 8\.0\]", text
    )
    assert re.search(r"Test accuracy: no difference is resolved, LB - SB = .* percentage points\.", text)
    assert re.search(r"Train loss: large batches end lower, LB - SB = -.* nats, in 5 of 5 pairs\.", text)
    assert re.search(r"rescaling layers changes nothing, no difference is resolved: 1\.0\d? \[", text)
    assert "sharpness does not tell which is more accurate: none of 6 rank correlations is resolved." in text
    assert re.search(r"at one batch size: λ_max within SB = .*n = 5", text)
    assert "PyHessian, SB seed 0: top eigenvalue 1.5916 against 1.59 in [1.59, 1.6218]" in text
    assert text.count("DISAGREEMENT") == 1
    assert "larger at LB than at SB in 5 of 5 pairs" in text
    assert "Caution" not in text


@pytest.mark.parametrize(
    ("of_accuracy", "of_loss", "words"),
    [
        (-1.0, -0.5, "Test loss goes the other way: large batches end lower"),
        (-1.0, 0.5, "Test loss goes the same way: large batches end higher"),
        (1.0, 0.5, "Test loss goes the other way: large batches end higher"),
        (-1.0, 0.0, "Test loss does not show it: no difference is resolved"),
        (0.0, -0.5, "Test loss: large batches end lower"),
    ],
)
def test_what_goes_the_other_way_is_said(tmp_path: Path, of_accuracy: float, of_loss: float, words: str) -> None:
    places = make_pairs(tmp_path, 5)
    for labels, folder in places:
        path, seed = folder / "manifest.json", labels["seed"]
        manifest = json.loads(path.read_text())
        large = labels["role"] == "LB"
        noise = 0.001 * (-1) ** seed * large
        manifest["final"]["test_accuracy"] = 0.8 + 0.01 * (of_accuracy * large + seed) + noise
        manifest["final"]["test_loss"] = 1.0 + of_loss * large + seed + noise
        path.write_text(json.dumps(manifest))
    accuracy, loss, *_ = of_pairs(results(places))
    assert accuracy.startswith("Test accuracy: ") and loss.startswith(words)


# --- what is missing ---


def test_two_seeds_bring_a_caution(tmp_path: Path) -> None:
    texts = checks_of_pairs(results(make_pairs(tmp_path, 2)))
    assert "Caution: 2 seeds with both runs; intervals from fewer than 5 seeds mean little." in texts


def test_values_that_are_not_positive_are_counted(tmp_path: Path) -> None:
    places = make_pairs(tmp_path, 2)
    record = ProbeRecord(probe="eigenvalues", quantity="top_eigenvalue", value=-0.5, lower=-0.5, upper=0.1)
    append_jsonl(places[0][1] / "probes.jsonl", record.to_dict())
    found, made = results(places), report.report(tidy.load(places, []), SETTINGS)
    drawing = made.drawings["accuracy_vs_sharpness"]
    assert "1 of 4 runs have λ_max <= 0 and are not on the log axis." in checks_of_pairs(found)
    assert any("λ_max not compared (a value is not positive)" in text for text in of_pairs(found))
    assert isinstance(drawing, Drawing)
    assert "1 with λ_max <= 0" in drawing.caption


def test_a_value_that_was_not_measured_is_named(tmp_path: Path) -> None:
    places = make_pairs(tmp_path, 1)
    record = ProbeRecord(probe="keskar", quantity="keskar_sharpness", value=None, reasons={"value": "overflow"})
    append_jsonl(places[1][1] / "probes.jsonl", record.to_dict())
    texts = checks_of_pairs(results(places))
    assert "MLP, LB, base, seed 0: keskar_sharpness was not measured (value: overflow)." in texts


def test_figures_without_data_are_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("line_mlp.png", "line_mlp.json", "accuracy_vs_sharpness.pdf", "notes.txt"):
        (out / name).write_text("older")
    places = [make_run(tmp_path / "new", "SB", 0, probes=False), place("LB", 0, tmp_path / "none")]
    rendered = render_study(report.report, places, [], SETTINGS, out)
    texts = [*rendered.sentences, *rendered.checks]
    assert sorted(path.stem for path in out.glob("*.png")) == ["training_curves"]
    assert not list(out.glob("line_mlp.*")) + list(out.glob("accuracy_vs_sharpness.*"))
    assert (out / "notes.txt").exists()
    assert "line_mlp was not drawn: no pair of finished runs was measured." in texts
    assert any(text.startswith("accuracy_vs_sharpness was not drawn") for text in texts)
    assert "Test accuracy: not compared, no seed has it in both runs." in texts
    assert any("λ_max not compared" in text for text in texts)


@pytest.mark.parametrize("roles", [("SB",), ("LB",), ()])
def test_a_role_without_finished_runs(tmp_path: Path, roles: tuple[str, ...]) -> None:
    places = [
        make_run(tmp_path, role, seed) if role in roles else place(role, seed, tmp_path / "none")
        for role in LOOKS
        for seed in range(2)
    ]
    made = report.report(tidy.load(places, []), SETTINGS)
    assert {name for name, drawing in made.drawings.items() if not isinstance(drawing, str)} == (
        {"training_curves", "accuracy_vs_sharpness"} if roles else set()
    )
    assert len(made.sentences) == 5
    assert sum("missing: there is no run folder" in text for text in made.checks) == 4 - 2 * len(roles)
    assert "Caution: 0 seeds with both runs; intervals from fewer than 5 seeds mean little." in made.checks
    (table,) = made.tables
    assert markdown_text(table.header, table.rows, "").count("| – | – |") == 8


# --- how the figures look ---


def all_drawings(places: list[tidy.Place]) -> list[Figure]:
    return [drawing.figure for drawing in drawings(places).values() if not isinstance(drawing, str)]


@pytest.mark.parametrize("num_seeds", [1, pytest.param(2, marks=pytest.mark.slow), 5])
def test_every_axis_is_labelled_and_no_text_overlaps(tmp_path: Path, num_seeds: int) -> None:
    with mpl.rc_context(style.STYLE):
        shown = all_drawings(make_pairs(tmp_path, num_seeds))
        assert [len(figure.axes) for figure in shown] == [3, 4, 2, 3]
        for figure in shown:
            # What names its lines needs no label.
            assert sum(not ax.get_ylabel() for ax in figure.axes) == (figure is shown[0])
            # The right axis of a pair shares the x axis of the left one and does not draw it twice.
            named = [ax.get_xlabel() or list(ax.get_xticks()) == [0, 1] for ax in figure.axes]
            assert all(name or not ax.xaxis.get_visible() for name, ax in zip(named, figure.axes, strict=True))
            assert faults(figure) == []


def test_the_check_of_figures_sees_overlaps_and_what_is_cut_off() -> None:
    figure, axes = style.new_figure(3.25, 2.0)
    axes[0, 0].text(0.5, 0.5, "one")
    axes[0, 0].text(0.5, 0.5, "two")
    figure.text(0.99, 0.5, "three")
    figure.text(0.5, 0.99, "four", fontsize=5)
    assert faults(figure) == ["small: four", "overlap: one and two", "cut off: three", "cut off: four"]


@pytest.mark.parametrize(
    ("draw", "found"),
    [
        (lambda ax: ax.axhline(0.5), ["empty: axes 0 y"]),
        (lambda ax: ax.plot([0, 1], [np.nan, 1.0], "--"), ["empty: axes 0 y"]),  # one point is no line
        (lambda ax: ax.text(0.5, 0.5, "no value"), []),
        (lambda ax: ax.scatter([0.2], [0.3]), []),
        (lambda ax: ax.bar([0], [1.0], color="0.5"), []),
    ],
)
def test_the_check_of_figures_sees_axes_without_data(draw: Callable[[Any], Any], found: list[str]) -> None:
    figure, axes = style.new_figure(3.25, 2.0)
    axes[0, 0].set(ylabel="y", xlim=(-1, 2))
    draw(axes[0, 0])
    assert faults(figure) == found


@pytest.mark.parametrize(
    ("handle", "alone"),
    [
        ({"color": "#0173b2", "linestyle": "-"}, False),
        ({"color": "#0173b2", "marker": "o", "linestyle": ""}, False),
        ({"color": "#0173b2", "linestyle": "--"}, True),
        ({"color": "#de8f05", "linestyle": "-"}, True),
        ({"color": "#0173b2", "marker": "s", "linestyle": ""}, True),
        ({"color": "0.4", "linestyle": "--"}, True),  # grey explains dashes alone
        ({"color": "0.4", "linestyle": "-"}, False),
        ({"linestyle": ""}, False),  # a line of text
    ],
)
def test_the_check_of_figures_sees_a_legend_of_what_is_not_drawn(handle: dict[str, Any], alone: bool) -> None:
    figure, axes = style.new_figure(3.25, 2.0)
    axes[0, 0].plot([0, 1], [0, 1], color="#0173b2", marker="o")
    axes[0, 0].plot([5], [5], color="#de8f05")  # one point has no line
    figure.legend(handles=[Line2D([], [], label="entry", **handle)], loc="outside upper center")
    assert faults(figure) == ["in the legend alone: entry"] * alone


def test_interpolation_has_the_layout_of_the_paper(five: tuple[list[tidy.Place], Path, Written]) -> None:
    figure = figures.between(curves(results(five[0]), "line", "MLP"), "line")
    left, right = figure.axes
    assert (left.get_xlim(), left.get_yscale(), right.get_yscale()) == ((-1, 2), "log", "linear")
    assert left.yaxis.label.get_color() == left.lines[0].get_color()
    assert right.yaxis.label.get_color() == right.lines[0].get_color() != left.lines[0].get_color()
    assert [line.get_linestyle() for line in right.lines[:2]] == ["-", "--"]
    assert right.lines[0].get_linewidth() > right.lines[2].get_linewidth()
    assert {(text.get_text(), text.get_position()[0]) for text in left.texts} == {("SB", 0), ("LB", 1)}
    assert np.isnan(np.asarray(left.lines[0].get_ydata(), dtype=float)).sum() == 1
    assert len(figure.axes) == 2


def test_roles_differ_in_grey_and_use_the_colour_blind_palette() -> None:
    import seaborn as sns

    palette = [tuple(round(255 * c) for c in color) for color in sns.color_palette("colorblind")]
    small, large = figures.ROLE["SB"], figures.ROLE["LB"]
    for look in (small, large):
        assert tuple(round(255 * c) for c in to_rgb(look.color)) in palette
    assert small.marker != large.marker
    assert small.linestyle != large.linestyle
    assert "small batch" in small.label
    assert "large batch" in large.label
