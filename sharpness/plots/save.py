"""Write figures with the numbers behind them and their origin: the same records give the same bytes."""

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

from sharpness.files import write_atomically
from sharpness.plots.style import STYLE
from sharpness.records import ProbeRecord

SUFFIXES = (".pdf", ".png", ".csv", ".json")
UNPLACED: dict[Any, Any] = {"figure.autolayout": False, "figure.constrained_layout.use": False}
"""The settings with which a figure that is given no layout gets none."""
RECORD_FACTS = (
    "value",
    "lower",
    "upper",
    "confidence",
    "converged",
    "knobs",
    "num_hvps",
    "seconds",
    "seed",
    "dtype",
    "device",
    "threads",
    "num_examples",
    "batch_sizes",
    "norm",
    "data_sha256",
    "versions",
    "reasons",
)


def save_figure(
    fig: Figure, table: pd.DataFrame, out: Path, name: str, caption: str, provenance: Mapping[str, Any]
) -> list[Path]:
    """Write ``name`` as PDF, PNG (300 dpi), CSV of the numbers drawn and JSON of their origin; return the paths.

    Nothing that changes between renders is written, such as the time.
    """
    csv = table.to_csv(index=False, lineterminator="\n").encode()
    contents = {
        ".pdf": _image(fig, "pdf", {"CreationDate": None}),
        ".png": _placed_image(fig, "png", {"Software": None}),
        ".csv": csv,
        ".json": provenance_json({**provenance, "caption": caption}, csv),
    }
    return write_all(out, {f"{name}{suffix}": content for suffix, content in contents.items()})


def write_all(out: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write files by name into a folder, which is made if it is not there; return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(out / name, content)
    return [out / name for name in contents]


def _image(fig: Figure, kind: str, metadata: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    with mpl.rc_context(STYLE):
        fig.savefig(stream, format=kind, dpi=STYLE["savefig.dpi"], metadata=metadata)
    return stream.getvalue()


def _placed_image(fig: Figure, kind: str, metadata: dict[str, Any]) -> bytes:
    """Return a figure that was drawn before with all in its place: to find the places takes longer than to draw."""
    engine = fig.get_layout_engine()
    with mpl.rc_context(UNPLACED):
        fig.set_layout_engine(None)
    try:
        return _image(fig, kind, metadata)
    finally:
        if engine is not None:
            fig.set_layout_engine(engine)


def remove_figure(out: Path, name: str) -> None:
    """Remove the files of a figure that can no longer be drawn, so that no older one is taken for it."""
    for suffix in SUFFIXES:
        (out / f"{name}{suffix}").unlink(missing_ok=True)


def provenance_json(provenance: Mapping[str, Any], csv: bytes) -> bytes:
    """Return the provenance and the SHA-256 of the CSV as JSON with sorted keys; NaN raises ``ValueError``."""
    content = {**provenance, "csv_sha256": hashlib.sha256(csv).hexdigest()}
    return (json.dumps(content, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def record_facts(record: ProbeRecord) -> dict[str, Any]:
    """Return what the provenance of a figure says of a record: all but the curves that the CSV holds."""
    row = record.to_dict()
    return {key: row[key] for key in RECORD_FACTS} | {"subset": record.details.get("subset")}


def rendered_with(*more: str) -> dict[str, str]:
    """Return the versions of Python and of the packages that a figure is rendered with."""
    packages = ("matplotlib", "numpy", "pandas", *more)
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
