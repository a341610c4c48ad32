"""Killed and run again, a solver gives bit by bit what it gives undisturbed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sharpness.errors import InputError, RunError
from sharpness.linalg.eigenpairs import Eigenpairs
from sharpness.linalg.lanczos import extreme_eigenpairs
from sharpness.linalg.operators import FunctionOperator, SymmetricOperator
from sharpness.linalg.recurrence import largest_eigenvalue
from sharpness.linalg.replay import Replayed
from sharpness.linalg.trace import estimate_trace
from tests.matrices import spectrum
from tests.oracles import matrix_with_eigenvalues

MATRIX = matrix_with_eigenvalues(spectrum("outliers", 60), 1)


def restarted(operator: SymmetricOperator) -> Eigenpairs:
    return extreme_eigenpairs(operator, 2, rtol=1e-4, max_basis=7, seed=5)


def dying_at(number: int, matrix: Tensor = MATRIX) -> FunctionOperator:
    """An operator whose user presses Ctrl-C at that product."""
    made = 0

    def product(v: Tensor) -> Tensor:
        nonlocal made
        made += 1
        if made == number:
            raise KeyboardInterrupt
        return matrix @ v

    return FunctionOperator(product, len(matrix), matrix.dtype)


SOLVERS: dict[str, tuple[Callable[[SymmetricOperator], Any], int]] = {
    "in the first cycle": (restarted, 3),
    "after a restart": (restarted, 9),
    "while verifying": (restarted, 14),
    "three vectors": (lambda operator: largest_eigenvalue(operator, rtol=1e-9), 7),
    "trace": (estimate_trace, 15),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_a_killed_run_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    solve, number = SOLVERS[name]
    expected = solve(dying_at(-1))
    with pytest.raises(KeyboardInterrupt):
        solve(Replayed(dying_at(number), tmp_path))
    assert len(list(tmp_path.iterdir())) == number - 1  # the finished products and nothing else
    operator = Replayed(dying_at(-1), tmp_path)
    result = solve(operator)
    assert operator.num_replayed == number - 1 and result.num_products > number
    assert str(result) == str(expected) and result.details() == expected.details()
    if isinstance(result, Eigenpairs) and result.eigenvectors is not None:
        assert (
            result.num_restarts > 0
            and result.num_starts == 2
            and torch.equal(result.eigenvectors, expected.eigenvectors)
        )


def test_the_cases_above_are_what_they_are_called() -> None:
    result = restarted(dying_at(-1))
    # One restart, at the eighth product; then a verification, whose last products are those before the end.
    assert (result.num_restarts, result.num_starts, result.num_products) == (1, 2, 15)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[:100],
    "one byte short": lambda content: content[:-1],
    "a flipped bit of the product": lambda content: content[:-40] + bytes([content[-40] ^ 1]) + content[-39:],
    "a flipped bit of the header": lambda content: content[:20] + bytes([content[20] ^ 1]) + content[21:],
    "of another number": lambda content: content[::-1],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("number", [0, 4])
def test_a_damaged_file_is_computed_again_with_all_after_it(
    number: int, damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    expected = restarted(Replayed(dying_at(-1), tmp_path, "this"))
    damaged = sorted(tmp_path.iterdir())[number]
    damaged.write_bytes(damage(damaged.read_bytes()))
    operator = Replayed(dying_at(-1), tmp_path, "this")
    assert len(list(tmp_path.iterdir())) == number  # nothing that lies behind is taken for a product of this solve
    assert restarted(operator).details() == expected.details()
    assert operator.num_replayed == number
    again = Replayed(dying_at(-1), tmp_path, "this")
    assert restarted(again).details() == expected.details() and again.num_replayed == expected.num_products


@pytest.mark.parametrize("call", ["open", "write", "replace"])
def test_killed_at_any_call_of_the_system_the_same_solve_goes_on(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, system = restarted(dying_at(-1)), getattr(os, call)
    for number in range(1, 9):
        calls = iter(range(1, 1000))

        def dying(*arguments: Any, number: int = number, calls: Iterator[int] = calls) -> Any:
            if next(calls) == number:
                raise KeyboardInterrupt
            return system(*arguments)

        folder = tmp_path / str(number)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, dying)
            with pytest.raises(KeyboardInterrupt):
                restarted(Replayed(dying_at(-1), folder, "this"))
        assert restarted(Replayed(dying_at(-1), folder, "this")).details() == expected.details()


def test_a_full_disk_is_a_failed_run_and_keeps_what_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = os.write

    def full(descriptor: int, content: memoryview) -> int:
        if len(list(tmp_path.glob("product*"))) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return system(descriptor, content)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(RunError, match=r"bytes free .* got .*: make room there"):
            restarted(Replayed(dying_at(-1), tmp_path))
    operator = Replayed(dying_at(-1), tmp_path)
    assert restarted(operator).details() == restarted(dying_at(-1)).details() and operator.num_replayed == 5


def test_other_runs_are_refused(tmp_path: Path) -> None:
    restarted(Replayed(dying_at(-1), tmp_path))
    with pytest.raises(InputError, match="the seed and the knobs"):
        extreme_eigenpairs(Replayed(dying_at(-1), tmp_path), seed=6)
    with pytest.raises(InputError, match="another: its first product"):
        restarted(Replayed(dying_at(-1, 1.01 * MATRIX), tmp_path))
    with pytest.raises(InputError, match="shape"):
        restarted(Replayed(dying_at(-1, MATRIX.float()), tmp_path))
    with pytest.raises(InputError, match="weights, data and matrix"):
        Replayed(dying_at(-1), tmp_path, "others")
    with pytest.raises(InputError, match="folder"):
        Replayed(dying_at(-1), next(tmp_path.iterdir()))


def test_the_error_of_saved_products_is_remembered(tmp_path: Path) -> None:
    rough = FunctionOperator(lambda v: MATRIX @ v, 60, torch.float64, error=0.25)
    Replayed(rough, tmp_path).matvec(torch.ones(60, dtype=torch.float64))
    operator = Replayed(dying_at(-1), tmp_path)
    assert operator.error == 0
    operator.matvec(torch.ones(60, dtype=torch.float64))
    assert (operator.error, operator.num_replayed) == (0.25, 1)


def test_a_product_that_is_not_finite_is_not_kept(tmp_path: Path) -> None:
    operator = Replayed(FunctionOperator(lambda v: v / 0, 5), tmp_path)
    assert not bool(torch.isfinite(operator.matvec(torch.ones(5))).any()) and not list(tmp_path.iterdir())
