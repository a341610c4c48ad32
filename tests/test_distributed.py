"""Two processes with a shard of the data each give the records of one process with all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sharpness.probes import PROBES
from tests.conftest import run_python
from tests.oracles import assert_alike
from tests.sharded_probes import ONE_PROCESS

pytestmark = pytest.mark.dear


def records(name: str, folder: Path, *launcher: str, processes: int = 1) -> dict[str, Any]:
    result = run_python("-m", *launcher, "tests.sharded_probes", name, str(folder), processes=processes)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.strip().splitlines()[-1])


def assert_together_as_alone(alone: dict[str, Any], together: dict[str, Any]) -> None:
    assert alone.keys() == together.keys() > PROBES.keys() - ONE_PROCESS
    assert alone["failed"] and alone["fallback"] == {"backend": "finite_difference"}
    assert_alike(alone, together, rtol=1e-6)


def test_every_probe_gives_the_same_record_on_two_processes(tmp_path: Path) -> None:
    together = records("uneven", tmp_path / "two", processes=2)
    assert_together_as_alone(records("uneven", tmp_path / "one"), together)


@pytest.mark.slow
def test_every_probe_gives_the_same_record_under_torchrun_with_an_empty_shard(tmp_path: Path) -> None:
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--module")
    together = records("one empty", tmp_path / "two", *torchrun)
    assert_together_as_alone(records("one empty", tmp_path / "one"), together)
