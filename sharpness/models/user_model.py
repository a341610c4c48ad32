"""A network by spec: a built-in one, one of a library, a Hugging Face folder, or the user's own factory."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from sharpness.config import ModelConfig
from sharpness.config.spec import Spec, parse_spec
from sharpness.errors import InputError, unknown_name
from sharpness.machine.users_code import import_object, users_own
from sharpness.models import MODELS, build_model
from sharpness.models.hugging_face import hugging_face_model
from sharpness.models.libraries import timm_model, torchvision_model
from sharpness.models.sizing import build_within_memory


@dataclass(frozen=True)
class ModelSource:
    """One kind of model spec: how it is written, and the function that builds it."""

    usage: str
    description: str
    create: Callable[[Spec], nn.Module]


@dataclass(frozen=True)
class UserModel:
    """A network with the spec it came from; ``facts`` go into every record."""

    spec: str
    model: nn.Module
    facts: Mapping[str, Any] = field(default_factory=dict)


def load_model(
    text: str,
    input_shape: tuple[int, ...] | None = None,
    num_classes: int | None = None,
    seed: int = 0,
    fits: Callable[[nn.Module], None] | None = None,
) -> UserModel:
    """Return the network of a spec in evaluation mode, with weights drawn from ``seed`` that a checkpoint replaces.

    Built-in networks take input shape and number of classes from the data unless the spec says them; those of a library
    have the library's own defaults (1000 classes). The global random state is left as it was. Nothing is downloaded.
    ``fits`` gets the network without its entries, before memory is taken for them, and raises where it does not fit;
    not that of a user's own function, which is called once. Raises :class:`InputError` for unknown names and options,
    for missing libraries with the command that installs them, and for more than the free memory.

    >>> load_model("f1,norm=running", (1, 28, 28), 10).facts
    {'model': 'f1,norm=running', 'class': 'torch.nn.modules.container.Sequential'}
    """
    spec = parse_spec(text, MODEL_SOURCES)
    create = _creator(spec, input_shape, num_classes, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with _quietly(spec):
            model = build_within_memory(spec.text, create, fits, twice=not spec.importable)
    kind = type(model)
    return UserModel(text, model.eval(), {"model": text, "class": f"{kind.__module__}.{kind.__qualname__}"})


def _creator(
    spec: Spec, input_shape: tuple[int, ...] | None, num_classes: int | None, seed: int
) -> Callable[[], nn.Module]:
    """Return the function that builds the network of a spec."""
    if spec.kind is not None:
        return partial(MODEL_SOURCES[spec.kind].create, spec)
    if spec.importable:
        return partial(_from_factory, spec)
    return partial(_built_in, spec, input_shape, num_classes, seed)


def _built_in(spec: Spec, input_shape: tuple[int, ...] | None, num_classes: int | None, seed: int) -> nn.Module:
    if spec.name not in MODELS:
        kinds = [f"{kind}:..." for kind in MODEL_SOURCES]
        raise unknown_name("model", spec.name, [*MODELS, *kinds, "package.module:factory"])
    options = spec.checked(("norm", "num_classes"))
    classes = options.get("num_classes", num_classes)
    if input_shape is None or type(classes) is not int:
        raise InputError(f"{spec.text}: expected data of inputs with class numbers for this network: change --data")
    norm = options.get("norm", MODELS[spec.name].norms[0])
    norm = "none" if norm is None else norm  # a spec's option none is None, and here the name of a norm
    return build_model(ModelConfig(spec.name, norm), input_shape, classes, seed)


def _from_factory(spec: Spec) -> nn.Module:
    factory = import_object(spec.name, "a model")
    model = factory if isinstance(factory, nn.Module) else factory(**spec.options)
    if not isinstance(model, nn.Module):
        raise InputError(f"{spec.text}: expected a torch.nn.Module, got {type(model).__name__}: return the network")
    return model


@contextlib.contextmanager
def _quietly(spec: Spec) -> Iterator[None]:
    """Take what a library or the user's function says against the options as bad input."""
    own = users_own(spec.text, "options that build this network", "check the name and its options")
    with own, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries about their own names and initial weights
        yield


MODEL_SOURCES: dict[str, ModelSource] = {
    "timm": ModelSource("timm:NAME", "a network of timm, as in timm:resnet18,num_classes=10,in_chans=1", timm_model),
    "torchvision": ModelSource(
        "torchvision:NAME", "a network of torchvision, as in torchvision:resnet18,num_classes=10", torchvision_model
    ),
    "hf": ModelSource(
        "hf:FOLDER",
        "what save_pretrained of Hugging Face's transformers wrote; class and sizes from its config.json",
        hugging_face_model,
    ),
}
