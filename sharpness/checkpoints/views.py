"""The ways to read names in a file as the names of a model: prefixes and wrappers taken off, where only that helps."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from sharpness.checkpoints.readings import Reading, says_ema

MAX_PREFIX = 8
"""Names of modules that a prefix may consist of: some wrappers around some attributes."""
INNER = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts that ``torch.compile``, FSDP and activation checkpointing put between the names of a model's own modules."""
ADAPTER_NAME = re.compile(r"(?<=\.lora_[AB])\.\w+(?=\.weight$)|(?<=\.lora_embedding_[AB])\.\w+$|\.modules_to_save\.\w+")
"""What PEFT leaves out of names in its files: the name of the adapter, such as ``default``."""
WRAPPERS = (frozenset[str](), INNER, INNER | {"module"})
"""Parts to leave out of names, the least first: ``module`` is DataParallel's, and many models' own name for a part."""


@dataclass(frozen=True, eq=False)
class Target:
    """The tensors that a model takes, and which names in a file may be missing or be too many for it.

    ``twins`` holds, for a tensor that has several names, all of them; ``spellings`` how names in files may stand for
    names in the model; ``computed`` the names of buffers that models no longer save; ``frozen``, of a network with a
    LoRA adapter, all names but those of what was trained, which the adapter's own file leaves out.
    """

    tensors: Mapping[str, Tensor]
    twins: Mapping[str, frozenset[str]]
    spellings: tuple[Mapping[str, str], ...]
    computed: frozenset[str]
    frozen: frozenset[str]
    ignored: re.Pattern[str] | None

    @classmethod
    def of(cls, model: nn.Module) -> Target:
        """Return the target of a model; those of Hugging Face say what to ignore, and what their own base is called."""
        tensors = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
        places = defaultdict[tuple[int, ...], set[str]](set)
        for name, tensor in tensors.items():
            if tensor.numel():
                places[_address(tensor), *tensor.shape, *tensor.stride()].add(name)
        twins = {name: frozenset(names) for names in places.values() if len(names) > 1 for name in names}
        base = getattr(model, "base_model_prefix", "")
        same = {name: name for name in tensors}
        short = {name.removeprefix(f"{base}."): name for name in tensors} if base else same
        plain = {plain_name(name): name for name in tensors}
        computed = {name for name, _ in model.named_buffers()} - tensors.keys()
        trainable = {name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
        lora = any(".lora_" in f".{name}" for name in trainable)
        patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
        return cls(
            tensors,
            twins,
            tuple(spelling for spelling in (same, short, plain) if spelling is same or spelling.keys() != same.keys()),
            frozenset(computed | {name.removeprefix(f"{base}.") for name in computed}),
            frozenset(tensors.keys() - trainable) if lora else frozenset(),
            re.compile("|".join(f"(?:{pattern})" for pattern in sorted(patterns))) if patterns else None,
        )

    def missing(self, given: Collection[str]) -> tuple[str, ...]:
        """Return the names that a file with the given ones leaves out, but for batch counts and tied tensors.

        A file of an adapter leaves out all that is frozen.
        """
        frozen = self.frozen if self.is_adapters(given) else frozenset[str]()
        return tuple(
            name
            for name in self.tensors
            if name not in given
            and name not in frozen
            and not name.endswith("num_batches_tracked")
            and self.twins.get(name, frozenset()).isdisjoint(given)
        )

    def is_adapters(self, given: Collection[str]) -> bool:
        """Return whether names are those of an adapter alone: some, and none of a frozen parameter."""
        return bool(self.frozen) and bool(given) and self.frozen.isdisjoint(given)


@dataclass(frozen=True, eq=False)
class View:
    """One reading of a file as the tensors of a model.

    ``names`` has the file's name for each of the model's that it gives; ``others`` are the file's names that are left
    over; ``pieces`` are the wrappers' names taken out; ``average`` says that it is one over the training.
    """

    reading: Reading
    prefix: str
    pieces: tuple[str, ...]
    names: Mapping[str, str]
    others: tuple[str, ...]
    average: bool

    @property
    def label(self) -> str:
        """Return the name under which this view can be asked for."""
        return f"{self.reading.name}:{self.prefix}" if self.prefix else self.reading.name

    @property
    def ema(self) -> bool:
        """Say whether the file calls these an average of weights."""
        return self.reading.ema or says_ema(self.prefix)


def plain_name(name: str) -> str:
    """Return the name that PEFT gives a tensor in its files: without the name of the adapter.

    >>> plain_name("base_model.model.fc.lora_A.default.weight")
    'base_model.model.fc.lora_A.weight'
    """
    return ADAPTER_NAME.sub("", name)


def _address(tensor: Tensor) -> int:
    """Return where the entries of a tensor are, or, where it has none, what stands for the place."""
    if tensor.device.type == "meta":
        return tensor.untyped_storage()._cdata + tensor.storage_offset()
    return tensor.data_ptr()


def views_of(reading: Reading, target: Target) -> list[View]:
    """Return the ways in which a reading gives all of the model's tensors in their shapes, or else the nearest one.

    Names are taken as they are where that is enough, then without a common prefix, then without wrappers' names.
    """
    prefix, names, nearest = "", dict[str, str](), {name: name for name in reading.tensors}
    for left_out in WRAPPERS:
        plain = {".".join(part for part in name.split(".") if part not in left_out): name for name in reading.tensors}
        if len(plain) < len(reading.tensors):  # two names became one
            continue
        for spelling in target.spellings:
            groups = _groups(plain, spelling)
            whole = {other: given for other, given in groups.items() if _is_whole(given, reading, target)}
            if whole:
                return [_view(reading, other, plain, whole, target) for other in whole]
            for other in groups:
                if len(groups[other]) > len(names):
                    prefix, names, nearest = other, groups[other], plain
    return [_view(reading, prefix, nearest, {prefix: names}, target)]


def _groups(plain: Mapping[str, str], spelling: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return, for each prefix of names that end as one of the model's, the file's names by those of the model."""
    groups = defaultdict[str, dict[str, str]](dict)
    for short, name in plain.items():
        start = 0
        for _ in range(MAX_PREFIX + 1):
            if short[start:] in spelling:
                groups[short[:start]][spelling[short[start:]]] = name
            start = short.find(".", start) + 1
            if start == 0:
                break
    return groups


def _is_whole(names: Mapping[str, str], reading: Reading, target: Target) -> bool:
    shapes_agree = (reading.tensors[name].shape == target.tensors[own].shape for own, name in names.items())
    return not target.missing(names) and all(shapes_agree)


def _view(
    reading: Reading,
    prefix: str,
    plain: Mapping[str, str],
    whole: Mapping[str, Mapping[str, str]],
    target: Target,
) -> View:
    """Return the view through one prefix.

    Not left over, and so not unexpected, are the names of another whole network beside this one, such as the teacher
    beside the student, which is a view of its own; those of averages, with their count of updates; and what the model
    computes by itself. Anything else is, also what a Lightning module holds beside its network, such as the weights of
    its loss: the file does not say that the network is complete without it. What Lightning saves beside its
    ``state_dict`` is not looked at here.
    """
    given = {name for names in whole.values() for name in names.values()}
    counts = [short for short in plain if short.rpartition(".")[2] == "n_averaged"]
    others = tuple(
        name
        for short, name in plain.items()
        if name not in given
        and short not in counts
        and not (says_ema(short.partition(".")[0]) and not (prefix and short.startswith(prefix)))
        and not _may_be_left_over(short.removeprefix(prefix), target)
    )
    parts = {part for short, name in plain.items() if short != name for part in name.split(".")}
    average = any(prefix.startswith(short.removesuffix("n_averaged")) for short in counts)
    return View(reading, prefix, tuple(sorted(parts & WRAPPERS[-1])), whole[prefix], others, average)


def _may_be_left_over(name: str, target: Target) -> bool:
    return name in target.computed or (target.ignored is not None and target.ignored.search(name) is not None)
