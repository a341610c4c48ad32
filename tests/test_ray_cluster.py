"""The page on clusters, on two nodes of this machine: both work, one is lost, and nothing else is."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sharpness.cli.ray_workers import TOKEN
from sharpness.files import read_jsonl
from tests.conftest import PATIENCE, ROOT
from tests.test_docs import DOCS, blocks
from tests.test_ray import STUDY, begun, ended, until, with_ray

START, JOIN, RUN, STOP = blocks(DOCS["clusters.md"], "sh")[0].strip().splitlines()
RAY = Path(sys.executable).with_name("ray")


def words(command: str, **replaced: str) -> list[str]:
    """Return the words of a command of the page, without its comment, with other paths and addresses."""
    for name, value in replaced.items():
        assert name in command
        command = command.replace(name, value)
    return shlex.split(command, comments=True)


def alive(command: list[str], folder: str) -> subprocess.Popen[str]:
    """Begin a node of one CPU that stays in the foreground, so that it can be ended by its process."""
    more = ["--block", "--num-cpus", "1", "--disable-usage-stats", "--temp-dir", folder]
    quiet: dict[str, Any] = {"text": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = os.environ | {"SHARPNESS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    if TOKEN.exists():  # as the page says
        environment |= {"RAY_AUTH_MODE": "token"}
    return subprocess.Popen([*command, *more], env=environment, start_new_session=True, **quiet)


def end(node: subprocess.Popen[str]) -> None:
    """Kill a node with all that it started."""
    from tests.ray_cases import _ancestors, _processes

    for pid in [*(each for each in _processes() if node.pid in _ancestors(each)), node.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    node.wait(PATIENCE)


@pytest.fixture
def nodes() -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """Return the address of a cluster of two nodes, and these, begun as the page says."""
    with_ray()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    folders = [tempfile.mkdtemp(prefix="ray") for _ in range(2)]  # paths of sockets are short
    ray = {".venv/bin/ray": str(RAY)}
    begun_nodes = list[subprocess.Popen[str]]()
    try:
        head = words(START, **ray, **{"6379": port})
        begun_nodes.append(alive([*head, "--include-dashboard=false"], folders[0]))
        wait_for(port, begun_nodes[0])
        join = words(JOIN, **ray, **{"FIRST:6379": f"127.0.0.1:{port}"})
        begun_nodes.append(alive(join, folders[1]))
        yield f"127.0.0.1:{port}", begun_nodes
    finally:
        for node in begun_nodes:
            end(node)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def wait_for(port: str, node: subprocess.Popen[str]) -> None:
    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(port))) == 0

    until(node, answers)


@pytest.mark.slow
@pytest.mark.study
def test_the_page_on_two_nodes_of_which_one_is_lost(
    nodes: tuple[str, list[subprocess.Popen[str]]], tmp_path: Path
) -> None:
    from tests import ray_cases

    address, (head, other) = nodes
    here = {".venv/bin/python ": "", "shallue2018": STUDY, "paper": "smoke", "auto": address}
    here |= {"/shared/runs": str(tmp_path / "runs"), "/shared/data": str(tmp_path)}
    study = begun(*words(RUN, **here), "--figures", str(tmp_path / "figures"))
    until(study, lambda: ray_cases.workers_of(head.pid) and ray_cases.workers_of(other.pid))
    end(other)
    assert "4 of 4" in ended(study)
    assert words(STOP)[1:] == ["stop"]  # it would end every Ray of this machine
    runs = sorted(path.parent for path in (tmp_path / "runs").glob("*/manifest.json"))[:2]
    code = "from sharpness.cli import main; main()"
    track = ["-c", code, "track", *map(str, runs), "--examples", "50", "--probes", "norms", "--ray", address]
    said = ended(begun(*track, "--out", str(tmp_path / "track")))
    records = read_jsonl(tmp_path / "track" / "probes.jsonl")
    assert len(records) == said.count("in probes.jsonl already") == len(re.findall(r"done in \d+ s", said)) > 2
    few = ["--examples", "50", "--steps", "4", "--starts", "1", "--k", "1", "--ray", address]
    ended(begun("scripts/spectra.py", *map(str, runs), "--out", str(tmp_path / "spectra"), *few))
    assert {"density.pdf", "layers.pdf", "convergence.pdf"} <= {path.name for path in (tmp_path / "spectra").iterdir()}


def test_the_page_has_the_commands_that_the_test_runs() -> None:
    assert (ROOT / "scripts" / "shallue2018.py").exists()
    assert "--head" in START and "--address FIRST:6379" in JOIN and "--ray auto" in RUN and STOP.endswith("in the end")
