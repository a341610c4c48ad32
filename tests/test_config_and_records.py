"""Configs and records on disk: what is read is what was written, and what is wrong is named."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from sharpness.config import RunConfig, TrainingConfig, differences, from_toml, to_toml
from sharpness.errors import InputError
from sharpness.files import append_jsonl, read_jsonl, write_atomically
from sharpness.records import ProbeRecord
from sharpness.training import check_config


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
    ],
)
def test_a_wrong_toml_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        from_toml(written(tmp_path, text))
    assert "\n" not in str(caught.value)


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
    ],
)
def test_a_config_that_cannot_be_trained_is_refused_before_any_work(
    section: str, changes: dict[str, object], message: str
) -> None:
    config = RunConfig()
    with pytest.raises(InputError, match=message):
        check_config(replace(config, **{section: replace(getattr(config, section), **changes)}))


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
