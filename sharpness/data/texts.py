"""A text as pieces of equal length for language models, ``text:FILE``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpness.config.spec import Spec
from sharpness.data.batches import IGNORED, split
from sharpness.data.options import file_of, whole_number
from sharpness.data.user_data import DataRequest, Loaded, require_memory
from sharpness.errors import InputError, reason_of
from sharpness.machine.environment import derived_seed
from sharpness.machine.extras import extra, offline
from sharpness.machine.panics import contained_panics
from sharpness.parsing import read_object, shown_value

OPTIONS = ("tokenizer", "length", "mask")
LENGTH = 128
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
ELSEWHERE = ("_file", "_files", "_path", "_dir", "_kwargs", "_options")  # ends of the names of settings that lead there
MASKED, OTHER = 0.8, 0.1  # of the chosen tokens; the rest stays as it is (Devlin et al. 2019, section 3.1)
BYTES_PER_CHARACTER = 200  # about 600 a token, measured: a tokenizer keeps pieces and offsets beside the numbers


def load_text(spec: Spec, request: DataRequest) -> Loaded:
    """Read ``text:FILE``: the tokens of a UTF-8 text, no special ones added, cut into consecutive pieces.

    The labels are the tokens themselves, which a causal model shifts; with ``mask`` they are the tokens hidden from a
    masked language model. Raises :class:`InputError` for a file that is no text, a folder without a tokenizer, and
    fewer than two tokens.
    """
    path, length = file_of(spec), whole_number(spec, "length", 2) or LENGTH
    probability = _mask_probability(spec)
    tokenizer = _tokenizer(spec, request)
    tokens = torch.tensor(_tokenised(tokenizer, path), dtype=torch.int64)
    if len(tokens) < 2:
        raise InputError(f"{path}: expected a text of at least 2 tokens, got {len(tokens)}: give a longer one")
    length = min(length, len(tokens))
    pieces = tokens[: len(tokens) // length * length].view(-1, length)
    notes = [f"{len(tokens)} tokens cut into {len(pieces)} pieces of {length}, no special tokens added"]
    if rest := len(tokens) - pieces.numel():
        notes.append(f"the last {rest} tokens dropped")
    inputs, labels = pieces, pieces
    if probability is not None:
        # All pieces are masked before some are drawn: a piece hides the same tokens in every subset.
        inputs, labels = _masked(spec, pieces, tokenizer, probability, derived_seed(request.seed, "mask"))
        notes.append(f"{int((labels != IGNORED).sum())} tokens masked with probability {probability:g}")
    rows = request.rows(len(pieces))
    batch = {"input_ids": inputs[rows], "attention_mask": torch.ones_like(inputs[rows]), "labels": labels[rows]}
    return Loaded(split(batch, request.batch_size), len(pieces), None, tuple(notes))


def mask_tokens(
    pieces: Tensor, special: Tensor, mask_token: int, vocabulary: int, probability: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return inputs and labels for a masked language model, both P x L (int64).

    Each token but the special ones (P x L, bool) is chosen with ``probability``, and one in a piece that would have
    none. Of the chosen, 80 % become the mask token, 10 % any token, and 10 % stay; the labels are the chosen tokens
    and -100 elsewhere. Source: Devlin et al. 2019, section 3.1.

    >>> pieces, special = torch.full((50, 40), 7), torch.zeros(50, 40, dtype=torch.bool)
    >>> inputs, labels = mask_tokens(pieces, special, 3, 10, 0.15, torch.Generator().manual_seed(0))
    >>> bool((labels != -100).any(1).all()), bool((inputs == 7)[labels == -100].all())
    (True, True)
    """
    draws = torch.rand(pieces.shape, generator=generator).masked_fill(special, torch.inf)
    chosen = draws < probability
    chosen[torch.arange(len(pieces)), draws.argmin(1)] |= ~chosen.any(1)
    fate = torch.rand(pieces.shape, generator=generator)
    others = torch.randint(vocabulary, pieces.shape, generator=generator)
    changed = torch.where(fate < MASKED, mask_token, torch.where(fate < MASKED + OTHER, others, pieces))
    return torch.where(chosen, changed, pieces), torch.where(chosen, pieces, IGNORED)


def _masked(spec: Spec, pieces: Tensor, tokenizer: Any, probability: float, seed: int) -> tuple[Tensor, Tensor]:
    if tokenizer.mask_token_id is None:
        raise InputError(
            f"{spec.text}: expected a tokenizer with a mask token, got one without: leave mask out for a causal model"
        )
    special = torch.isin(pieces, torch.tensor(tokenizer.all_special_ids, dtype=torch.int64))
    generator = torch.Generator().manual_seed(seed)
    return mask_tokens(pieces, special, tokenizer.mask_token_id, len(tokenizer), probability, generator)


def _mask_probability(spec: Spec) -> float | None:
    value = spec.options.get("mask")
    if value is not None and (isinstance(value, bool | str | list) or not 0 < value <= 1):
        raise InputError(f"{spec.text}: expected a probability in (0, 1] as mask, got {value!r}: write mask=0.15")
    return value


def _tokenizer(spec: Spec, request: DataRequest) -> Any:
    """Return the tokenizer that a folder holds; neither code from it nor anything from the network."""
    named = spec.options.get("tokenizer")
    folder = request.tokenizer if named is None else Path(str(named)).expanduser()
    if folder is None:
        raise InputError(f"{spec.text}: expected the folder of a tokenizer, got none: add ,tokenizer=DIR")
    if not folder.is_dir():
        raise InputError(f"{folder}: expected the folder of a tokenizer, got no folder: correct ,tokenizer=DIR")
    _check_tokenizer(folder)
    with offline():
        transformers = extra("transformers", "hf")
        try:
            kind = transformers.AutoTokenizer
            with contained_panics():
                tokenizer = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # which of transformers' classes reads the files, and so the error, is up to them
            problem = " ".join(str(error).split())[:200]
            raise InputError(
                f"{folder}: expected a tokenizer that save_pretrained wrote, got {type(error).__name__} ({problem}): "
                "name its folder with ,tokenizer=DIR"
            ) from error
    if len(tokenizer) < 2:  # some kinds are made without files, and know no token then
        raise InputError(f"{folder}: expected the files of a tokenizer, got none: name its folder with ,tokenizer=DIR")
    return tokenizer


def _check_tokenizer(folder: Path) -> None:
    """Raise :class:`InputError` where a tokenizer's settings name files elsewhere or hand options to other code."""
    for file in (folder / name for name in SETTINGS if (folder / name).is_file()):
        for name, value in read_object(file, "a tokenizer's settings").items():
            if value and name.endswith(ELSEWHERE):
                raise InputError(
                    f"{file}: expected settings of the tokenizer alone, got {name}={shown_value(value)}: remove it"
                )


def _tokenised(tokenizer: Any, path: Path) -> list[int]:
    """Return the numbers of the tokens of a whole text."""
    require_memory(str(path), BYTES_PER_CHARACTER * path.stat().st_size)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected a text in UTF-8, got other bytes at position {error.start}: convert it"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a text longer than the model takes at once, which is cut afterwards
        try:
            with contained_panics():
                return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        except Exception as error:  # the tokenizer's files say what it does with a text
            raise InputError(
                f"{path}: expected a text that the tokenizer takes, got {reason_of(error)}: name another with "
                ",tokenizer=DIR"
            ) from error
