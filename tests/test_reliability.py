"""Nothing is lost: stops, kills, failing writes, full disks, damaged files, two commands at once, changed configs."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import time
import unittest
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sharpness.cli import run_command
from sharpness.config import RunConfig, to_toml
from sharpness.errors import InputError, RunError, Terminated
from sharpness.files import append_jsonl, read_jsonl, write_atomically
from sharpness.models import MODELS, ModelInfo
from sharpness.runs import RunFolder
from sharpness.training import loop
from sharpness.training.position import Position
from sharpness.training.session import Session
from sharpness.training.tracker import clock
from tests.conftest import run_python
from tests.reliability_cases import CONFIG, CPU, UPDATES, examples, outcome, small, trained

pytestmark = pytest.mark.dear
SLOW = pytest.mark.slow


@pytest.fixture(autouse=True)
def _network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "small", ModelInfo("for tests", small))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The folder that the run leaves when nothing happens to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "small", ModelInfo("for tests", small))
        return outcome(trained(tmp_path_factory.mktemp("whole") / "run"))


def terminated(folder: Path, update: int, config: RunConfig = CONFIG) -> RunFolder:
    """Train, or go on, and send this process a SIGTERM while it makes an update."""
    real, numbers = loop.one_update, itertools.count(1)

    def terminating(*arguments: Any) -> Any:
        if next(numbers) == update:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "one_update", terminating)
        patch.setattr(loop, "RESUME_SECONDS", math.inf)
        with pytest.raises(Terminated, match="143"):
            trained(folder, config)
    return RunFolder.open(folder)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run stopped after update 6 and again after update 7, both inside the second epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "small", ModelInfo("for tests", small))
        folder = tmp_path_factory.mktemp("stopped") / "run"
        terminated(folder, 6)
        return terminated(folder, 1)


def copied(run: RunFolder, to: Path) -> RunFolder:
    shutil.copytree(run.path, to)
    return RunFolder(to)


def update_of(run: RunFolder) -> int | None:
    state = run.load_resume_state()
    return None if state is None else state["at"]["update"]


# The first and the last update, the last one of an epoch and one inside the second; the test below has all in a row.
STOPS = [each if each in (1, 5, 7, UPDATES - 1) else pytest.param(each, marks=SLOW) for each in range(1, UPDATES)]


@pytest.mark.parametrize("update", STOPS)
def test_stopped_after_any_update_and_continued_equals_never_stopped(
    tmp_path: Path, whole: dict[str, Any], update: int
) -> None:
    run = terminated(tmp_path / "run", update)
    assert update_of(run) == update  # saved within the step, not at the next
    assert outcome(trained(run.path)) == whole
    assert [row["step"] for row in run.log()] == [0, 5, 8, 11]


def test_stopped_after_every_update_equals_never_stopped(tmp_path: Path, whole: dict[str, Any]) -> None:
    for _ in range(1, UPDATES):
        terminated(tmp_path / "run", 1)
    assert outcome(trained(tmp_path / "run")) == whole


@pytest.mark.parametrize(
    ("optimizer", "stops"),
    [
        ("momentum", ()),
        ("momentum", (6, 1, 2)),
        ("adamw", (3,)),
        pytest.param("momentum", (3,), marks=SLOW),
        pytest.param("adamw", (), marks=SLOW),
        pytest.param("adamw", (6, 1, 2), marks=SLOW),
    ],
)
def test_a_tracked_run_has_the_bits_of_one_without_a_tracker_whenever_it_is_stopped(
    tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, optimizer: str, stops: tuple[int, ...]
) -> None:
    monkeypatch.setattr(clock, "WARM_UP", 1)
    monkeypatch.setattr(clock.Clock, "affords", lambda self, _: self.trained > 0)  # from the third update on
    config = replace(CONFIG, training=replace(CONFIG.training, optimizer=optimizer))
    tracked = replace(config, measure=replace(config.measure, overhead=0.05))
    alone = whole if config == CONFIG else outcome(trained(tmp_path / "alone", config))
    for update in stops:
        terminated(tmp_path / "run", update, tracked)
    run = trained(tmp_path / "run", tracked)
    rows = [row for row in run.measures() if "overhead" in row]
    assert outcome(run) | {"measures": [row for row in outcome(run)["measures"] if "overhead" not in row]} == alone
    updates = [*stops, UPDATES - sum(stops)]
    assert len({row["step"] for row in rows}) == len(rows) == sum(max(0, each - 2) for each in updates)
    assert all(0 < row["epoch"] <= 3 and row["seconds"] > 0 for row in rows)
    assert tracked.run_id != config.run_id


@pytest.mark.parametrize("piece", [None, "model", "optimizer", "average", "measures", "sums", "at"])
def test_a_state_without_one_of_its_pieces_is_noticed(
    tmp_path: Path, whole: dict[str, Any], stopped: RunFolder, piece: str | None
) -> None:
    # The control of the tests above: what they compare depends on every piece of the state.
    fresh = RunFolder.create(tmp_path / "fresh", CONFIG)
    Session.open(CONFIG, examples(CONFIG), fresh, CPU).save(Position())
    run = copied(stopped, tmp_path / "run")
    state, other = run.load_resume_state(), fresh.load_resume_state()
    assert state is not None and other is not None and state.keys() == other.keys()
    run.save_resume_state(state if piece is None else state | {piece: other[piece]})
    assert (outcome(trained(run.path)) == whole) == (piece is None)


def test_a_state_of_an_older_version_is_gone_on_from(tmp_path: Path, whole: dict[str, Any], stopped: RunFolder) -> None:
    run = copied(stopped, tmp_path / "run")
    state = run.load_resume_state()
    assert state is not None
    # Fields that are gone, and the one average without its name.
    run.save_resume_state(
        state | {"at": state["at"] | {"slot": 0, "slots": 1}, "average": state["average"][CONFIG.average.kind]}
    )
    config = (run.path / "config.toml").read_text()
    (run.path / "config.toml").write_text(config.replace("[schedule]", "vectorised = false\n\n[schedule]"))
    assert outcome(trained(run.path)) == whole


def test_the_distance_after_a_stop_is_that_from_the_start_on_disk(
    tmp_path: Path, whole: dict[str, Any], stopped: RunFolder
) -> None:
    run = copied(stopped, tmp_path / "run")
    start = {name: torch.zeros_like(value) for name, value in run.load_weights("x0").items()}
    run.save_weights("x0", start, {"step": 0, "epoch": 0})
    end = trained(run.path)
    final = f"{end.final_checkpoint()}.safetensors"
    assert outcome(end)["weights"][final] == whole["weights"][final]
    last = end.measures()[-1]["distance_from_start"]
    weights = end.load_weights(end.final_checkpoint())
    parameters = [weights[name].flatten() for name, _ in small((1, 28, 28), 10, "running").named_parameters()]
    assert last == pytest.approx(float(torch.cat(parameters).norm()), rel=1e-6)


def test_draws_that_do_not_depend_on_the_update_alone_are_noticed(
    tmp_path: Path, whole: dict[str, Any], stopped: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The control for random numbers: dropout after a resume from another stream than that of its update.
    real = loop.derived_seed
    monkeypatch.setattr(loop, "derived_seed", lambda seed, *parts: real(seed + 1, *parts))
    assert outcome(trained(copied(stopped, tmp_path / "run").path)) != whole


@pytest.mark.parametrize(
    ("name", "kills", "epochs", "updates"),
    [
        ("images", 5, 5, [0, *range(5, 3 * 5 + 3, 3)]),
        ("text", 3, 8, [0, *range(3, 3 * 8 + 1, 3)]),
        pytest.param("text", 5, 20, [0, *range(3, 3 * 20 + 1, 3)], marks=pytest.mark.slow),
        pytest.param("images", 100, 100, [0, *range(5, 3 * 100 + 3, 3)], marks=pytest.mark.slow),
    ],
    ids=["5", "text", "text 5", "100"],
)
def test_killed_at_random_points_it_ends_with_the_same_bits(
    tmp_path: Path, name: str, kills: int, epochs: int, updates: list[int]
) -> None:
    result = run_python("-m", "tests.reliability_cases", str(tmp_path), str(epochs), str(kills), name)
    assert result.returncode == 0, result.stderr
    count, update = map(int, result.stdout.split())
    assert count == kills and update > 1
    ends = [outcome(RunFolder.open(tmp_path / name)) for name in ("whole", "killed")]
    assert ends[0] == ends[1] and ends[0]["status"] == "finished"
    assert [row["step"] for row in ends[1]["log"]] == updates


class Faults:
    """The n-th write, fsync or replace fails, and with ``for_ever`` all after it."""

    def __init__(self, at: int, for_ever: bool, number: int = errno.EIO) -> None:
        self.at, self.for_ever, self.number, self.calls = at, for_ever, number, 0

    def around(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls += 1
            if self.calls == self.at or (self.for_ever and self.calls > self.at):
                raise OSError(self.number, os.strerror(self.number))
            return real(*arguments)

        return call

    def hit(self, work: Callable[[], object]) -> bool:
        """Do the work with the fault; say whether it came so far. It must not go unnoticed."""
        raised: Exception | None = None
        with pytest.MonkeyPatch.context() as patch:
            for name in ("write", "fsync", "replace"):
                patch.setattr(os, name, self.around(getattr(os, name)))
            try:
                work()
            except (OSError, RunError) as error:
                raised = error
        assert (raised is not None) == (self.calls >= self.at)
        assert raised is None or ("bytes free" in str(raised)) == (self.number == errno.ENOSPC)
        return raised is not None


@pytest.mark.parametrize("for_ever", [False, True])
def test_any_fault_while_the_state_is_saved_leaves_the_old_or_the_new(
    tmp_path: Path, stopped: RunFolder, for_ever: bool
) -> None:
    new = stopped.load_resume_state()
    assert new is not None
    new["at"]["update"] = 8
    found = []
    for n in itertools.count(1):
        run = copied(stopped, tmp_path / str(n))
        hit = Faults(n, for_ever).hit(lambda run=run: run.save_resume_state(new))
        found.append(update_of(run))
        assert not list(run.path.glob(".*.tmp"))
        if not hit:
            break
    # Two writes, of the state and of its hash, fsync, two replaces, fsync of the folder: after the last replace it is
    # the new one.
    assert found == [7, 7, 7, 7, 7, 8, 8]


def test_what_a_file_holds_is_on_the_disk_before_its_name_is(
    tmp_path: Path, stopped: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = copied(stopped, tmp_path / "run"), []
    state = run.load_resume_state()
    assert state is not None
    for name in ("write", "fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, real=real, name=name: (calls.append(name), real(*given))[1])
    run.save_resume_state(state)
    assert calls == ["write", "write", "fsync", "replace", "replace", "fsync"]  # the last one is that of the folder


def faults_in_a_whole_run(tmp_path: Path, whole: dict[str, Any], numbers: Iterator[int], for_ever: bool) -> int:
    """Break a run at the n-th operation, let it go on, compare; return the first n that there is not."""
    for n in numbers:
        folder = tmp_path / str(n)
        fault = Faults(n, for_ever, errno.ENOSPC if n % 2 else errno.EIO)
        hit = fault.hit(lambda folder=folder: trained(folder))
        run = RunFolder(folder)
        assert (
            run.manifest() is not None or (update_of(run) or 0) < UPDATES
        )  # whole, or a state that loads, or none yet
        assert outcome(trained(folder)) == whole, n
        if not hit:
            return n
    return 0


def test_faults_here_and_there_in_a_run_lose_nothing(
    tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "RESUME_SECONDS", 0.0)
    faults_in_a_whole_run(tmp_path, whole, iter((1, 24, 60)), for_ever=False)


@pytest.mark.slow
@pytest.mark.parametrize("for_ever", [False, True])
def test_no_fault_anywhere_in_a_run_loses_anything(
    tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, for_ever: bool
) -> None:
    monkeypatch.setattr(loop, "RESUME_SECONDS", 0.0)
    assert faults_in_a_whole_run(tmp_path, whole, itertools.count(1), for_ever) > 100


def test_sigterm_and_a_full_disk_leave_with_one_line_and_their_codes(
    tmp_path: Path, stopped: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends(work: Callable[[], object]) -> tuple[object, str]:
        with pytest.raises(SystemExit) as end:
            run_command(lambda: (work(), None)[1])
        (line,) = capsys.readouterr().err.splitlines()
        return end.value.code, line

    def work() -> None:
        raise Terminated("run: stopped after update 7; the same command goes on there")

    assert ends(work) == (143, "error: run: stopped after update 7; the same command goes on there")
    run = copied(stopped, tmp_path / "run")

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    code, line = ends(lambda: trained(run.path))
    assert code == 1 and "bytes free" in line and str(run.path) in line


@pytest.mark.parametrize("room", [0, 1, 700, 1999])
def test_a_full_disk_is_named_with_the_bytes_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    path, rows, real, left = tmp_path / "file", tmp_path / "rows.jsonl", os.write, [room]
    write_atomically(path, b"old")
    append_jsonl(rows, {"row": 1})
    before = rows.read_bytes()

    def write(descriptor: int, content: Any) -> int:
        """Take what there is room for, as a disk does."""
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = real(descriptor, content[: left[0]])
        left[0] -= taken
        return taken

    monkeypatch.setattr(os, "write", write)
    said = rf"^expected 2000 bytes free for {path}, got \d+ \(No space left on device\): make room"
    with pytest.raises(RunError, match=said):
        write_atomically(path, bytes(2000))
    left[0] = room
    with pytest.raises(RunError, match=rf"^expected \d+ bytes free for {rows}, got \d+ \(No"):
        append_jsonl(rows, {"row": "x" * 2000})
    assert path.read_bytes() == b"old" and rows.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "rows.jsonl"]


def test_writes_of_which_only_a_part_is_taken_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, sizes = os.write, []

    def write(descriptor: int, content: Any) -> int:
        sizes.append(len(content))
        return real(descriptor, content[:7])

    append_jsonl(tmp_path / "rows.jsonl", {"row": 1})
    monkeypatch.setattr(os, "write", write)
    append_jsonl(tmp_path / "rows.jsonl", {"row": 2})
    write_atomically(tmp_path / "file", bytes(range(20)))
    assert read_jsonl(tmp_path / "rows.jsonl") == [{"row": 1}, {"row": 2}]
    assert (tmp_path / "file").read_bytes() == bytes(range(20))
    assert sizes == [11, 4, 20, 13, 6]  # a line is offered whole


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk takes root; the tests above have one that only says that it is full")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_on_a_full_disk_the_state_stays_and_the_run_goes_on_when_there_is_room(
    small_disk: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "RESUME_SECONDS", 0.0)
    with pytest.raises(RunError, match=r"bytes free for .*, got \d+ \(No space left on device\)"):
        trained(small_disk / "run")
    run = RunFolder.open(small_disk / "run")
    assert not list(run.path.glob(".*.tmp"))
    stood = update_of(run)
    assert stood is not None and 1 <= stood < UPDATES
    with pytest.raises(RunError, match="bytes free"):
        trained(run.path)  # the same again, and nothing is worse for it
    assert (update_of(run) or 0) >= stood
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert outcome(trained(run.path)) == whole


def test_a_second_process_leaves_at_once_and_names_the_first(tmp_path: Path, whole: dict[str, Any]) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    config = replace(CONFIG, training=replace(CONFIG.training, epochs=10_000))
    first = RunFolder.create(tmp_path / "first", config)
    with ThreadPoolExecutor(1) as beside:
        process = beside.submit(run_python, "-m", "tests.reliability_cases", str(first.path), "10000", "0")
        while not (first.path / "resume.pt").exists():
            assert not process.done(), process.result().stderr
            time.sleep(0.02)
        pid = json.loads((first.path / ".lock-holder").read_text())["pid"]
        try:
            name = rf"another process \({pid} on {platform.node()}, since 20\d\d-.*\) is working on {first.path}"
            with pytest.raises(RunError, match=name):
                trained(first.path, config)
            assert outcome(trained(run.path)) == whole  # another run does not mind
        finally:
            os.kill(pid, signal.SIGTERM)
        ended = process.result()
    assert ended.returncode == 143 and ended.stderr.startswith(f"error: {first.path}: stopped after")
    assert (update_of(first) or 0) >= 1


def test_the_lock_of_a_process_that_is_gone_is_taken_over(
    tmp_path: Path, stopped: RunFolder, whole: dict[str, Any]
) -> None:
    # The system frees a lock with its process, so nothing has to be judged by the number it left behind.
    run = copied(stopped, tmp_path / "run")
    if not (child := os.fork()):
        with run.lock():
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert json.loads((run.path / ".lock-holder").read_text())["pid"] == child
    assert outcome(trained(run.path)) == whole
    assert not (run.path / ".lock-holder").exists()


def test_two_commands_that_begin_at_once_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpness.runs.folder.LOCK_SECONDS", 0.1)
    first = RunFolder(tmp_path)
    with first.lock(), pytest.raises(RunError, match=f"another process \\({os.getpid()} on "):
        RunFolder.create(tmp_path, CONFIG)  # the other has found no config either, and is about to write its own
    assert RunFolder.create(tmp_path, CONFIG).config() == CONFIG


def flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:at] + bytes([content[at] ^ 1]) + content[at:][1:]


LOGS = unittest.TestCase()
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    **{
        f"cut to {share}": lambda content, share=share: content[: int(share * len(content))] for share in (0, 0.05, 0.5)
    },
    "cut by one byte": lambda content: content[:-1],
    "one byte more": lambda content: content + b"\n",
    "another file": lambda content: b"<html>" + content[6:],
    **{f"bit flipped at {at}": flipped(at) for at in (0, 1000, 40_000, -1000, -40, -1)},
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_state_is_found_and_the_one_before_it_used_and_named(
    tmp_path: Path, stopped: RunFolder, damage: Callable[[bytes], bytes]
) -> None:
    run = copied(stopped, tmp_path / "run")
    newest, previous = run.path / "resume.pt", run.path / "resume-previous.pt"
    newest.write_bytes(damage(newest.read_bytes()))
    with LOGS.assertLogs("sharpness.runs.folder") as logged:
        assert update_of(run) == 6
    (record,) = logged.records
    message = record.getMessage()
    assert message.startswith(f"{newest} is damaged (") and message.endswith(f"the state before it, {previous}")
    with LOGS.assertNoLogs("sharpness.runs.folder"):
        assert update_of(run) == 6  # it has taken the place of the damaged one
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.raises(RunError, match=r"resume\.pt is damaged .*: delete the file, and training starts again"):
        run.load_resume_state()


def test_after_damage_the_run_ends_with_the_same_bits(
    tmp_path: Path, stopped: RunFolder, whole: dict[str, Any]
) -> None:
    run = copied(stopped, tmp_path / "run")
    (run.path / "resume.pt").write_bytes(b"")
    assert outcome(trained(run.path)) == whole
    run = copied(stopped, tmp_path / "between")  # a kill between the two moves of a save
    os.replace(run.path / "resume.pt", run.path / "resume-previous.pt")
    assert outcome(trained(run.path)) == whole


def test_a_config_changed_under_an_unfinished_run_is_refused(tmp_path: Path, stopped: RunFolder) -> None:
    run = copied(stopped, tmp_path / "run")
    other = replace(CONFIG, training=replace(CONFIG.training, weight_decay=0.0))
    with pytest.raises(InputError, match=r"training\.weight_decay: 0\.001 != 0\.0"):
        RunFolder.create(run.path, other)
    (run.path / "config.toml").write_text(to_toml(other))
    with pytest.raises(InputError, match=r"changed under an unfinished run \(training\.weight_decay: 0\.001 != 0\.0\)"):
        trained(run.path, other)


def test_a_log_that_lost_rows_is_refused(tmp_path: Path, stopped: RunFolder) -> None:
    run = copied(stopped, tmp_path / "run")
    (run.path / "train.jsonl").write_text(json.dumps(run.log()[0]) + "\n")
    with pytest.raises(RunError, match=r"expected at least 2 rows in .*train\.jsonl, got 1"):
        trained(run.path)
