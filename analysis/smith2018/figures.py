"""The figures of Smith et al. (2018): the schedules, and loss and accuracy against epochs and updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.report.report import Drawing
from analysis.smith2018.findings import WORDS
from analysis.smith2018.numbers import chosen
from sharpness.plots.axes import log_axis
from sharpness.plots.frames import floats, groups, rows_where
from sharpness.plots.seeds import runs_and_means
from sharpness.plots.style import COLUMN, LOOKS, Look, new_figure

LABELS = {
    "decaying": "decaying rate",
    "hybrid": "hybrid",
    "increasing": "increasing batch",
    "constant": "neither (control)",
    "larger rate": "larger rate and batch",
    "larger momentum": "larger momentum too",
    "batch x2": "batch grows by 2",
    "batch x25": "batch grows by 25",
}
COINCIDE = ("decaying", "hybrid", "increasing")
CONTROLS = ("decaying", "increasing", "batch x2", "batch x25")
FEWER = ("decaying", "increasing", "larger rate", "larger momentum")
MEANS = "Thick: mean over the finished runs; thin: each run; a diverged run ends in a cross."


def schedules(epochs: pd.DataFrame, ended: str) -> Drawing | str:
    """Draw the learning rate and the batch size of the three schedules against epochs, as the runs logged them."""
    rows = _shown(epochs, "momentum", COINCIDE)
    if rows.empty:
        return "no run was trained with momentum"
    numbers = chosen(rows, floats(rows, "epoch") > 0).drop_duplicates(["arm", "epoch"])
    figure, axes = new_figure(COLUMN, 3.8, 2, 1)
    for ax, (name, label) in zip(
        axes[:, 0], {"learning_rate": r"Learning rate $\epsilon$", "batch_size": "Batch size $B$"}.items(), strict=True
    ):
        for number, (arm, look) in enumerate(_looks(COINCIDE).items()):
            run = rows_where(numbers, arm=arm)
            # Shifted by a little, where lines would hide each other.
            values = floats(run, name) * 1.06 ** (number - 1)
            x, y = np.append(0.0, floats(run, "epoch")), np.append(values[:1], values)
            ax.step(x, y, where="pre", color=look.color, linestyle=look.linestyle)
        log_axis(ax.yaxis, floats(numbers, name), padding=1.4)
        ax.set(xlabel="Epoch", ylabel=label)
    _legend(axes[0, 0], COINCIDE, markers=False)
    caption = (
        "Learning rate (top) and batch size (bottom) of three schedules of one noise scale with momentum; lines are "
        f"shifted by 6 % where they would hide each other. {ended}"
    )
    return Drawing(figure, numbers.filter(["arm", "epoch", "step", "learning_rate", "batch_size"]), caption)


def training_loss(epochs: pd.DataFrame, settings: Mapping[str, Any], ended: str) -> Drawing | str:
    """Draw the training loss with momentum against epochs and against updates."""
    arms = (*COINCIDE, "constant")
    rows = _shown(epochs, "momentum", arms)
    if rows.empty or not np.isfinite(floats(rows, "train_loss")).any():
        return "no run with momentum has a training loss"
    numbers = _with_means(chosen(rows, floats(rows, "epoch") > 0), "train_loss")
    figure, axes = new_figure(COLUMN, 4.8, 2, 1)
    for ax, (x, label) in zip(axes[:, 0], {"epoch": "Epoch", "step": "Update"}.items(), strict=True):
        runs_and_means(ax, numbers, x, "train_loss", "arm", _looks(arms))
        log_axis(ax.yaxis, floats(numbers, "train_loss"))
        ax.set(xlabel=label, ylabel="Training loss (nats)")
    log_axis(axes[1, 0].xaxis, floats(numbers, "step"), padding=1.1)
    _milestones(axes[0, 0], settings)
    _legend(axes[0, 0], arms)
    caption = (
        "Training loss with momentum, mean over an epoch's examples as the weights move, against epochs (top; dotted: "
        f"the milestones) and updates (bottom). {MEANS} {ended}"
    )
    return Drawing(figure, numbers, caption)


def controls(epochs: pd.DataFrame, settings: Mapping[str, Any], ended: str) -> Drawing | str:
    """Draw the training loss with momentum where the noise falls as in the original, too slowly and too fast.

    As a factor of the original's at the same epoch, from the first milestone on.
    """
    rows = _shown(epochs, "momentum", CONTROLS)
    rows = chosen(rows, floats(rows, "epoch") >= settings["milestones"][0])
    original = floats(rows_where(rows, arm="decaying", status="finished"), "train_loss")
    if not len(original) or not np.isfinite(original).all():
        return "no run with a decaying rate has a training loss"
    numbers = _with_means(rows, "train_loss")
    means = rows_where(numbers, line="mean", arm="decaying")
    level = dict(zip(floats(means, "epoch"), floats(means, "train_loss"), strict=True))
    factors = floats(numbers, "train_loss") / [level.get(epoch, np.nan) for epoch in floats(numbers, "epoch")]
    numbers = numbers.assign(factor=factors)
    figure, axes = new_figure(COLUMN, 2.6)
    ax = axes[0, 0]
    runs_and_means(ax, numbers, "epoch", "factor", "arm", _looks(CONTROLS))
    _milestones(ax, settings)
    ax.set(xlabel="Epoch", ylabel="Training loss\n(times that of a decaying rate)")
    _legend(ax, CONTROLS)
    caption = (
        "Training loss with momentum, as a factor of its mean under a decaying rate at the same epoch: the batch grows "
        "by 5 at each milestone (dotted), as much as the rate falls, or by 2, or by 25. "
        f"{MEANS} {ended}"
    )
    return Drawing(figure, numbers, caption)


def test_accuracy(epochs: pd.DataFrame, settings: Mapping[str, Any], ended: str) -> Drawing | str:
    """Draw test accuracy against epochs for each optimiser."""
    names = [name for name in settings["rates"] if len(_shown(epochs, name, COINCIDE))]
    if not names:
        return "no run was trained"
    figure, axes = new_figure(COLUMN, 0.4 + 1.9 * -(-len(names) // 2), -(-len(names) // 2), 2)
    parts = []
    for ax, optimizer in zip(axes.flat, names, strict=False):
        numbers = _with_means(_percent(_shown(epochs, optimizer, COINCIDE)), "test_accuracy")
        parts.append(numbers.assign(optimizer=optimizer))
        runs_and_means(ax, numbers, "epoch", "test_accuracy", "arm", _looks(COINCIDE))
        _after_start(ax, numbers)
        _milestones(ax, settings)
        title = WORDS[optimizer]
        ax.set(xlabel="Epoch", ylabel="Test accuracy (%)", title=f"{title[0].upper()}{title[1:]}")
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    _legend(axes.flat[0], COINCIDE)
    caption = (
        "Test accuracy at the end of each epoch for three schedules of one noise scale, a panel for each optimiser; "
        f"dotted: the milestones. {MEANS} The axes begin above epoch 0. {ended}"
    )
    return Drawing(figure, pd.concat(parts, ignore_index=True), caption)


def fewer_updates(runs: pd.DataFrame, ended: str) -> Drawing | str:
    """Draw the final test accuracy with momentum against the updates of the whole training, for ever larger steps."""
    rows = _percent(_shown(rows_where(runs, status="finished"), "momentum", FEWER))
    if rows.empty:
        return "no run was trained with momentum"
    numbers = rows.filter(["arm", "seed", "step", "test_accuracy"]).astype({"step": float})
    figure, axes = new_figure(COLUMN, 2.4)
    ax = axes[0, 0]
    for arm, look in _looks(FEWER).items():
        mine = rows_where(numbers, arm=arm)
        updates, accuracies = floats(mine, "step"), floats(mine, "test_accuracy")
        ax.plot(updates, accuracies, ".", color=look.color, markersize=3, alpha=0.5)
        if len(mine):
            ax.plot(updates.mean(), accuracies.mean(), **look.artist | {"linestyle": "", "markersize": 6})
    log_axis(ax.xaxis, floats(numbers, "step"), padding=1.4)
    ax.set(xlabel="Updates of the whole training", ylabel="Final test accuracy (%)")
    _legend(ax, FEWER, lines=False)
    caption = (
        "Final test accuracy with momentum against updates, after the same number of epochs: the rate decays; the "
        "batch grows instead; rate and batch are five times as large from the start; and the momentum is 0.98 with a "
        f"batch five times as large again. Dots: runs; marks: their means. {ended}"
    )
    return Drawing(figure, numbers, caption)


def _shown(epochs: pd.DataFrame, optimizer: str, arms: Sequence[str]) -> pd.DataFrame:
    rows = rows_where(epochs, optimizer=optimizer)
    return chosen(rows, np.isin(np.asarray(rows["arm"], dtype=str), arms))


def _percent(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(test_accuracy=100 * floats(rows, "test_accuracy"))


def _with_means(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of the runs (line ``run``) and their means by schedule and epoch (line ``mean``).

    The mean is over the finished runs, geometric for a loss, as its axis is logarithmic.
    """
    columns = ["line", "arm", "seed", "status", "epoch", "step", name]
    table = rows.assign(line="run").filter(columns).astype({name: float, "step": float})
    means = []
    for arm, mine in groups(rows_where(table, status="finished"), "arm"):
        for epoch, each in groups(mine, "epoch"):
            values = floats(each, name)
            mean = np.exp(np.mean(np.log(values))) if name.endswith("loss") and np.all(values > 0) else np.mean(values)
            place = {"line": "mean", "arm": arm, "epoch": epoch, "step": float(np.mean(floats(each, "step")))}
            means.append({**place, "seed": None, "status": None, name: float(mean)})
    return pd.concat([table, pd.DataFrame(means, columns=pd.Index(columns))], ignore_index=True) if means else table


def _after_start(ax: Axes, numbers: pd.DataFrame) -> None:
    """Fit the axis to what follows the first epoch, above which accuracies differ little."""
    values = floats(chosen(numbers, floats(numbers, "epoch") > 1), "test_accuracy")
    values = values[np.isfinite(values)]
    if len(values):
        low, high = np.percentile(values, 2), values.max()
        ax.set_ylim(low - 0.1 * (high - low + 1), high + 0.1 * (high - low + 1))


def _milestones(ax: Axes, settings: Mapping[str, Any]) -> None:
    for milestone in settings["milestones"]:
        ax.axvline(milestone, color="0.6", linestyle=":", linewidth=0.8, zorder=0)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _looks(arms: Sequence[str]) -> dict[str, Look]:
    """Return how the schedules of one figure look: the same in all, but that no figure has all of them."""
    numbers = {"decaying": 0, "hybrid": 1, "increasing": 2, "constant": 3, "larger rate": 1, "larger momentum": 3}
    numbers |= {"batch x2": 1, "batch x25": 3}
    return {arm: LOOKS[numbers[arm]] for arm in arms}


def _legend(ax: Axes, arms: Sequence[str], markers: bool = True, lines: bool = True) -> None:
    """Put the legend above all: three schedules fit beside each other, more stand two in a row."""
    hidden = ({} if markers else {"marker": ""}) | ({} if lines else {"linestyle": ""})
    handles = [look.handle(LABELS[arm], **hidden) for arm, look in _looks(arms).items()]
    figure = ax.get_figure(root=True)
    if figure is not None:
        columns = 3 if len(handles) <= 3 else 2
        figure.legend(handles=handles, loc="outside upper center", ncols=columns, handlelength=2.6)
