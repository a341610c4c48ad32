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
from tests.conftest import PATIENCE, ROOT, SHIM
from tests.study_cases import do
from tests.test_docs import DOCS, blocks
from tests.test_ray import STUDY, begun, ended, until, with_ray

COMMANDS, SLURM = blocks(DOCS["clusters.md"], "sh")
START, JOIN, RUN, STOP = COMMANDS.strip().splitlines()
STUDY_UNDER_SLURM = SLURM.strip().splitlines()[-1].strip()
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
    return subprocess.Popen([*command, *more], env=variables_of_nodes(), start_new_session=True, **quiet)


def variables_of_nodes() -> dict[str, str]:
    """Return the variables of a program that starts nodes, with the mode for a token that the page asks for."""
    token = {"RAY_AUTH_MODE": "token"} if TOKEN.exists() else {}
    return dict(os.environ) | {"SHARPNESS_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | token


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
def test_the_page_on_two_nodes_which_both_work_until_one_is_lost(
    nodes: tuple[str, list[subprocess.Popen[str]]], tmp_path: Path
) -> None:
    from tests import ray_cases

    address, (head, other) = nodes

    def with_both(*arguments: str) -> str:
        """Run a program on the cluster, of which both nodes have a task at once; return what it printed."""
        program = begun(*arguments, "--ray", address)
        until(program, lambda: ray_cases.workers_of(head.pid) and ray_cases.workers_of(other.pid))
        return ended(program)

    do(ray_cases.jobs(tmp_path / "small"))
    small = [str(tmp_path / "small" / cell.config.run_id) for cell in ray_cases.CELLS]
    code = "from sharpness.cli import main; main()"
    track = ["-c", code, "track", *small, "--examples", "50", "--probes", "eigenvalues,norms"]
    said = with_both(*track, "--out", str(tmp_path / "track"))
    records = read_jsonl(tmp_path / "track" / "probes.jsonl")
    assert len(records) == said.count("in probes.jsonl already") == 8
    assert len(re.findall(r"done in \d+ s", said)) == 4  # the start and the end of two runs
    few = ["--examples", "50", "--steps", "4", "--starts", "1", "--k", "1"]
    with_both("scripts/spectra.py", *small, "--out", str(tmp_path / "spectra"), *few)
    assert {"density.pdf", "layers.pdf", "convergence.pdf"} <= {path.name for path in (tmp_path / "spectra").iterdir()}
    here = {".venv/bin/python ": "", "shallue2018": STUDY, "paper": "smoke", "auto": address}
    here |= {"/shared/runs": str(tmp_path / "runs"), "/shared/data": str(tmp_path)}
    study = begun(*words(RUN, **here), "--seeds", "2", "--figures", str(tmp_path / "figures"))
    until(study, lambda: ray_cases.workers_of(head.pid) and ray_cases.workers_of(other.pid))
    end(other)
    assert "4 of 4" in ended(study)
    assert words(STOP)[1:] == ["stop"]  # it would end every Ray of this machine


SRUN = """#!/bin/sh
# Runs a command on two nodes with a network and processes of their own, until the first has ended.
test "$1" = --wait=60 && shift
unshare --net --pid --fork --mount-proc --kill-child sh -c '
    mount -t tmpfs node "$RAY_TMPDIR"
    until ip link show second >/dev/null 2>&1; do sleep 0.1; done
    ip link set lo up; ip addr add 10.9.0.2/24 dev second; ip link set second up
    exec "$@"' node "$@" &
while [ "$(readlink /proc/$!/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do sleep 0.1; done
mount -t tmpfs node "$RAY_TMPDIR"
ip link set lo up; ip link add name first type veth peer name second netns $!
ip addr add 10.9.0.1/24 dev first; ip link set first up
"$@"; code=$?
kill -9 $!
exit $code
"""
PROGRAMS = {
    "srun": SRUN,
    "scontrol": "#!/bin/sh\necho 10.9.0.1; echo 10.9.0.2\n",
    "ray": f'#!/bin/sh\nexec {RAY} "$@"\n',
    "python": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
}
"""What the script for Slurm finds: Slurm itself played, and the programs of this environment."""
ALONE = ("unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child")
"""Runs a program that sees no other process: the end of its Ray is the end of every Ray that it sees."""


@pytest.mark.slow
def test_the_script_for_slurm_on_two_nodes_that_share_nothing_but_the_disk(tmp_path: Path) -> None:
    with_ray()
    if shutil.which("ip") is None or subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("nodes with a network of their own are for root on Linux, with iproute2")
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, text in PROGRAMS.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    training = f"python -m tests.ray_cases {tmp_path / 'runs'} auto"
    (tmp_path / "job.sh").write_text(SLURM.replace(STUDY_UNDER_SLURM, training))
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # paths of sockets are short
        slurm = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1"}
        ray = {"RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
        path = {"PYTHONPATH": os.pathsep.join([str(SHIM), str(ROOT)])}
        job = subprocess.run(
            [*ALONE, "sh", "job.sh"],
            cwd=tmp_path,
            env=variables_of_nodes() | slurm | ray | path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert job.returncode == 0, f"{job.stdout[-2000:]}\n{job.stderr[-2000:]}"
    assert job.stdout.count("done in") == 2 and "Ray cluster is ready!" in job.stdout  # the second node found the first
    assert len(list((tmp_path / "runs").glob("*/manifest.json"))) == 2


def test_the_page_has_the_commands_that_the_test_runs() -> None:
    assert (ROOT / "scripts" / "shallue2018.py").exists()
    assert "--head" in START and "--address FIRST:6379" in JOIN and "--ray auto" in RUN and STOP.endswith("in the end")
    assert "--ray auto" in STUDY_UNDER_SLURM and "srun --wait=60 ray symmetric-run" in SLURM
