"""The hashes of a tree of runs and figures leave out what differs between two runs of one program, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sharpness.errors import InputError
from tests.study_cases import script

fingerprint = script("runner.fingerprint")


def tree(folder: Path, *rows: dict[str, object], csv: str = "a\n1\n") -> dict[str, str]:
    folder.mkdir()
    (folder / "probes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "table.csv").write_text(csv)
    (folder / "resume.pt").write_bytes(b"not hashed")
    return fingerprint.fingerprints(folder)


def test_times_and_the_order_of_records_leave_the_hashes_alone_and_values_do_not(tmp_path: Path) -> None:
    first = tree(
        tmp_path / "a", {"value": 1.0, "seconds": 2.0}, {"value": 3.0, "details": {"versions": {"torch": "2"}}}
    )
    again = tree(tmp_path / "b", {"value": 3.0, "details": {"versions": {}}}, {"value": 1.0, "seconds": 9.0})
    other = tree(tmp_path / "c", {"value": 1.0}, {"value": 3.5, "details": {}}, csv="a\n2\n")
    assert first == again and set(first) == {"probes.jsonl", "table.csv"}
    assert [name for name in first if first[name] != other[name]] == ["probes.jsonl", "table.csv"]


def test_a_folder_without_any_of_them_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected runs or figures below"):
        fingerprint.fingerprints(tmp_path)
