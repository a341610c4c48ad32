"""Write figures and tables with the numbers behind them: the same records give the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from analysis.frames import records
from analysis.load import Study
from analysis.style import STYLE
from analysis.tables import to_csv, to_latex, to_markdown
from sharpness.records import write_atomically

SUFFIXES = (".pdf", ".png", ".csv", ".json")


def save_figure(
    fig: Figure, table: pd.DataFrame, out: Path, name: str, caption: str, provenance: Mapping[str, Any]
) -> list[Path]:
    """Write ``name`` as PDF, PNG (300 dpi), CSV of the numbers drawn and JSON of their origin; return the paths.

    Nothing that changes between renders is written, such as the time.
    """
    csv = table.to_csv(index=False, lineterminator="\n").encode()
    contents = {
        ".pdf": _image(fig, "pdf", {"CreationDate": None}),
        ".png": _image(fig, "png", {"Software": None}),
        ".csv": csv,
        ".json": provenance_json({**provenance, "caption": caption}, csv),
    }
    return _write_all(out, {f"{name}{suffix}": content for suffix, content in contents.items()})


def save_table(table: pd.DataFrame, out: Path, caption: str, provenance: Mapping[str, Any]) -> list[Path]:
    """Write ``table.md``, ``table.tex``, ``table.csv`` (unrounded) and ``table.json``; return their paths."""
    csv = to_csv(table).encode()
    contents = {
        "table.md": to_markdown(table, caption).encode(),
        "table.tex": to_latex(table, caption).encode(),
        "table.csv": csv,
        "table.json": provenance_json({**provenance, "caption": caption}, csv),
    }
    return _write_all(out, contents)


def _write_all(out: Path, contents: Mapping[str, bytes]) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(out / name, content)
    return [out / name for name in contents]


def _image(fig: Figure, kind: str, metadata: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    with mpl.rc_context(STYLE):
        fig.savefig(stream, format=kind, dpi=STYLE["savefig.dpi"], metadata=metadata)
    return stream.getvalue()


def remove_figure(out: Path, name: str) -> None:
    """Remove the files of a figure that can no longer be drawn, so that no older one is taken for it."""
    for suffix in SUFFIXES:
        (out / f"{name}{suffix}").unlink(missing_ok=True)


def provenance_json(provenance: Mapping[str, Any], csv: bytes) -> bytes:
    """Return the provenance and the SHA-256 of the CSV as JSON with sorted keys; NaN raises ``ValueError``."""
    content = {**provenance, "csv_sha256": hashlib.sha256(csv).hexdigest()}
    return (json.dumps(content, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def provenance(study: Study) -> dict[str, Any]:
    """Return where the numbers of a study come from: every run with its status and hashes, and what rendered them."""
    fields = ("role", "seed", "run_id", "batch_size", "status", "reason", "git_commit", "device", "threads")
    fields += ("data_sha256", "config_sha256", "checkpoint_sha256", "versions")
    runs = [{key: _whole(row[key]) for key in fields} for row in records(study.runs)]
    packages = ("matplotlib", "numpy", "pandas", "scipy")
    return {
        "schema": 1,
        "n": {role: sum(r["role"] == role and r["status"] == "finished" for r in runs) for role in ("SB", "LB")},
        "seeds": sorted({run["seed"] for run in runs}),
        "runs": runs,
        "rendered_with": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }


def _whole(value: Any) -> Any:
    """Return a count as an int again: a column with empty places holds floats."""
    return int(value) if isinstance(value, float) else value
