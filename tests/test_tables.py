"""The tables of records: a row for each number, both ends or an error beside it, nothing converged without either."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rich.console import Console

from sharpness.cli.output import warn_of
from sharpness.cli.tables import comparison_table, records_table
from sharpness.probes.density import SpectralDensity
from sharpness.probes.eigenvalues import TopEigenvalues
from sharpness.probes.layers import LayerEigenvalues
from sharpness.probes.trace import Trace
from sharpness.records import ProbeRecord
from sharpness.records.rows import rows_of
from tests.probe_cases import small_network


def record(**fields: Any) -> ProbeRecord:
    return ProbeRecord(**({"probe": "p", "quantity": "q", "value": 1.0} | fields))


def test_every_eigenvalue_has_its_row_with_both_ends() -> None:
    loss = small_network()
    both = TopEigenvalues(k=2, which="both")(loss)
    rows = rows_of(both.to_record())
    assert [row.quantity for row in rows] == [f"{end}_eigenvalue {i}" for end in ("top", "bottom") for i in (1, 2)]
    for row, value in zip(rows, both.eigenvalues.tolist(), strict=True):
        assert row.value == f"{value:.5g}" and row.converged == "yes"
        low, high = (float(end) for end in row.interval.strip("[]").split(", "))
        assert low <= value * (1 + 1e-4 * (1 if value > 0 else -1)) and low <= high
    layers = LayerEigenvalues(which="both")(loss)
    names = [row.quantity for row in rows_of(layers.to_record())]
    assert names == [f"{layer}: {end}" for layer in layers.layers for end in ("top", "bottom")]


def test_estimates_have_their_errors() -> None:
    loss = small_network()
    trace, density = Trace(method="hutchinson", num_hvps=20, rtol=0.5)(loss), SpectralDensity()(loss)
    (row,) = rows_of(trace.to_record())
    assert row.interval.endswith(f"] ± {trace.estimate.standard_error:.2g}") and row.confidence == "95 %"
    (row,) = rows_of(density.to_record())
    assert row.interval == f"± {density.density.trace_standard_error:.2g}" and row.converged == "yes"
    (row,) = rows_of(Trace(rtol=1e-15)(loss).to_record())  # as many products as parameters
    assert row.interval.startswith("exact")


@pytest.mark.parametrize(
    ("fields", "interval", "converged"),
    [
        ({"converged": True}, "", ""),
        ({"converged": False}, "", "no"),
        ({"converged": True, "lower": 0.5, "upper": 2.0}, "[0.5, 2]", "yes"),
        ({"converged": True, "lower": 0.5}, "[0.5, ?]", ""),
        ({"converged": True, "reasons": {"lower": "a sum, exact to rounding"}}, "exact", "yes"),
        ({"converged": True, "details": {"standard_error": 0.25}}, "± 0.25", "yes"),
    ],
)
def test_nothing_is_converged_without_an_interval_or_an_error(
    fields: dict[str, Any], interval: str, converged: str
) -> None:
    (row,) = rows_of(record(**fields))
    assert (row.interval, row.converged) == (interval, converged)


def test_a_given_start_shows_the_residual_that_it_stopped_on() -> None:
    loss = small_network()
    result = TopEigenvalues()(loss, start=torch.ones_like(loss.weights))
    (row,) = rows_of(result.to_record())
    assert row.interval.endswith(", ?]") and row.converged.startswith("residual ") and result.converged


def test_the_choice_of_examples_has_a_row_of_its_own() -> None:
    sampling = {"lower": 0.5, "upper": 2.0, "confidence": 0.95}
    first, second = rows_of(record(lower=1.0, upper=1.1, sampling=sampling))
    assert first.interval == "[1, 1.1]" and second.interval == "[0.5, 2]" and second.confidence == "95 %"
    assert "choice of examples" in second.quantity and second.number is None


def test_tables_and_warnings_show_all_rows(capsys: pytest.CaptureFixture[str]) -> None:
    details = {"eigenvalues": [2.0, 1.0], "lowers": [2.0, 1.0], "uppers": [2.1, 1.1], "warnings": ["beware", "known"]}
    two = record(quantity="top_eigenvalue", value=2.0, lower=2.0, upper=2.1, converged=True, details=details)
    half = record(quantity="top_eigenvalue", value=1.0, lower=1.0, upper=1.1, converged=True)
    console = Console(width=130)
    console.print(records_table([two], "title"))
    console.print(comparison_table([(two, two), (half, None)], ("a", "b")))
    text = capsys.readouterr().out
    assert "top_eigenvalue 2" in text and "[1, 1.1]" in text and text.count("top_eigenvalue 1") == 2
    warn_of([two, two], known=["known"])
    assert capsys.readouterr().err == "warning: beware\n"
