"""The measurements of `forgetting2026.py`: a language model before a second text, and its losses while it learns it.

Both take two runs: the one on the second text, whose initial weights are those that are judged, and the one on the
first text, whose data they are judged on.
"""

from __future__ import annotations

from collections.abc import Sequence

from scripts.runner.grid import Rows
from scripts.runner.site import Site
from sharpness.loss import Loss
from sharpness.probes import CriticalSharpness, Drift, Rounding, TopEigenvalues
from sharpness.results import Probe
from sharpness.runs.networks import load_run_data, network_loss
from sharpness.vectors import norm

START = "x0"
"""The weights where the second text begins."""


def curvature(site: Site, *, examples: int, bits: Sequence[int], num_hvps: int, num_measured: int) -> Rows:
    """Return a record for each probe of the loss on the first text, over a random subset of its training windows.

    The subset is the same for all weights of a seed. ``Rounding`` and ``Drift`` have both the expected and the measured
    rise; the distance of the drift is that of :func:`moved`.
    """
    loss, distance = first_loss(site, examples), moved(site)
    probes: dict[str, Probe] = {
        "top_eigenvalue": TopEigenvalues(k=1, rtol=0.02, confidence=0.99),
        "critical_sharpness": CriticalSharpness(),
        "rounding": Rounding(bits=tuple(bits), num_hvps=num_hvps),
        "drift": Drift(distance=distance, num_hvps=num_hvps, num_measured=num_measured),
    }
    rows: Rows = [{"measure": "loss", "value": loss.value(loss.weights)}, {"measure": "moved", "value": distance}]
    for number, (name, probe) in enumerate(probes.items(), 1):
        record = probe(loss).to_record().to_dict()
        rows.append({"measure": name, "value": record["value"], "record": record})
        site.progress(number, len(probes))
    return rows


def first_loss(site: Site, examples: int) -> Loss:
    """Return the loss on training windows of the first text, at the weights where the second text begins."""
    first = Site([site.runs[1]], site.device, site.data_dir, site.progress)
    batches = first.batches(first.subset(first.dataset.train, examples))
    return network_loss(first.config, site.network(START), batches)


def moved(site: Site) -> float:
    """Return how far training on the second text moved the weights, in units of their length where it began."""
    start, end = (site.weights(name) for name in (START, site.run.final_checkpoint()))
    return norm(end - start) / norm(start)


def path(site: Site) -> Rows:
    """Return the test losses of both texts, in nats a byte, at every kept checkpoint of the run on the second one."""
    first_config = site.runs[1].config()
    first = load_run_data(first_config, site.data_dir).to(site.device)
    splits = {"first_loss": first.test, "second_loss": site.dataset.test}
    places = [site.checkpoint(START), *site.checkpoints()]
    rows: Rows = []
    for number, place in enumerate(places, 1):
        model = site.network(place.name)
        losses = {name: network_loss(site.config, model, site.batches(split)) for name, split in splits.items()}
        rows.append({"step": place.step} | {name: loss.value(loss.weights) for name, loss in losses.items()})
        site.progress(number, len(places))
    return rows
