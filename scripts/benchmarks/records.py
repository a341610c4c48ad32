"""The time and memory that a folder with very many records takes: for a command that looks for its own, for a study.

Each is a process of its own. A record is one of the top eigenvalue of a small network, as the probe wrote it; those of
the folder differ in their seeds. Two are asked for: the newest, and one that is not there.
"""

# python scripts/benchmarks/records.py
# About a minute on two cores.

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # scripts/ is not installed

import torch
import tyro
from torch import nn

from scripts.benchmarks.report import markdown
from scripts.benchmarks.rows import Row
from sharpness.cli import run_command
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.probes.eigenvalues import TopEigenvalues

READ = """
import json, sys, time
from dataclasses import replace
from pathlib import Path
folder, count = Path(sys.argv[1]), int(sys.argv[2])
{imports}
started, begun = time.perf_counter(), time.process_time()
{work}
seconds, busy = time.perf_counter() - started, time.process_time() - begun
status = Path("/proc/self/status").read_text()  # getrusage counts what the process had before it became this one
print(json.dumps([seconds, busy, 1024 * int(status.partition("VmHWM:")[2].split()[0])]))
"""
FOUND = READ.format(
    imports="""
from sharpness.measure.recorded import find_record, wanted_record
from sharpness.probes import PROBES
from sharpness.runs import RecordFolder
""",
    work="""
records = RecordFolder(folder)
for seed, there in ((count - 1, True), (count, False)):
    probe = replace(PROBES["eigenvalues"].probe(), seed=seed)
    record = find_record(records, wanted_record("eigenvalues", probe, {"checkpoint_sha256": None}))
    assert (record is not None) == there
""",
)
TABLES = READ.format(
    imports="from analysis.runs import load",
    work="""
tables = load([({"role": "aged"}, folder)], [])
assert len(tables.probes) == count
""",
)


@dataclass(frozen=True)
class Options:
    """Measure and print a table."""

    records: int = 100_000
    """Records in the folder."""
    repeats: int = 3
    """Processes for each line."""


def record_rows(count: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of so many records that differ in their seeds."""
    torch.manual_seed(0)
    model = nn.Linear(64, 10)
    loss = Loss(model, nn.functional.cross_entropy, [(torch.randn(50, 64), torch.arange(50) % 10)])
    row = TopEigenvalues()(loss).to_record().to_dict()
    for seed in range(count):
        yield row | {"knobs": row["knobs"] | {"seed": seed}, "seed": seed}


def make_folder(folder: Path, count: int) -> int:
    """Write a finished run with so many records and return the bytes of their file."""
    (folder / "manifest.json").write_text('{"status": "finished", "step": 1, "files": {}}')
    with open(folder / "probes.jsonl", "w") as stream:
        stream.writelines(json.dumps(row, sort_keys=True) + "\n" for row in record_rows(count))
    return (folder / "probes.jsonl").stat().st_size


def read(code: str, folder: Path, options: Options) -> Row:
    """Return seconds and peak memory of processes that read the folder; :class:`InputError` where one fails."""
    measured = []
    for _ in range(options.repeats):
        command = [sys.executable, "-c", code, str(folder), str(options.records)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise InputError(f"expected a process to end well, got: {result.stderr.strip().splitlines()[-1:]}")
        measured.append(json.loads(result.stdout))
    seconds, busy, peaks = map(list, zip(*measured, strict=True))
    return {"seconds": seconds, "of the processor": busy, "peak memory (MB)": [peak / 1e6 for peak in peaks]}


def measure(options: Options) -> list[Row]:
    """Return the lines of the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = make_folder(folder, options.records)
        title = f"{options.records:,} records, {size / 1e6:.0f} MB"
        return [
            {title: "a record asked for, and one that is not there"} | read(FOUND, folder, options),
            {title: "the tables of a study"} | read(TABLES, folder, options),
        ]


def main() -> None:
    """Measure and print."""
    print(markdown(measure(tyro.cli(Options, description=__doc__))))


if __name__ == "__main__":
    run_command(main)
