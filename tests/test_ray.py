"""The same grid on Ray: lost workers and a lost driver lose nothing, and errors are one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from sharpness.cli import ray_workers
from sharpness.errors import InputError
from sharpness.runs import RunFolder
from tests.conftest import PATIENCE, ROOT, SHIM
from tests.reliability_cases import outcome
from tests.study_cases import do, run_smoke
from tests.test_commands import assert_refused

STUDY = "izmailov2018"


def with_ray() -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    if not Path("/proc").is_dir():
        pytest.skip("workers are found through /proc")


def begun(*arguments: str) -> subprocess.Popen[str]:
    """Begin a program of this environment."""
    variables = os.environ | {"SHARPNESS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SHIM)}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=variables, stdout=pipe, stderr=pipe, text=True)


def until(process: subprocess.Popen[str], found: Callable[[], Any]) -> Any:
    """Wait until something is found while a program runs."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        if result := found():
            return result
        time.sleep(0.02)
    output, errors = process.communicate(timeout=PATIENCE)
    raise AssertionError(f"not found; the program said {output} {errors}")


def ended(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    return output


@pytest.mark.slow
def test_a_worker_killed_mid_run_goes_on_from_its_folder(tmp_path: Path) -> None:
    with_ray()
    from tests import ray_cases

    do(ray_cases.jobs(tmp_path / "here"))
    process = begun("-m", "tests.ray_cases", str(tmp_path / "ray"))
    state = until(process, lambda: list((tmp_path / "ray").glob("*/resume.pt")))[0]
    killed = until(process, lambda: ray_cases.workers_of(process.pid))
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    at = RunFolder(state.parent).load_resume_state()
    assert at is not None and at["at"]["update"] > 0
    output = ended(process)
    assert output.count("...") == output.count("done in") == 2  # begun and ended, each said once
    for cell in ray_cases.CELLS:
        runs = [RunFolder.open(tmp_path / where / cell.config.run_id) for where in ("here", "ray")]
        assert outcome(runs[0]) == outcome(runs[1])


@pytest.mark.slow
@pytest.mark.study
def test_with_workers_and_drivers_killed_the_tables_are_those_of_the_processes(tmp_path: Path) -> None:
    with_ray()
    from tests import ray_cases

    two = ("--seeds", "2")  # one alone leaves a worker without a task
    assert run_smoke(STUDY, tmp_path / "processes", "--workers", "2", *two).returncode == 0
    folder = tmp_path / "ray"
    paths = ["--runs", str(folder / "runs"), "--figures", str(folder / "figures")]
    command = [f"scripts/{STUDY}.py", "--preset", "smoke", *two, *paths, "--ray", "local", "--workers", "2"]
    driver = begun(*command)
    until(driver, lambda: ray_cases.workers_of(driver.pid))
    driver.kill()
    driver.communicate(timeout=PATIENCE)
    process, killed = begun(*command), set[int]()
    for _ in range(3):
        pid = until(process, lambda: [p for p in ray_cases.workers_of(process.pid) if p not in killed])[0]
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    assert "4 of 4" in ended(process)
    ours, theirs = (sorted((tmp_path / w / "figures" / "smoke-2-seeds").glob("*.csv")) for w in ("ray", "processes"))
    assert [path.name for path in ours] == [path.name for path in theirs] and len(ours) > 3
    for one, other in zip(ours, theirs, strict=True):
        pd.testing.assert_frame_equal(_without_times(one), _without_times(other))


def _without_times(table: Path) -> pd.DataFrame:
    frame = pd.read_csv(table)
    return frame.drop(columns=[name for name in frame.columns if "seconds" in name])


@pytest.mark.slow
@pytest.mark.study
def test_errors_are_one_line(tmp_path: Path) -> None:
    with_ray()
    cache = {"SHARPNESS_CACHE": str(tmp_path / "cache")}
    missing = run_smoke("keskar2017", tmp_path, "--preset", "paper", "--ray", "local", environment=cache)
    assert_refused(missing, "four places", "--data-dir")
    nowhere = run_smoke(STUDY, tmp_path, "--ray", "127.0.0.1:1")
    assert_refused(nowhere, "--ray", "127.0.0.1:1", "ray start --head")
    assert_refused(run_smoke(STUDY, tmp_path, "--ray", "local", "--device", "cuda"), "with a GPU")
    assert_refused(run_smoke(STUDY, tmp_path, "--ray", "local", "--device", "mps"), "cpu or cuda")
    assert not list((tmp_path / "runs").glob("[!.]*"))


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"sharpness\[ray\]"):
        ray_workers.RayWorkers("local", None, "cpu", tmp_path, Console())
    with pytest.raises(InputError, match="1 worker"):
        ray_workers.RayWorkers("local", 0, "cpu", tmp_path, Console())


@pytest.mark.parametrize(
    ("nodes", "num_workers", "gpu", "expected"),
    [
        ([{"CPU": 2.0}], None, False, {"num_cpus": 1}),
        ([{"CPU": 2.0}], 1, False, {"num_cpus": 2}),
        ([{"CPU": 8.0}, {"CPU": 4.0}], 2, False, {"num_cpus": 4}),
        ([{"CPU": 8.0}, {"CPU": 8.0}], 3, False, {"num_cpus": 4}),  # with 5 two would fit
        ([{"CPU": 8.0}, {"CPU": 1.0}], 2, False, {"num_cpus": 4}),
        ([], 2, False, {"num_cpus": 1}),
        ([{"CPU": 2.0}], 8, False, {"num_cpus": 1}),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 64.0}], None, True, {"num_cpus": 4, "num_gpus": 1}),
        ([{"CPU": 2.0, "GPU": 4.0}], None, True, {"num_cpus": 1, "num_gpus": 1}),  # too few CPUs: two runs at once
    ],
)
def test_every_run_gets_its_share(nodes: Any, num_workers: int | None, gpu: bool, expected: dict[str, int]) -> None:
    assert ray_workers.share(nodes, num_workers, gpu) == expected
