"""A block of Markdown for a model card: the numbers, what they are of, and how to have them again."""

from __future__ import annotations

from collections.abc import Mapping

from sharpness.records.probe_record import ProbeRecord
from sharpness.records.remarks import common, of_checkpoint
from sharpness.records.tables import markdown_table


def model_card(found: Mapping[str, Mapping[str, ProbeRecord]]) -> str:
    """Return the block for checkpoints by their names, with their records by probe.

    >>> record = ProbeRecord(probe="trace", quantity="trace", value=9.0, lower=8.0, upper=10.0, num_examples=200)
    >>> print(model_card({"w.pt": {"trace": record}}).splitlines()[0])
    ## Sharpness of the loss
    """
    every = [record for records in found.values() for record in records.values()]
    facts = "\n".join(f"- {name}: {text}" for name, text in common(every).items())
    parts = ["## Sharpness of the loss", facts]
    for name, records in found.items():
        shown = list(records.values())
        if len(found) > 1:
            parts.append(f"### {name}")
        parts.append(markdown_table(shown))
        parts.append("\n".join(f"- {sentence}" for sentence in of_checkpoint(records)))
        hashes = sorted({record.checkpoint_sha256 for record in shown if record.checkpoint_sha256})
        parts += [f"SHA-256 of the weights: `{each}`" for each in hashes]
    parts.append(
        "Values marked \\* are not converged. Measured with `sharpness`; intervals "
        "are about the examples given unless a row says otherwise."
    )
    return "\n\n".join(part for part in parts if part) + "\n"
