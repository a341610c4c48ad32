"""Two processes with a shard of the data each give the records of one process with all of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from sharpness.probes import PROBES
from tests.conftest import ROOT
from tests.sharded_probes import SHARDS

# What differs between any two runs: where and how fast it was measured.
CONDITIONS = {"seconds", "peak_memory", "threads", "versions"}


def records(name: str, *launcher: str) -> dict[str, Any]:
    command = [sys.executable, *launcher, *(["-m"] if not launcher else []), "tests.sharded_probes", name]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.strip().splitlines()[-1])


def assert_alike(one: Any, two: Any, where: str) -> None:
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one.keys() - CONDITIONS:
            assert_alike(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(two), where
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_alike(a, b, f"{where}[{i}]")
    elif isinstance(one, float) and isinstance(two, float):
        assert one == pytest.approx(two, rel=1e-6, abs=1e-9), where
    else:
        assert one == two, where


@pytest.mark.parametrize("name", SHARDS)
def test_every_probe_gives_the_same_record_on_two_processes(name: str) -> None:
    alone = records(name)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--module")
    together = records(name, *torchrun)
    assert alone.keys() == together.keys() == PROBES.keys()
    assert_alike(alone, together, "")
