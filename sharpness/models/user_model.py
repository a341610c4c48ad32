"""A network by spec: a built-in one, one of a library, a Hugging Face folder, or the user's own factory."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sharpness.config import ModelConfig
from sharpness.errors import InputError, unknown_name
from sharpness.machine.extras import extra, offline
from sharpness.models import MODELS, NORMS, build_model
from sharpness.parsing import read_object
from sharpness.spec import Spec, parse_spec
from sharpness.users_code import import_object, users_own


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
    text: str, input_shape: tuple[int, ...] | None = None, num_classes: int | None = None, seed: int = 0
) -> UserModel:
    """Return the network of a spec in evaluation mode, with weights drawn from ``seed`` that a checkpoint replaces.

    Built-in networks take input shape and number of classes from the data unless the spec says them; those of a library
    have the library's own defaults (1000 classes). The global random state is left as it was. Nothing is downloaded.
    Raises :class:`InputError` for unknown names and options and for missing libraries, with the command that installs
    them.

    >>> load_model("f1,norm=running", (1, 28, 28), 10).facts
    {'model': 'f1,norm=running', 'class': 'torch.nn.modules.container.Sequential'}
    """
    spec = parse_spec(text, MODEL_SOURCES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if spec.kind is not None:
            model = MODEL_SOURCES[spec.kind].create(spec)
        elif spec.importable:
            model = _from_factory(spec)
        else:
            model = _built_in(spec, input_shape, num_classes, seed)
    kind = type(model)
    return UserModel(text, model.eval(), {"model": text, "class": f"{kind.__module__}.{kind.__qualname__}"})


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
    if norm not in NORMS:
        raise unknown_name("norm", str(norm), NORMS)
    return build_model(ModelConfig(spec.name, norm), input_shape, classes, seed)


def _from_timm(spec: Spec) -> nn.Module:
    timm = extra("timm", "timm")
    if spec.name not in timm.list_models():
        raise unknown_name("model of timm", spec.name, _close(spec.name, timm.list_models()))
    return _called(spec, lambda: timm.create_model(spec.name, pretrained=False, **spec.options))


def _from_torchvision(spec: Spec) -> nn.Module:
    models = extra("torchvision.models", "torchvision")
    if spec.name not in models.list_models():
        raise unknown_name("model of torchvision", spec.name, _close(spec.name, models.list_models()))
    return _called(spec, lambda: models.get_model(spec.name, weights=None, **spec.options))


def _from_hugging_face(spec: Spec) -> nn.Module:
    """Build the class that the folder's config names, which must be one of transformers' own: no code is loaded."""
    folder, options = Path(spec.name), spec.checked(("architecture",))
    if not (folder / "config.json").is_file():
        raise InputError(f"{spec.text}: expected a folder with a config.json, found none: give one of save_pretrained")
    names = read_object(folder / "config.json", "a config").get("architectures")
    names = names if isinstance(names, list) else []
    name = options.get("architecture", names[0] if names else None)
    if not isinstance(name, str):
        raise InputError(
            f"{spec.text}: expected an architecture in config.json, got none: add ,architecture=BertForMaskedLM"
        )
    with offline():
        transformers = extra("transformers", "hf")
        try:
            kind: Any = getattr(transformers, name, None)
        except (ImportError, RuntimeError) as error:  # a library that this network needs is missing or broken
            text = " ".join(str(error.__cause__ or error).split())[:160]
            raise InputError(f"{spec.text}: expected transformers to load {name}, got an error: {text}") from error
        if not (inspect.isclass(kind) and issubclass(kind, transformers.PreTrainedModel)):
            raise InputError(
                f"{spec.text}: expected an architecture of transformers, got {name!r}: models with code of their own "
                "are never loaded; build it in a function of yours and give package.module:function"
            )
        create: Any = kind  # a class to pyright, an unknown one
        read = transformers.AutoConfig.from_pretrained
        return _called(spec, lambda: create(read(folder, trust_remote_code=False, local_files_only=True)))


def _from_factory(spec: Spec) -> nn.Module:
    factory = import_object(spec.name, "a model")
    model = factory if isinstance(factory, nn.Module) else _called(spec, lambda: factory(**spec.options))
    if not isinstance(model, nn.Module):
        raise InputError(f"{spec.text}: expected a torch.nn.Module, got {type(model).__name__}: return the network")
    return model


def _called(spec: Spec, create: Callable[[], nn.Module]) -> nn.Module:
    """Return what a library or the user's function makes of the options; what it says against them is bad input."""
    own = users_own(spec.text, "options that build this network", "check the name and its options")
    with own, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries about their own names and initial weights
        return create()


def _close(name: str, names: list[str]) -> list[str]:
    """Return the names that are most like it: libraries have hundreds."""
    return get_close_matches(name, names, n=8, cutoff=0.5) or names[:8]


MODEL_SOURCES: dict[str, ModelSource] = {
    "timm": ModelSource("timm:NAME", "a network of timm, as in timm:resnet18,num_classes=10,in_chans=1", _from_timm),
    "torchvision": ModelSource(
        "torchvision:NAME", "a network of torchvision, as in torchvision:resnet18,num_classes=10", _from_torchvision
    ),
    "hf": ModelSource(
        "hf:FOLDER",
        "what save_pretrained of Hugging Face's transformers wrote; class and sizes from its config.json",
        _from_hugging_face,
    ),
}
