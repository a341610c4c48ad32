"""Where the numbers of the pairs of small and large batch come from."""

from __future__ import annotations

from typing import Any

from analysis.keskar2017.load import Study
from sharpness.plots.frames import records
from sharpness.plots.save import rendered_with


def provenance(study: Study) -> dict[str, Any]:
    """Return where the numbers of a study come from: every run with its status and hashes, and what rendered them."""
    fields = ("role", "seed", "run_id", "batch_size", "status", "reason", "git_commit", "device", "threads")
    fields += ("data_sha256", "config_sha256", "checkpoint_sha256", "versions")
    runs = [{key: _whole(row[key]) for key in fields} for row in records(study.runs)]
    return {
        "schema": 1,
        "n": {role: sum(r["role"] == role and r["status"] == "finished" for r in runs) for role in ("SB", "LB")},
        "seeds": sorted({run["seed"] for run in runs}),
        "runs": runs,
        "rendered_with": rendered_with("scipy"),
    }


def _whole(value: Any) -> Any:
    """Return a count as an int again: a column with empty places holds floats."""
    return int(value) if isinstance(value, float) else value
