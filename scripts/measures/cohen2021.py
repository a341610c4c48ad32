"""The measurements of Cohen et al. 2021 at the checkpoints of a run: sharpness between iterates, batch sharpness."""

from __future__ import annotations

from collections.abc import Iterator

from scripts.runner.grid import Rows
from scripts.runner.site import Checkpoint, Site
from sharpness.errors import InputError
from sharpness.loss import Loss
from sharpness.probes.batch_sharpness import BatchSharpness
from sharpness.runs.networks import network_loss
from sharpness.training.measures import TopEigenvalue


def midpoints(site: Site) -> Rows:
    """Return the top eigenvalue halfway from each checkpoint of gradient descent to its next iterate.

    At ``(w_t + w_{t+1}) / 2 = w_t - eta g(w_t) / 2``, with no noise in the gradient: along the top eigenvector
    consecutive iterates lie on either side of the valley, and the midpoint near its floor (Cohen et al. 2021, arXiv
    2103.00065, measure so in their study of the flow). Raises :class:`InputError` for a run that is not full-batch
    gradient descent at one rate, whose next iterate its weights alone do not tell.
    """
    training, schedule = site.config.training, site.config.schedule
    plain = training.optimizer == "sgd" and schedule.kind == "constant" and not training.weight_decay
    if not plain or training.batch_size < len(site.dataset.train):
        raise InputError(f"expected full-batch gradient descent at one rate, got {site.run.path}: measure its iterates")
    rows, top = Rows(), TopEigenvalue()
    for checkpoint, loss in losses(site):
        w = loss.weights
        row = top(loss, w - training.learning_rate / 2 * loss.grad(w), training.learning_rate)
        rows.append({"step": checkpoint.step, "midpoint_eigenvalue": row["top_eigenvalue"]})
    return rows


def batch_sharpness(site: Site, *, rtol: float, num_batches: int) -> Rows:
    """Return the batch sharpness at each checkpoint, of batches of the size that the run trained with.

    Beside this mean of ratios stands the ratio of the means of the same batches, which other authors take.
    """
    probe = BatchSharpness(batch_size=site.config.training.batch_size, rtol=rtol, num_batches=num_batches)
    rows = Rows()
    for checkpoint, loss in losses(site):
        found = probe(loss, loss.weights)
        numbers = {"batch_sharpness": found.value, "mean_over_means": found.mean_over_means}
        rows.append({"step": checkpoint.step, "num_batches": found.num_hvps} | numbers)
    return rows


def losses(site: Site) -> Iterator[tuple[Checkpoint, Loss]]:
    """Yield the checkpoints of a run, oldest first, each with the loss over the training set at its weights."""
    checkpoints, batches = site.checkpoints(), site.batches(site.dataset.train)
    for number, checkpoint in enumerate(checkpoints, 1):
        yield checkpoint, network_loss(site.config, site.network(checkpoint.name), batches)
        site.progress(number, len(checkpoints))
