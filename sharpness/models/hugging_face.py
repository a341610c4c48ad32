"""Networks of Hugging Face's transformers from a folder's ``config.json``, whose settings are looked through first.

A setting of that file can name a network of another library with options for it, code to fetch, or a kernel to load.
Settings that the network's own class declares are passed on, others only where they are plain numbers or words; what
goes to timm is held to the options of :mod:`sharpness.models.libraries`; nothing passes that is a path or an address.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from torch import nn

from sharpness.config.spec import Spec
from sharpness.errors import InputError
from sharpness.machine.extras import extra, offline
from sharpness.models.libraries import TIMM_OPTIONS, is_plain, passed_on
from sharpness.parsing import read_object, shown_value

SOURCES = (
    "_name_or_path name_or_path _commit_hash transformers_version transformers_weights finetuning_task auto_map "
    "custom_pipelines task_specific_params quantization_config compression_config attn_implementation "
    "_attn_implementation _attn_implementation_internal _attn_implementation_autoset experts_implementation "
    "_experts_implementation _experts_implementation_internal kernel_config use_kernels pretrained_cfg "
    "pretrained_cfg_overlay"
)
LEFT_OUT = frozenset(SOURCES.split())
"""Settings that say where a network came from or how to fetch, pack or speed it up, at any level: no part of it."""
COMMON = frozenset({"num_labels", "rope_theta", "rope_scaling", "rope_parameters", "torch_dtype", "pruned_heads"})
"""Settings of older files that the classes still take without declaring them."""
TO_TIMM = {name: TIMM_OPTIONS | {"out_indices", "features_only"} for name in ("model_args", "backbone_kwargs")}
"""Tables that reach timm's ``create_model``, and what may be in them."""
TEXTS = frozenset({"id2label", "label2id", "label_names", "label_descriptions", "architectures"})
"""Settings that hold names for people."""
MAX_NUMBER, MAX_REPEATS, MAX_LENGTH = 1 << 32, 10_000, 1_000_000
REPEATED = ("layer", "block", "depth", "stage", "expert", "head", "group")
"""Words in the names of settings that count parts of a network."""


def hugging_face_model(spec: Spec) -> nn.Module:
    """Build the class that the folder's config names, which must be one of transformers' own: no code is loaded."""
    folder, options = Path(spec.name), spec.checked(("architecture",))
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(f"{spec.text}: expected a folder with a config.json, found none: give one of save_pretrained")
    config = read_object(file, "a config")
    names = config.get("architectures")
    name = options.get("architecture", names[0] if isinstance(names, list) and names else None)
    if not isinstance(name, str):
        raise InputError(
            f"{spec.text}: expected an architecture in config.json, got none: add ,architecture=BertForMaskedLM"
        )
    with offline():
        kind = _architecture(spec, name)
        made = kind.config_class.from_dict(settings_of(kind.config_class, config, str(file)))
        return kind(made)


def _architecture(spec: Spec, name: str) -> Any:
    """Return the class of a name, one of transformers' own."""
    transformers = extra("transformers", "hf")
    try:
        kind = getattr(transformers, name, None)
    except (ImportError, RuntimeError) as error:  # a library that this network needs is missing or broken
        text = " ".join(str(error.__cause__ or error).split())[:160]
        raise InputError(f"{spec.text}: expected transformers to load {name}, got an error: {text}") from error
    own = inspect.isclass(kind) and issubclass(kind, transformers.PreTrainedModel)
    if not own or getattr(kind, "config_class", None) is None:
        raise InputError(
            f"{spec.text}: expected an architecture of transformers, got {shown_value(name)}: models with code of "
            "their own are never loaded; build it in a function of yours and give package.module:function"
        )
    return kind


def settings_of(kind: Any, config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the settings of a config that its class may get; :class:`InputError` naming one that leads elsewhere.

    ``kind`` is the class of the config. Where it declares ``use_pretrained_backbone``, that is false.
    """
    declared = _declared(kind)
    for name, value in config.items():
        known = name in declared or name in COMMON or name in LEFT_OUT or name in TEXTS
        if isinstance(value, dict) and value and not known:
            _refuse(where, name, f"plain settings beside those of {kind.__name__}")
    settings = {name: _checked(name, value, where) for name, value in config.items() if name not in LEFT_OUT}
    if "use_pretrained_backbone" in {*settings, *declared}:
        settings["use_pretrained_backbone"] = False
    return settings


def _declared(kind: Any) -> set[str]:
    parameters = set(inspect.signature(kind).parameters) | set(getattr(kind, "attribute_map", {}))
    return parameters | (
        {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    )


def _checked(name: str, value: Any, where: str) -> Any:
    """Return a setting without the parts that are left out; :class:`InputError` for what leads elsewhere."""
    if name in TO_TIMM and isinstance(value, dict):
        return passed_on(f"{where}: {name}", value, TO_TIMM[name])
    if isinstance(value, dict | list) and len(value) > MAX_LENGTH:
        _refuse(where, name, f"at most {MAX_LENGTH} entries")
    if isinstance(value, dict):
        inner = {key: name if name in TEXTS else key for key in value if key not in LEFT_OUT}
        return {key: _checked(as_name, value[key], where) for key, as_name in inner.items()}
    if isinstance(value, list):
        return [_checked(name, each, where) for each in value]
    if isinstance(value, str) and name in TEXTS:
        return value
    if not is_plain(value):
        _refuse(where, name, "a word that is no path and no address")
    if isinstance(value, int):
        repeated = any(word in name for word in REPEATED)
        most = MAX_LENGTH if name == "num_labels" else MAX_REPEATS if repeated else MAX_NUMBER
        if abs(value) > most:
            _refuse(where, name, f"a size of at most {most}")
    return value


def _refuse(where: str, name: str, expected: str) -> NoReturn:
    shown = shown_value(name)
    raise InputError(f"{where}: expected {expected}, got other things as {shown}: remove the setting or correct it")
