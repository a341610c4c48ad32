"""Products that survive a kill: an operator that keeps them in a folder and gives them again to the same solver."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sharpness.errors import InputError
from sharpness.machine.distributed import from_all_ranks, on_all_ranks
from sharpness.operators import SymmetricOperator
from sharpness.vectors import norm

NUM_SEGMENTS = 64
TOLERANCE = 1e-3  # relative; another vector or operator differs by about 1, another number of threads by rounding


class Replayed:
    """An operator whose products are written to a folder; made again on that folder, it returns them without work.

    Every solver of this package is deterministic, so one that was killed and is run again with the same knobs asks for
    the same vectors in the same order, gets the products that are there and goes on where it was: with exact products
    the result is that of a run that was never killed (finite differences choose their step anew and agree to their
    error). With each product goes a sketch of its vector, the sums over 64 segments: a vector that does not fit
    (another seed, other knobs) is refused with :class:`InputError`. So is another operator: ``identity`` says which it
    is (the hash of its weights and data, say), and the first product is computed anew and compared. A file that is
    damaged is computed again, as is everything after it. Several processes, each with a folder of its own, go on from
    the last product that all of them have. ``num_replayed`` counts the products that were not computed in this
    process; the first product is counted although it was computed once more to compare.

    Disk: one vector of the operator's dtype for each product; delete the folder when the result is safe.

    >>> import tempfile
    >>> from sharpness.operators import FunctionOperator
    >>> folder = Path(tempfile.mkdtemp())
    >>> for _ in range(2):
    ...     operator = Replayed(FunctionOperator(lambda v: 2 * v, size=3), folder)
    ...     print(operator.matvec(torch.ones(3)), operator.num_replayed)
    tensor([2., 2., 2.]) 0
    tensor([2., 2., 2.]) 1
    """

    def __init__(self, operator: SymmetricOperator, folder: Path | str, identity: str = "") -> None:
        self.operator, self.folder = operator, Path(folder)
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self.num_replayed = 0
        self._count, self._saved_error = 0, 0.0
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"expected a folder for products, got the file {self.folder}: name another")
        self.folder.mkdir(parents=True, exist_ok=True)
        on_all_ranks(lambda: self._refuse_another_identity(identity))
        self._num_saved = min(from_all_ranks(self._num_readable()))
        self._saved: Iterator[dict[str, Tensor]] | None = self._files()

    @property
    def error(self) -> float:
        """The operator's own error, or that of the saved products if it is larger."""
        return max(self.operator.error, self._saved_error)

    def matvec(self, v: Tensor) -> Tensor:
        """Return ``A v``: from the folder if it is the next product there, else computed, and saved if finite."""
        saved = next(self._saved, None) if self._saved is not None else None
        if saved is None:
            self._saved = None  # from here on everything is new
            result = self.operator.matvec(v)
            if math.isfinite(norm(result)):
                self._write(v, result)
        else:
            self._refuse_another_vector(v, saved["sketch"])
            # A copy in memory that torch aligned: sums over memory at odd addresses are not the same bits.
            result = saved["product"].clone().to(self.device)
            if self._count == 0:
                self._refuse_another_operator(v, result)
            self._saved_error = max(self._saved_error, float(saved["error"]))
            self.num_replayed += 1
        self._count += 1
        return result

    def _path(self, number: int) -> Path:
        return self.folder / f"product_{number:06d}.safetensors"

    def _refuse_another_identity(self, identity: str) -> None:
        path = self.folder / "identity.txt"
        if path.exists() and path.read_text() != identity:
            raise InputError(
                f"expected the weights, data and matrix that made {self.folder}, got others: its products are not "
                "theirs; restore them or delete the folder"
            )
        if identity:
            path.write_text(identity)

    def _num_readable(self) -> int:
        """Return how many products can be read before the first that is missing or damaged."""
        for number in itertools.count():
            try:
                with safe_open(self._path(number), framework="pt") as file:
                    if set(file.keys()) != {"product", "sketch", "error"}:
                        return number
            except (FileNotFoundError, SafetensorError):
                return number
        raise AssertionError("unreachable")

    def _files(self) -> Iterator[dict[str, Tensor]]:
        """Yield the saved products in order."""
        while self._count < self._num_saved:
            saved = load_file(self._path(self._count))
            if saved["product"].shape != (self.size,) or saved["product"].dtype != self.dtype:
                found = f"{tuple(saved['product'].shape)} of {saved['product'].dtype}"
                raise InputError(
                    f"expected products of shape ({self.size},) of {self.dtype} in {self.folder}, got {found}: "
                    "delete the folder or use the operator it was made with"
                )
            yield saved

    def _write(self, v: Tensor, result: Tensor) -> None:
        path = self._path(self._count)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        error = torch.tensor(self.operator.error, dtype=torch.float64)
        content = {"product": result.detach().cpu().contiguous(), "sketch": _sketch(v), "error": error}
        try:
            save_file(content, temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _refuse_another_vector(self, v: Tensor, saved: Tensor) -> None:
        sketch = _sketch(v)
        if norm(sketch - saved) > TOLERANCE * max(norm(saved), norm(sketch)):
            raise InputError(
                f"expected the vectors of the run that made {self.folder}, got others at product {self._count + 1}: "
                "use the seed and the knobs of that run, or delete the folder"
            )

    def _refuse_another_operator(self, v: Tensor, saved: Tensor) -> None:
        again = self.operator.matvec(v)
        differs = not norm(again - saved) <= TOLERANCE * norm(saved)
        if any(from_all_ranks(differs)):
            raise InputError(
                f"expected the operator that made {self.folder}, got another: its first product is different; "
                "delete the folder or restore the weights and the data"
            )


def _sketch(v: Tensor) -> Tensor:
    """Return the sums over (at most) 64 segments of a vector, on the CPU."""
    return torch.stack([segment.sum() for segment in v.detach().tensor_split(min(NUM_SEGMENTS, len(v)))]).cpu().double()
