"""The page of all fields of records: it names what the probes and a training really write, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.pages.record_page import PAGE, record_page
from sharpness.cli import main
from sharpness.cli.collect import run_collect
from sharpness.cli.options import Collect, Report
from sharpness.cli.report import run_report
from sharpness.errors import InputError
from sharpness.landscapes import LANDSCAPES
from sharpness.probes import PROBES
from sharpness.records import ProbeRecord
from sharpness.records.glossary import DETAILS, EVERYWHERE, FIELDS, RUN, described
from sharpness.records.tables import one_line
from sharpness.runs import RecordFolder
from tests.conftest import ROOT
from tests.probe_cases import shows_itself, small_network

KNOBS: dict[str, dict[str, Any]] = {
    "learning_coefficient": {"burn_in": 2, "num_draws": 4},
    "connectivity": {"num_steps": 2, "num_points": 3},
    "batch_sharpness": {"num_batches": 10},
    "interaction": {"num_batches": 10},
    "random_plane": {"num_points": 3},
    "eigen_plane": {"num_points": 3},
    "three_point_plane": {"num_points": 3},
    "trajectory_plane": {"num_points": 3},
    "geodesic_sharpness": {"steps": 2},
    "pac_bayes": {"num_pairs": 2},
    "relative_flatness": {"num_hvps": 40},
    "density": {"steps": 8, "starts": 2},
    "occam": {"steps": 8, "starts": 2},
}
"""What shortens the longest ones."""
FIRST = ROOT / "tests" / "old_records" / "of_the_first_version.jsonl"
OLD = {"probe": "distance", "quantity": "distance_from_start", "value": 3, "reasons": {"lower": "exact"}, "gone": 1}


def test_the_page_is_what_the_glossary_says() -> None:
    assert (ROOT / PAGE).read_text() == record_page(), "python -m analysis.pages.record_page"
    assert FIELDS.keys() == ProbeRecord.__dataclass_fields__.keys()
    assert DETAILS.keys() == {**PROBES, **LANDSCAPES}.keys()


def keys_of(value: Any, at: str = "") -> Iterator[str]:
    """Yield the key of each leaf: ``a.b`` within a key, ``a[].b`` within the entries of a list."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from keys_of(inner, f"{at}.{name}" if at else name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value:
            yield from keys_of(inner, f"{at}[]")
    else:
        yield at


@pytest.mark.dear
@pytest.mark.parametrize("name", sorted(DETAILS))
def test_every_detail_has_its_words_and_every_result_shows_itself(name: str) -> None:
    info = {**PROBES, **LANDSCAPES}[name]
    loss = small_network("attention" if name == "geodesic_sharpness" else "mlp")
    torch.manual_seed(0)
    others = [loss.weights + 0.1 * torch.randn_like(loss.weights) for _ in range(2)]
    points = (loss.weights, *others, loss.weights) if name == "trajectory_plane" else (loss.weights, *others)
    count = len(points) if name == "trajectory_plane" else len(info.points)
    result = info.probe(**KNOBS.get(name, {}))(loss, *points[:count])
    shows_itself(result)
    found, words = set(keys_of(json.loads(json.dumps(result.to_record().details)))), DETAILS[name]
    assert {key for key in found if not described(key, words | EVERYWHERE)} == set()
    always = {key for key, said in words.items() if not said.startswith("where")}
    inside = {key for key in always if any(described(each, {key: ""}) for each in found)}
    null = {key for key in always if any(key.startswith((f"{each}.", f"{each}[]")) for each in found)}
    assert always - inside - null == set()


def test_every_key_of_a_run_has_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.toml").write_text(
        '[data]\nname = "fashion_mnist_10k"\nnum_train = 50\nnum_test = 20\n[model]\nname = "f1_small"\n'
        "[training]\nbatch_size = 50\nepochs = 1\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["sharpness", "train", "run.toml", "--out", "run"])
    main()
    rows = [json.loads(line) for line in (tmp_path / "run" / "train.jsonl").read_text().splitlines()]
    files = {"manifest.json": [json.loads((tmp_path / "run" / "manifest.json").read_text())], "train.jsonl": rows}
    for file, written in files.items():
        assert {key for row in written for key in row} <= RUN[file].keys()
        always = {key for key, said in RUN[file].items() if not said.startswith("where")}
        assert always <= written[-1].keys(), always - written[-1].keys()


def test_records_of_older_versions_are_read_and_newer_ones_refused_in_a_line() -> None:
    for old in (OLD, OLD | {"schema": 0}, OLD | {"schema": 1}):
        record = ProbeRecord.from_dict(old)
        assert (record.value, record.num_hvps, record.seed, dict(record.details)) == (3, 0, None, {})
    with pytest.raises(InputError, match=r"^expected a record of schema 1 or older, got 2: update") as caught:
        ProbeRecord.from_dict(OLD | {"schema": 2})
    assert "\n" not in str(caught.value)


def test_records_that_the_first_version_wrote_are_read_collected_and_drawn(tmp_path: Path) -> None:
    """The file is what the first code that had probes wrote of a run of two epochs, byte for byte."""
    (tmp_path / "probes.jsonl").write_bytes(FIRST.read_bytes())
    records = RecordFolder(tmp_path).records()
    assert [(record.probe, record.value) for record in records] == [
        ("eigenvalues", 26.845616368558403),
        ("keskar", 382.13770428977637),
        ("distance", 2.958562762981821),
    ]
    assert [one_line(record) for record in records[:2]] == [
        "top_eigenvalue 26.846 [26.846, 27.077] at 99 %, 13 HVPs, 2.5 s",
        "keskar_sharpness 382.14* [382.14, ?], 25 s",
    ]
    run_collect(Collect((tmp_path,), csv=tmp_path / "all.csv"))
    assert (tmp_path / "all.csv").read_text().count("\n") == 4
    run_report(Report(tmp_path))
    html = (tmp_path / "report.html").read_text()
    assert html.count("<figure>") == 2 and "382.14" in html  # all numbers, and how the eigenvalue converged
