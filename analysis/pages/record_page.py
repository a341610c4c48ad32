"""``python -m analysis.pages.record_page``: docs/records.md, every field of every record, made of the glossary.

``--check`` writes nothing and fails where the page is out of date.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from sharpness.errors import RunError, run_command
from sharpness.files import write_atomically
from sharpness.records.glossary import DETAILS, EVERYWHERE, OF_ADVICE, RUN, rows_of_fields
from sharpness.records.probe_record import SCHEMA

PAGE = Path("docs/records.md")
INTRO = f"""# What does each field of a record mean?

A record is one line of `probes.jsonl`: one number with everything needed to judge it. `sharpness collect` makes a table of many ([results.md](results.md#results-that-travel)), [numbers.md](numbers.md) says what is proven, and [measures.md](measures.md) has the formulas. Losses are in nats, shares and accuracies in [0, 1], times in seconds, memory in bytes. What could not be measured is null and `reasons` says why; no field holds NaN or infinity. `python -m analysis.pages.record_page` writes this page.

## Versions

This is version {SCHEMA}, in the field `schema`. Records of older versions, and those without the field, are read: a field that they lack is null, 0 or empty, and one that is not known any more is passed over. A record of a newer version is refused in one line that says so, on the command line and by `ProbeRecord.from_dict`. A field only ever changes its meaning together with the version.

## The fields

"""  # noqa: E501 - paragraphs of a page
OF_DETAILS = """
## Details of every probe

What the command, and with warnings also a probe, adds to `details`. A key `a.b` lies within `a`, and `a[].b` within each entry of the list `a`. What begins with *where* is not in every record.

"""  # noqa: E501 - a paragraph of a page
OF_RUNS = """
## Files of a run

Beside `probes.jsonl` a run folder has the config (`config.toml`), weights with a `.json` of their `step` and `epoch`, and these. `measures.jsonl` has a line for each measurement while the weights move: `step`, `epoch` and the quantities by name ([the tracker](track.md#along-a-training-loop-of-your-own), [training](train.md)).
"""  # noqa: E501 - a paragraph of a page


@dataclass(frozen=True)
class Options:
    """Write the page of all fields of records."""

    check: bool = False
    """Write nothing, and fail where the page is out of date."""


def record_page() -> str:
    """Return the page."""
    fields = _table(("field", "holds", "meaning"), ((f"`{name}`", *rest) for name, *rest in rows_of_fields()))
    parts = [INTRO, fields, OF_DETAILS, _keys(EVERYWHERE), "\n## Details of each probe\n"]
    parts += [f"\n### `{name}`\n\n{_keys(words)}" for name, words in {**DETAILS, **OF_ADVICE}.items()]
    parts += [OF_RUNS, *(f"\n### `{name}`\n\n{_keys(words)}" for name, words in RUN.items())]
    return "".join(parts)


def _keys(words: Mapping[str, str]) -> str:
    return _table(("key", "meaning"), ((f"`{name}`", said) for name, said in words.items()))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Write the page, or check it."""
    options = tyro.cli(Options, description=__doc__)
    if not options.check:
        write_atomically(PAGE, record_page().encode())
    elif not PAGE.exists() or PAGE.read_text() != record_page():
        raise RunError(f"{PAGE} is out of date: python -m analysis.pages.record_page")


if __name__ == "__main__":
    run_command(main)
