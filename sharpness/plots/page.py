"""One self-contained page of HTML about a checkpoint or a comparison: nothing in it is loaded from elsewhere."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from sharpness.plots.networks import Network
from sharpness.plots.render import render
from sharpness.plots.save import record_facts
from sharpness.plots.style import STYLE
from sharpness.records import ProbeRecord
from sharpness.records.remarks import common, of_checkpoint, of_comparison
from sharpness.records.tables import facts_html, html_table

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
PIXELS = 144
"""Of the page for each inch of a figure, so that the words in figures of any width are as large as the text."""
LOOK = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
h3 { font-size: 1rem; }
caption { text-align: left; font-weight: 600; }
table { border-collapse: collapse; margin-bottom: 1rem; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: 0.15rem 0.7rem 0.15rem 0; vertical-align: top; text-align: left; }
thead th { border-bottom: 1px solid #888; } tbody tr:nth-child(even) { background: #f6f6f6; }
figure { margin: 1.5rem 0; } figure img { max-width: 100%; height: auto; }
figcaption { font-size: 0.85rem; color: #444; }
pre { font-size: 0.75rem; overflow-x: auto; background: #f6f6f6; padding: 0.7rem; }
"""


def page_of(networks: Sequence[Network]) -> str:
    """Return the page of 1 to 4 networks: what was measured, what to make of it, numbers, figures and provenance.

    The same records give the same page.
    """
    title = " against ".join(network.label for network in networks)
    every = [record for network in networks for record in network.records.values()]
    parts = [
        _section("What was measured", facts_html(_facts(networks) | common(every))),
        _section("What to make of it", _remarks(networks)),
        _section("Numbers", "".join(_numbers(networks))),
        _section("Figures", "".join(_figures(networks))),
        _section("Provenance", "".join(_provenance(networks))),
    ]
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Sharpness of {escape(title)}</title><style>{LOOK}</style>"
    )
    body = f"<h1>Sharpness of {escape(title)}</h1>{''.join(parts)}"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>{content}"


def _facts(networks: Sequence[Network]) -> dict[str, Any]:
    """Return what each checkpoint is, and how well it does on the data."""
    facts = {}
    for network in networks:
        record = next(iter(network.records.values()))
        at, model = (record.details.get(name) or {} for name in ("at_checkpoint", "model"))
        said = [str(model["model"])] if model.get("model") else []
        count = (record.parameters or {}).get("count")
        said += [f"{count:,} parameters"] if isinstance(count, int) else []
        said += [f"loss {at['loss']:.5g}"] if isinstance(at.get("loss"), float) else []
        said += [f"accuracy {100 * at['accuracy']:.4g} %"] if isinstance(at.get("accuracy"), float) else []
        facts[network.label] = ", ".join(said) or "weights without a description"
    return facts


def _remarks(networks: Sequence[Network]) -> str:
    first, *others = networks
    texts = [(None, of_comparison((first.label, first.records), (n.label, n.records))) for n in others]
    texts += [(network.label, of_checkpoint(network.records)) for network in networks]
    found = [(label, sentences) for label, sentences in texts if sentences]
    if not found:
        return "<p>Nothing beyond the numbers themselves.</p>"
    return "".join(
        (f"<h3>{escape(label)}</h3>" if label and len(networks) > 1 else "")
        + f"<ul>{''.join(f'<li>{escape(each)}</li>' for each in sentences)}</ul>"
        for label, sentences in found
    )


def _numbers(networks: Sequence[Network]) -> Iterator[str]:
    for network in networks:
        caption = network.label if len(networks) > 1 else ""
        yield f'<div class="wide">{html_table(network.records.values(), caption)}</div>'
    yield (
        "<p>* not converged. Intervals are about the examples given, at the confidence beside them; “choice of "
        "examples” is about others of the same kind. HVPs: products of the Hessian with a vector.</p>"
    )


def _figures(networks: Sequence[Network]) -> Iterator[str]:
    """Yield each figure with its caption, the picture inside the page."""
    with tempfile.TemporaryDirectory() as folder:
        rendered = render(networks, Path(folder), {})
        for path in rendered.files:
            if path.suffix == ".png":
                data = base64.b64encode(path.read_bytes()).decode()
                caption = json.loads(path.with_suffix(".json").read_text())["caption"]
                width = int.from_bytes(path.read_bytes()[16:20]) * PIXELS // STYLE["savefig.dpi"]
                picture = f'<img alt="{escape(path.stem)}" width="{width}" src="data:image/png;base64,{data}">'
                yield f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"
    if not rendered.files:
        yield "<p>None: there is one number.</p>"
    yield "".join(f"<p>{escape(refusal)}</p>" for refusal in rendered.refusals)


def _provenance(networks: Sequence[Network]) -> Iterator[str]:
    yield "<p>Everything that a record says of its number, but for the curves:</p>"
    for network in networks:
        content = {name: _origin(record) for name, record in network.records.items()}
        text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
        yield f"<details><summary>{escape(network.label)}</summary><pre>{escape(text)}</pre></details>"


def _origin(record: ProbeRecord) -> Mapping[str, Any]:
    named = ("checkpoint", "data", "model", "criterion")
    details = {name: record.details[name] for name in named if name in record.details}
    return record_facts(record) | {"checkpoint_sha256": record.checkpoint_sha256, "of": details}
