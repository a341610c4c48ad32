"""The hash of data: one digest per example, so that it does not depend on how they are cut into batches."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sharpness.data.batches import Batch, batch_length, is_example_list, named_tensors, split, targets_of


def data_sha256(batches: Iterable[Batch]) -> str:
    """Return the SHA-256 over the digests of all examples in order, whatever the split into batches.

    >>> x, y = torch.arange(6.0).view(3, 2), torch.tensor([0, 1, 0])
    >>> data_sha256([(x, y)]) == data_sha256([(x[:2], y[:2]), (x[2:], y[2:])])
    True
    """
    return sha256_of_digests([example_digests(batches)])


def sha256_of_digests(shards: Iterable[bytes]) -> str:
    """Return the SHA-256 of the data whose consecutive shards have these example digests."""
    return hashlib.sha256(b"".join(shards)).hexdigest()


def example_digests(batches: Iterable[Batch]) -> bytes:
    """Return the SHA-256 of every example, one after the other: 32 bytes each.

    One digest per example, so that processes that hold consecutive shards can put theirs together.
    """
    return b"".join(_digests(batch) for batch in batches)


def _digests(batch: Batch) -> bytes:
    if is_example_list(batch) or is_example_list(targets_of(batch)):
        pieces = split(batch, 1)  # what belongs to an example is what a piece of it holds
        return b"".join(_digest_of_whole(piece) for piece in pieces)
    length, tensors = batch_length(batch), sorted(named_tensors(batch), key=operator.itemgetter(0))
    rows = [(path.encode(), rows_of_bytes(tensor)) for path, tensor in tensors]
    # Numbers, and what has no entry per example, such as the edges of graphs, belong to all of them.
    rows = [(path, r if len(r) in (1, length) else [hashlib.sha256(r.reshape(-1)).digest()]) for path, r in rows]
    digests = bytearray()
    for i in range(length):
        hasher = hashlib.sha256()
        for path, entries in rows:
            hasher.update(path)
            hasher.update(entries[min(i, len(entries) - 1)])
        digests += hasher.digest()
    return bytes(digests)


def _digest_of_whole(batch: Batch) -> bytes:
    return hashlib.sha256(str(sorted(batch_sha256(batch).items())).encode()).digest()


def batch_sha256(batch: Batch) -> dict[str, str]:
    """Return the SHA-256 of every tensor of a batch, shape and type included, by its path.

    >>> list(batch_sha256((torch.zeros(2), torch.ones(2))))
    ['/0', '/1']
    """
    hashes = dict[str, str]()
    for path, tensor in named_tensors(batch):
        hasher = hashlib.sha256(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        hasher.update(rows_of_bytes(tensor).reshape(-1))
        hashes[path] = hasher.hexdigest()
    return hashes


def rows_of_bytes(tensor: Tensor) -> Any:
    """Return the bytes of a tensor, one row per entry of its first dimension (one row in all for a number)."""
    tensor = tensor.detach()
    tensor = (tensor if tensor.layout == torch.strided else tensor.to_dense()).cpu().resolve_conj().contiguous()
    length = len(tensor) if tensor.ndim else 1
    return tensor.reshape(length, tensor.numel() // max(length, 1)).view(torch.uint8).numpy()
