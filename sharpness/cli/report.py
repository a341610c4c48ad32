"""``sharpness report``: one page about a checkpoint or a comparison, and a block for a model card."""

from __future__ import annotations

from sharpness.cli.options import Report
from sharpness.cli.output import make_console, say
from sharpness.errors import InputError
from sharpness.files import write_atomically
from sharpness.plots.networks import MAX_NETWORKS, Network
from sharpness.plots.page import page_of
from sharpness.records.checkpoints import by_checkpoint, folders_of
from sharpness.records.model_card import model_card


def run_report(command: Report) -> None:
    """Read the records and write both files."""
    own = (command.folder / "probes.jsonl").exists()
    folders = [command.folder] if own else folders_of([command.folder])
    if len(folders) > 1:
        raise InputError(
            f"expected the results of one folder, got {len(folders)} below {command.folder}: name one of them, such as "
            f"{folders[0]}, or take sharpness collect"
        )
    found = by_checkpoint(folders[0])
    if not 1 <= len(found) <= MAX_NETWORKS:
        raise InputError(
            f"expected the records of 1 to {MAX_NETWORKS} checkpoints in {folders[0]}, got {len(found)}: "
            "take sharpness collect for many"
        )
    out = command.out or command.folder
    out.mkdir(parents=True, exist_ok=True)
    networks = [Network(label, records) for label, records in found.items()]
    console = make_console()
    for name, text in (("report.html", page_of(networks)), ("model_card.md", model_card(found))):
        write_atomically(out / name, text.encode())
        say(console, str(out / name))
