"""What a training run is: frozen dataclasses, their TOML form, and the run id that is the hash of them."""

from __future__ import annotations

import hashlib
import json
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from sharpness.errors import InputError, unknown_name

T = TypeVar("T")


@dataclass(frozen=True)
class DataConfig:
    """Which data, and how they are cut for evaluation."""

    name: str = "fashion_mnist_10k"
    """A name of ``sharpness datasets``."""
    num_train: int | None = None
    """Use the first so many training examples; all of them when left out."""
    num_test: int | None = None
    """Use the first so many test examples; all of them when left out."""
    evaluation_batch_size: int = 1000
    """Examples per forward pass of evaluations and probes; with batch-statistics norm part of what is measured."""


@dataclass(frozen=True)
class ModelConfig:
    """Which network."""

    name: str = "f1"
    """A name of ``sharpness models``."""
    norm: str = "batch"
    """``batch``: BatchNorm uses the statistics of the batch it sees; ``running``: running ones in evaluation."""


@dataclass(frozen=True)
class TrainingConfig:
    """How the weights are found."""

    optimizer: str = "adam"
    """A name of ``sharpness.training.OPTIMIZERS``."""
    learning_rate: float = 1e-3
    batch_size: int = 64
    epochs: int = 30
    seed: int = 0
    """Seeds the initial weights and, with the epoch, the order of the examples."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the weights of one run; device and threads stand in its manifest."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    @property
    def run_id(self) -> str:
        """A readable name that ends in the first 8 digits of the SHA-256 of the resolved config.

        >>> RunConfig().run_id
        'f1-fashion_mnist_10k-b64-s0-5ac936c3'
        """
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{self.model.name}-{self.data.name}-b{self.training.batch_size}-s{self.training.seed}-{digest[:8]}"


def to_toml(config: Any) -> str:
    """Return the TOML text of a config; fields that are ``None`` are left out, which is how they are read back."""
    return tomli_w.dumps(_without_none(asdict(config)))


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in table.items() if v is not None}


def from_toml(path: Path) -> RunConfig:
    """Read a run config, refusing with :class:`InputError` a missing file, bad TOML, an unknown key or a wrong type."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"expected a config file at {path}, found none: give the path of a .toml file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"expected TOML in {path}, got an error: {error}") from error
    return from_dict(RunConfig, table, str(path))


def from_dict(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Build a config dataclass from nested tables, checking each key and type.

    >>> from_dict(TrainingConfig, {"batch_sise": 32}, "my.toml")
    Traceback (most recent call last):
        ...
    sharpness.errors.InputError: my.toml: unknown key 'batch_sise': expected one of batch_size, seed, epochs, ...
    """
    hints = typing.get_type_hints(kind)
    known = [f.name for f in fields(typing.cast(Any, kind))]
    values = {}
    for key, value in table.items():
        if key not in known:
            raise InputError(f"{where}: {unknown_name('key', key, known)}")
        values[key] = _checked(hints[key], value, f"{where}: {key}")
    return kind(**values)


def _checked(hint: Any, value: Any, where: str) -> Any:
    """Return ``value`` as the annotated type (an int will do for a float), or raise the error that names the field."""
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise InputError(
                f"{where}: expected a table, got {value!r}: write [{where.rsplit(': ')[-1]}] and its keys below"
            )
        return from_dict(typing.cast(type, hint), value, where)
    if typing.get_origin(hint) is typing.Literal:
        if value not in (choices := typing.get_args(hint)):
            raise InputError(f"{where}: {unknown_name('value', str(value), map(str, choices))}")
        return value
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in options and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53:
        return float(value)
    if type(value) in options:
        return value
    names = " or ".join(option.__name__ for option in options if option is not type(None))
    raise InputError(f"{where}: expected {names}, got {value!r} ({type(value).__name__})")


def differences(ours: RunConfig, theirs: RunConfig) -> list[str]:
    """List the fields in which two configs differ, as ``section.key: ours != theirs``.

    >>> differences(RunConfig(), RunConfig(training=TrainingConfig(seed=1)))
    ['training.seed: 0 != 1']
    """
    return [
        f"{section}.{key}: {mine!r} != {other!r}"
        for section, keys in asdict(ours).items()
        for key, mine in keys.items()
        if (other := asdict(theirs)[section][key]) != mine
    ]
