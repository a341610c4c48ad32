"""The tables and the figure of the training benchmark from its rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd

from scripts.benchmarks.tables import Row, csv_of, markdown, measured_with
from scripts.benchmarks.training_parts import ROUNDS, TRACKED
from sharpness.plots.axes import log_axis
from sharpness.plots.save import save_figure
from sharpness.plots.style import COLUMN, LOOKS, STYLE, new_figure
from sharpness.records import write_atomically

WANTED = 95
"""The share of the barest loop that ours is to reach, in per cent."""
TITLES = {
    "loop": "Updates: images per second, evaluations left out",
    "pages": "The barest loop with the memory pages of 2 MiB that `sharpness train` asks for, and of 4 KiB",
    "checkpoint": "Saving everything once an epoch, beside the epoch's updates",
    "tracking": f"The top eigenvalue on {TRACKED:,} examples once an epoch, warm-started, beside the epoch's updates",
}
CONTENDERS = {
    "ours (images/s)": "ours",
    "DataLoader (images/s)": "DataLoader",
    "DataLoader, ready tensors (images/s)": "DataLoader, ready tensors",
}


def render(rows: Sequence[Row], out: Path) -> list[Path]:
    """Write ``benchmark.md``, a CSV per part, ``benchmark.json`` and the figure."""
    provenance: Row = {**measured_with(rows), "rounds": ROUNDS}
    machine, examples = provenance["machine"]["cpu"], rows[0]["examples"]
    setting = f"{machine}, {rows[0]['threads']} threads, {examples:,} images of Fashion-MNIST, float32, Adam."
    texts = [f"# Training benchmark\n\n{setting} Medians of {ROUNDS} rounds in turns; rows: results.jsonl."]
    contents: dict[str, bytes] = {}
    for part, title in TITLES.items():
        table = table_of_part(rows, part)
        if len(table):
            texts.append(f"## {title}\n\n{markdown(table)}")
            contents[f"{part}.csv"] = csv_of(table)
    contents["benchmark.md"] = ("\n\n".join(texts) + "\n").encode()
    contents["benchmark.json"] = (json.dumps(provenance, sort_keys=True, indent=2, allow_nan=False) + "\n").encode()
    for name, content in contents.items():
        write_atomically(out / name, content)
    return [out / name for name in contents] + _figure(table_of_part(rows, "loop"), out, provenance)


def table_of_part(rows: Sequence[Row], part: str) -> pd.DataFrame:
    """Return the rows of a part: network, batch, and what was measured by its name, or why it was not."""
    hidden = {"part", "tool", "examples", "threads", "git_commit", "versions", "reasons", "again"}
    shown = []
    for row in rows:
        if row["part"] == part:
            numbers = {key: value for key, value in row.items() if key not in hidden}
            shown.append(numbers | ({"note": "; ".join(row["reasons"].values())} if "reasons" in row else {}))
    table = pd.DataFrame(shown)
    order = {"network": 0, "batch": 1, "note": 3}
    return table.reindex(columns=sorted(table, key=lambda name: (order.get(name, 2), name)))


def _figure(table: pd.DataFrame, out: Path, provenance: Row) -> list[Path]:
    """Draw the throughput of the loops relative to the barest one."""
    if "bare (images/s)" not in table:
        return []
    networks = list(dict.fromkeys(table["network"]))
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(COLUMN, 2.4, columns=len(networks))
        shares = table[list(CONTENDERS)].div(table["bare (images/s)"], axis=0)
        top = 108 * max(1.0, float(shares.max(axis=None)))
        for ax, network in zip(axes.flat, networks, strict=True):
            here = table[table["network"] == network]
            for (name, label), look in zip(CONTENDERS.items(), LOOKS, strict=False):
                share = 100 * here[name] / here["bare (images/s)"]
                ax.plot(here["batch"], share, label=label, color=look.color, marker=look.marker, linestyle="")
            ax.axhline(WANTED, color="0.4", linewidth=0.8, linestyle="--", zorder=1)
            ax.set(title=network.upper(), xlabel="Batch size", ylim=(0, top))
            log_axis(ax.xaxis, here["batch"], padding=1.6)
        axes.flat[0].set_ylabel("Share of the barest loop (%)")
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, columnspacing=1, handletextpad=0.2)
        caption = (
            "Images per second of our training loop and of loops over torch's DataLoader, which makes numbers of the "
            "images one by one or has them ready, as a share of the barest loop on the same images; "
            f"medians of {ROUNDS} rounds in turns. Dashed: {WANTED} %."
        )
        return save_figure(figure, table, out, "throughput", caption, provenance)
