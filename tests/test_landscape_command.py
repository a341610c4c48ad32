"""``sharpness landscape`` from the command line: figures, parts, kills, and bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sharpness.cli.landscape import part_of, run_landscape
from sharpness.cli.options import Landscape
from sharpness.errors import InputError
from sharpness.files import read_jsonl
from tests.conftest import PATIENCE, ROOT
from tests.given_cases import images, mlp, seeded
from tests.test_commands import assert_refused, sharpness
from tests.test_given import as_request

pytestmark = pytest.mark.dear


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Write three checkpoints of the small network and return the options of its data."""
    data, *_ = images(tmp_path, 1, 8)
    for number in range(3):
        first = seeded(mlp).state_dict()
        state = {name: (1 + 0.3 * number) * tensor + 0.1 * number**2 for name, tensor in first.items()}
        torch.save(state, tmp_path / f"{number}.pt")
    return ["--model", "tests.given_cases:mlp", "--data", data, "--batch-size", "3"]


def run(
    tmp_path: Path, files: list[str], name: str, count: int, out: str = "out", drawn: bool = True, **changes: object
) -> list[dict]:
    """Measure a landscape in this process and return the records of the folder."""
    request, _ = as_request(["", *files])
    checkpoints = tuple(tmp_path / f"{number}.pt" for number in range(count))
    knobs = changes.pop("knobs", {"num_points": 4})
    command = Landscape(name=name, checkpoints=checkpoints, out=tmp_path / out, **vars(request) | changes)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        if not drawn:
            patch.setattr("sharpness.cli.landscape.draw", lambda *_: None)
        run_landscape(command, {name: knobs})  # type: ignore[dict-item]
    return read_jsonl(tmp_path / out / "probes.jsonl")


def test_a_plane_from_the_command_line_has_record_table_and_figure(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three = [str(tmp_path / f"{number}.pt") for number in range(3)]
    arguments = ["landscape", "three_point_plane", *three, *files, "--out", str(tmp_path / "out")]
    result = sharpness(*arguments, "--three_point_plane.num_points", "3")
    assert result.returncode == 0, result.stderr
    (record,) = read_jsonl(tmp_path / "out" / "probes.jsonl")
    assert [mark["name"] for mark in record["details"]["marks"]] == ["0.pt", "1.pt", "2.pt"]
    assert len(record["details"]["others"]) == 2 and record["details"]["others"][1]["other_checkpoint"] == three[2]
    assert "largest_rise" in result.stdout and (tmp_path / "out" / "three_point_plane.pdf").stat().st_size > 1000
    assert run(tmp_path, files, "three_point_plane", 3, drawn=False, knobs={"num_points": 3}) == [record]
    assert "in probes.jsonl already" in capsys.readouterr().out


def test_parts_are_put_together_by_the_one_that_comes_last(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (whole,) = run(tmp_path, files, "random_plane", 1, out="whole", drawn=False)
    assert run(tmp_path, files, "random_plane", 1, part="2/2") == []
    assert "run the other parts" in capsys.readouterr().out
    (record,) = run(tmp_path, files, "random_plane", 1, part="1/2")
    assert record["details"]["train_loss"] == whole["details"]["train_loss"]
    assert not (tmp_path / "out" / ".products").exists()


def test_another_checkpoint_or_knob_is_another_landscape(files: list[str], tmp_path: Path) -> None:
    for number, (name, count, knobs) in enumerate(
        [
            ("rays", 1, {"num_points": 2}),
            ("rays", 1, {"num_points": 3}),
            ("interpolation", 2, {"num_points": 4}),
            ("trajectory_plane", 3, {"num_points": 2}),
        ],
        1,
    ):
        for again in (False, True):
            assert len(run(tmp_path, files, name, count, drawn=not again, knobs=knobs)) == number


@pytest.mark.slow
def test_a_killed_grid_goes_on_and_ends_with_the_same_numbers(files: list[str], tmp_path: Path) -> None:
    arguments = ["landscape", "random_plane", str(tmp_path / "0.pt"), *files, "--random_plane.num_points", "40"]
    code = "from sharpness.cli import main; main()"
    cells = tmp_path / "out" / ".products"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments, "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if any(path.stat().st_size > 5000 for path in cells.glob("*/cells-*.jsonl")):
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    (kept,) = cells.glob("*/cells-*.jsonl")
    done = kept.read_bytes().count(b"\n")
    assert 0 < done < 1601
    knobs = {"num_points": 40}
    (record,) = run(tmp_path, files, "random_plane", 1, knobs=knobs)
    (whole,) = run(tmp_path, files, "random_plane", 1, knobs=knobs, out="whole")
    assert record["details"]["train_loss"] == whole["details"]["train_loss"] and not cells.exists()


def test_time_that_is_short_keeps_the_points(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cells() -> list[Path]:
        return list((tmp_path / "out" / ".products").glob("*/cells-*.jsonl"))

    with monkeypatch.context() as patch:  # a clock by which the time is over as soon as a point is kept
        patch.setattr(time, "perf_counter", lambda: 1e9 if cells() else 0.0)
        assert run(tmp_path, files, "random_plane", 1, seconds=1.0) == []
    assert "what is done is kept" in capsys.readouterr().err
    (kept,) = cells()
    assert 0 < kept.read_bytes().count(b"\n") < 25
    assert len(run(tmp_path, files, "random_plane", 1, drawn=False)) == 1


def test_json_prints_the_record_alone(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, files, "rays", 1, json=True)
    assert json.loads(capsys.readouterr().out)["probe"] == "rays"


@pytest.mark.parametrize(
    ("name", "count", "changes", "words"),
    [
        ("plane", 1, {}, "unknown landscape"),
        ("random_plane", 0, {}, "expected 1 checkpoints"),
        ("random_plane", 2, {}, "expected 1 checkpoints"),
        ("interpolation", 1, {}, "expected 2 checkpoints"),
        ("trajectory_plane", 2, {}, "at least two more"),
        ("random_plane", 1, {"part": "3/2"}, "I/N"),
        ("random_plane", 1, {"part": "half"}, "I/N"),
        ("rays", 1, {"html": True}, "a plane with --html"),
        ("random_plane", 1, {"knobs": {"points": 3}}, "points"),
        ("random_plane", 1, {"knobs": {"num_points": 1}}, "at least 2"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    name: str, count: int, changes: dict[str, object], words: str, files: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        run(tmp_path, files, name, count, **changes)  # type: ignore[arg-type]
    assert not (tmp_path / "out" / "probes.jsonl").exists()


def test_checkpoints_of_other_shapes_are_refused_with_a_table(files: list[str], tmp_path: Path) -> None:
    torch.save({name: tensor[:3] for name, tensor in seeded(mlp).state_dict().items()}, tmp_path / "other.pt")
    pair = [str(tmp_path / "0.pt"), str(tmp_path / "other.pt")]
    result = sharpness("landscape", "interpolation", *pair, *files, "--out", str(tmp_path / "out"))
    assert result.returncode == 2 and "(3, 64)" in result.stderr and "error: " in result.stderr
    result = sharpness("landscapes", "planes")
    assert_refused(result, "unknown landscape", "random_plane")


def test_a_part_is_a_share_of_all() -> None:
    assert [part_of(text) for text in ("1/1", "2/4", "4/4")] == [(0, 1), (1, 4), (3, 4)]
