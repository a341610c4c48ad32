"""Products that survive a kill: an operator that keeps them in a folder and gives them again to the same solver."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from sharpness.errors import InputError
from sharpness.files import read_sealed, write_atomically
from sharpness.linalg.operators import SymmetricOperator
from sharpness.machine.distributed import from_all_ranks, on_all_ranks
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
    is (the hash of its weights and data, say), and the first product is computed anew and compared. Every file appears
    whole, with a hash over all that it holds: one that is damaged is computed again, as is everything after it.
    Several processes, each with a folder of its own, go on from the last product that all of them have.
    ``num_replayed`` counts the products that were not computed in this process; the first product is counted although
    it was computed once more to compare.

    Disk: one vector of the operator's dtype for each product; delete the folder when the result is safe.

    >>> import tempfile
    >>> from sharpness.linalg.operators import FunctionOperator
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
        self._identity = torch.tensor(list(identity.encode()), dtype=torch.uint8)
        whole = self._num_whole()
        for path in self._paths_from(whole):  # of no use without the ones before
            path.unlink()
        self._num_saved = min(from_all_ranks(whole))
        on_all_ranks(lambda: self._read(0) if self._num_saved else None)
        self._saved: Iterator[dict[str, Tensor]] | None = map(self._read, range(self._num_saved))

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

    def _paths_from(self, number: int) -> list[Path]:
        """Return the files of products from this number on, whatever gap is between them."""
        return [path for path in sorted(self.folder.glob("product_*.safetensors")) if path >= self._path(number)]

    def _num_whole(self) -> int:
        """Return how many products are whole before the first that is missing or damaged."""
        for number in itertools.count():
            try:
                read_sealed(self._path(number))
            except (FileNotFoundError, ValueError):
                return number
        raise AssertionError("unreachable")

    def _read(self, number: int) -> dict[str, Tensor]:
        """Return a saved product with its sketch and error; :class:`InputError` if it is of something else."""
        saved = safetensors.torch.load(bytes(read_sealed(self._path(number))))
        if not torch.equal(saved["identity"], self._identity):
            raise InputError(
                f"expected the weights, data and matrix that made {self.folder}, got others: its products are not "
                "theirs; restore them or delete the folder"
            )
        if saved["product"].shape != (self.size,) or saved["product"].dtype != self.dtype:
            found = f"{tuple(saved['product'].shape)} of {saved['product'].dtype}"
            raise InputError(
                f"expected products of shape ({self.size},) of {self.dtype} in {self.folder}, got {found}: "
                "delete the folder or use the operator it was made with"
            )
        return saved

    def _write(self, v: Tensor, result: Tensor) -> None:
        """Keep a product; no fsync, for one that a power loss takes is seen by its hash and computed again."""
        content = {
            "product": result.detach().cpu().contiguous(),
            "sketch": _sketch(v),
            "error": torch.tensor(self.operator.error, dtype=torch.float64),
            "identity": self._identity,
        }
        write_atomically(self._path(self._count), safetensors.torch.save(content), seal=True, sync=False)

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
