"""Configs and records on disk: what is read is what was written, and what is wrong is named."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sharpness import files
from sharpness.config import MeasureConfig, RunConfig, TrainingConfig, differences, from_toml, to_toml
from sharpness.errors import InputError
from sharpness.files import append_jsonl, read_jsonl, write_atomically
from sharpness.measure.recorded import find_record
from sharpness.records import ProbeRecord
from sharpness.runs import RecordFolder
from sharpness.training import check_config

WANTED: dict[str, Any] = {"probe": "p", "knobs": {"k": 1, "rtol": 0.1}, "checkpoint_sha256": None}


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_a_config_survives_its_toml_form(tmp_path: Path) -> None:
    config = RunConfig(training=TrainingConfig(learning_rate=3e-4, seed=7))
    config = replace(config, data=replace(config.data, num_train=100))
    assert from_toml(written(tmp_path, to_toml(config))) == config
    assert from_toml(written(tmp_path, "")) == RunConfig()
    assert from_toml(written(tmp_path, "[training]\nlearning_rate = 1")).training.learning_rate == 1.0


def test_a_field_that_is_gone_is_read_past_at_its_default_alone(tmp_path: Path) -> None:
    old = to_toml(RunConfig()).replace("compile = false\n", "compile = false\nvectorised = false\n")
    assert "vectorised" in old and from_toml(written(tmp_path, old)) == RunConfig()
    with pytest.raises(InputError, match="unknown key 'vectorised'"):
        from_toml(written(tmp_path, "[training]\nvectorised = true"))


def test_the_run_id_depends_on_every_field() -> None:
    config = RunConfig()
    others = [
        replace(config, training=replace(config.training, **{key: value}))
        for key, value in {"seed": 1, "batch_size": 65, "epochs": 2, "learning_rate": 0.1, "optimizer": "sgd"}.items()
    ]
    others += [replace(config, model=replace(config.model, norm="running"))]
    others += [replace(config, data=replace(config.data, evaluation_batch_size=1))]
    assert len({c.run_id for c in [config, *others]}) == 8
    assert differences(config, others[0]) == ["training.seed: 0 != 1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nbatch_sise = 3", r"unknown key 'batch_sise': expected one of batch_size"),
        ("[trianing]\nseed = 3", r"unknown key 'trianing': expected one of training"),
        ("[training]\nseed = 'one'", r"training: seed: expected int, got 'one' \(str\)"),
        ("[training]\nepochs = 2.5", r"expected int, got 2.5"),
        ("[training]\nepochs = true", r"expected int, got True"),
        ("training = 3", r"expected a table"),
        ("[training", r"expected TOML"),
        ("[data]\nname = " + "[" * 3000 + "]" * 3000, r"nested too deeply"),
        ("[data]\nname = " + "[" * 200 + "]" * 200, r"nested too deeply"),
        ("[data]\nname = " + "{a=" * 1500 + "1" + "}" * 1500, r"nested too deeply"),
        ("a." * 200 + "a = 1", r"nested too deeply"),
        ("[training]\nepochs = " + "9" * 5000, r"expected TOML"),
        ("[training]\nepochs = 0x" + "f" * 5000, r"expected int, got an int too long to print"),
        ("[training]\nseed = 9223372036854775808", r"expected int, got 9223372036854775808"),
        ("[training]\nweight_decay = nan", r"expected float, got nan"),
        ("[training]\nweight_decay = -inf", r"expected float, got -inf"),
        ("a = 1 #" + "#" * (1 << 16), r"at most 65536 bytes"),
    ],
)
def test_a_wrong_toml_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        from_toml(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_config_without_an_end_is_refused() -> None:
    with pytest.raises(InputError, match="/dev/zero: expected a config of at most"):
        from_toml(Path("/dev/zero"))


def test_a_missing_config_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found none"):
        from_toml(tmp_path / "no.toml")


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("training", {"batch_size": 10_001}, "at most the 10000 training examples, got 10001"),
        ("training", {"batch_size": 9_999}, "batch of 1"),
        ("training", {"seed": -1}, "seed from 0"),
        ("data", {"num_train": 1001, "evaluation_batch_size": 500}, "another evaluation_batch_size"),
        ("data", {"num_test": 101, "evaluation_batch_size": 50}, "another evaluation_batch_size"),
        ("training", {"batch_size": 0}, "batch_size of at least 1"),
        ("training", {"learning_rate": 0.0}, "positive learning_rate"),
        ("training", {"learning_rate": float("nan")}, "positive learning_rate"),
        ("training", {"optimizer": "adan"}, "expected one of adam"),
        ("model", {"name": "f9"}, "expected one of f"),
        ("model", {"norm": "bacth"}, "expected one of batch"),
        ("data", {"name": "fashion"}, "expected one of fashion_mnist"),
        ("data", {"num_train": 50}, "at most the 50 training examples"),
        ("training", {"loss": "hinge"}, "unknown loss 'hinge': expected one of cross_entropy, square"),
        ("training", {"loss": "square", "label_smoothing": 0.1}, "label_smoothing with the loss cross_entropy alone"),
        ("data", {"label_noise": 1.01}, "label_noise from 0 to 1, got 1.01"),
        ("data", {"label_noise": -0.1}, "label_noise from 0 to 1"),
        ("data", {"label_noise": float("nan")}, "label_noise from 0 to 1"),
        ("measure", {"overhead": 5}, "measure.overhead from 0 to 1, got 5"),
        ("measure", {"quantities": ("noise_scale",)}, "measure.overhead above 0 with measure.quantities, got 0"),
        (
            "measure",
            {"overhead": 0.1, "quantities": ("noise",)},
            "unknown quantity 'noise': expected one of noise_scale",
        ),
    ],
)
def test_a_config_that_cannot_be_trained_is_refused_before_any_work(
    section: str, changes: dict[str, object], message: str
) -> None:
    config = RunConfig()
    with pytest.raises(InputError, match=message):
        check_config(replace(config, **{section: replace(getattr(config, section), **changes)}))


def test_what_a_tracker_cannot_follow_is_refused() -> None:
    config = RunConfig(measure=MeasureConfig(overhead=0.05, quantities=("preconditioned_sharpness",)))
    check_config(config)
    with pytest.raises(InputError, match="expected adam or adamw for preconditioned_sharpness, got momentum"):
        check_config(replace(config, training=TrainingConfig(optimizer="momentum")))
    with pytest.raises(InputError, match=r"measure\.overhead without sam_rho and proximal"):
        check_config(replace(config, training=TrainingConfig(sam_rho=0.1)))


def test_a_half_written_last_line_is_ignored_and_then_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for number in range(3):
        append_jsonl(path, {"number": number})
    whole = path.read_bytes()
    for length in range(len(whole) + 1):  # a kill can leave any prefix
        path.write_bytes(whole[:length])
        kept = whole[:length].count(b"\n")
        assert [row["number"] for row in read_jsonl(path)] == list(range(kept))
        append_jsonl(path, {"number": "new"})
        assert [row["number"] for row in read_jsonl(path)] == [*range(kept), "new"]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(InputError, match=r"rows.jsonl:2"):
        read_jsonl(path)
    assert read_jsonl(tmp_path / "none.jsonl") == []


def test_records_hold_no_nan(tmp_path: Path) -> None:
    record = ProbeRecord(probe="p", quantity="q", value=float("inf"), details={"curve": [1.0, float("nan")]})
    row = record.to_dict()
    assert row["value"] is None and row["details"]["curve"] == [1.0, None]
    assert row["reasons"] == {"value": "inf is not finite", "details.curve[1]": "nan is not finite"}
    assert ProbeRecord.from_dict(json.loads(json.dumps(row, allow_nan=False))).value is None
    with pytest.raises(ValueError, match="JSON"):
        append_jsonl(tmp_path / "rows.jsonl", {"value": float("nan")})
    assert not (tmp_path / "rows.jsonl").exists()
    with pytest.raises(InputError, match="schema"):
        ProbeRecord.from_dict(row | {"schema": 99})


RECORD = ProbeRecord(probe="p", quantity="q", value=1.0, batch_sizes=(3, 1), reasons={"lower": "none"}).to_dict()
ODD: dict[str, Any] = {
    "schema": ["x", None, True, 2, 10**30],
    "probe": [None, 3, ["p"]],
    "value": ["x", True, [1.0], {}, 10**400, float("inf")],
    "converged": [1, "yes"],
    "num_hvps": [1.0, None, False, 2**63],
    "knobs": [None, [], "k"],
    "batch_sizes": [3, "3", [1.0], [True], {"3": 1}],
    "versions": [{"torch": 2}, [], None],
    "reasons": [{"value": None}, "none"],
    "details": [None, 1],
    "seconds": ["x", [[]]],
}


@pytest.mark.parametrize("name", ODD)
def test_a_record_of_odd_types_is_refused_with_its_line(name: str, tmp_path: Path) -> None:
    path, folder = tmp_path / "probes.jsonl", RecordFolder(tmp_path)
    for odd in ODD[name]:
        path.write_text(json.dumps(RECORD) + "\n" + json.dumps({**RECORD, name: odd}) + "\n")
        for read in (folder.records, folder.index.refresh):
            with pytest.raises(InputError, match=r"probes.jsonl:2: expected") as caught:
                read()
            assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_every_field_of_a_record_may_be_read_back() -> None:
    assert ProbeRecord.from_dict(RECORD).to_dict() == RECORD
    assert ProbeRecord.from_dict({"probe": "p", "quantity": "q", "value": 1}).value == 1
    assert ProbeRecord.from_dict(RECORD | {"of another version": [1]}).value == 1


def test_lines_without_an_end_and_nested_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    for text in (
        '{"a":' * 3000 + "1" + "}" * 3000,
        '{"a": ' + "[" * 101 + "]" * 101 + "}",
        '{"a": NaN}',
        "[1]",
        "1" * 5000,
    ):
        path.write_text(text + "\n")
        with pytest.raises(InputError, match=r"rows.jsonl:1: expected one JSON object"):
            read_jsonl(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    monkeypatch.setattr(files, "MAX_LINE", 1 << 16)
    with pytest.raises(InputError, match="lines of at most 65536 bytes"):
        read_jsonl(path)


def test_an_index_finds_what_a_walk_through_all_records_finds(tmp_path: Path) -> None:
    folder, others = RecordFolder(tmp_path), RecordFolder(tmp_path)
    assert find_record(folder, WANTED) is None
    for number in range(20):
        knobs = {"k": number % 3, "seconds": float(number), "rtol": [0.1, 1.0][number % 2]}
        cut = {"stopped_by": "seconds" if number % 5 == 0 else "k"}
        sha = "ab"[number % 2] * 64
        writer = (folder, others)[number % 2]  # what another process appends is found too
        record = replace(ProbeRecord.from_dict(RECORD), knobs=knobs, details=cut, value=float(number))
        writer.append_record(replace(record, data_sha256=sha))
        for k, rtol, sha in itertools.product(range(3), (0.1, 1), ("a" * 64, "b" * 64)):
            wanted = WANTED | {"knobs": {"k": k, "rtol": rtol}, "data_sha256": sha}
            fits = [
                record
                for record in folder.records()
                if record.knobs["k"] == k
                and record.knobs["rtol"] == rtol
                and record.data_sha256 == sha
                and record.details["stopped_by"] == "k"
            ]
            assert find_record(folder, wanted) == (fits[-1] if fits else None)
    (tmp_path / "probes.jsonl").write_text("")
    assert find_record(folder, WANTED) is None and not folder.records()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="disk full"):
                write_atomically(path, b"new")
        assert path.read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir()] == ["file"]
