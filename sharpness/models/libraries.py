"""Networks of timm and torchvision by name, with the options that say what a network is and no others.

These libraries hand whatever they are given on to one another. Among their options are some that read files, fetch
weights or choose where both lie, so the ones that are passed on are listed here.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

from torch import nn

from sharpness.config.spec import Spec
from sharpness.errors import InputError, unknown_name
from sharpness.machine.extras import extra
from sharpness.parsing import shown_value

RATES = "drop_rate drop_path_rate drop_block_rate attn_drop_rate proj_drop_rate pos_drop_rate patch_drop_rate"
SIZES = (
    "num_classes in_chans img_size patch_size window_size embed_dim depth depths dims layers channels num_heads heads "
    "mlp_ratio stem_width stem_chs base_width cardinality head_hidden_size output_stride kernel_size ls_init_value"
)
KINDS = (
    "global_pool qkv_bias qk_norm init_values class_token reg_tokens pos_embed no_embed_class fc_norm act_layer "
    "norm_layer stem_type conv_mlp dynamic_img_size dynamic_img_pad always_partition"
)
TIMM_OPTIONS = frozenset(f"{RATES} {SIZES} {KINDS}".split())
TORCHVISION = (
    "num_classes dropout attention_dropout stochastic_depth_prob aux_logits aux_loss transform_input init_weights "
    "zero_init_residual groups width_per_group width_mult replace_stride_with_dilation image_size patch_size "
    "reduced_tail norm_eps min_size max_size trainable_backbone_layers"
)
TORCHVISION_OPTIONS = frozenset(TORCHVISION.split())


def timm_model(spec: Spec) -> nn.Module:
    """Return a network of timm, with weights drawn anew."""
    timm = extra("timm", "timm")
    known = timm.list_models()
    if spec.name not in known:
        raise unknown_name("model of timm", spec.name, close_to(spec.name, known))
    return timm.create_model(spec.name, pretrained=False, **passed_on(spec.text, spec.options, TIMM_OPTIONS))


def torchvision_model(spec: Spec) -> nn.Module:
    """Return a network of torchvision, with weights drawn anew, those of a backbone inside it too."""
    models = extra("torchvision.models", "torchvision")
    known = models.list_models()
    if spec.name not in known:
        raise unknown_name("model of torchvision", spec.name, close_to(spec.name, known))
    inner = "weights_backbone" in inspect.signature(models.get_model_builder(spec.name)).parameters
    fetched = {"weights": None} | ({"weights_backbone": None} if inner else {})
    options = passed_on(spec.text, spec.options, TORCHVISION_OPTIONS)
    return models.get_model(spec.name, **fetched, **options)


def passed_on(where: str, options: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """Return options that a library gets; :class:`InputError` for any that is not known to be harmless.

    >>> passed_on("timm:resnet18", {"checkpoint_path": "a.pth"}, ["in_chans"])
    Traceback (most recent call last):
    sharpness.errors.InputError: timm:resnet18: expected options ... such as in_chans, got checkpoint_path: leave...
    """
    for name, value in options.items():
        if name not in known:
            raise InputError(
                f"{where}: expected options that say what the network is, such as "
                f"{', '.join(close_to(name, sorted(known)))}, got {name}: leave it out, or build the network in a "
                "function of yours and give package.module:function"
            )
        plain = [value] if not isinstance(value, list | tuple) else value
        if not all(is_plain(each) for each in plain):
            raise InputError(f"{where}: expected numbers and plain words, got {name}={shown_value(value)}: correct it")
    return dict(options)


def is_plain(value: object) -> bool:
    """Say whether an option is a number, a truth value, nothing, or a word that is no path and no address.

    >>> [is_plain(value) for value in (3, None, "avg", "../a.pth", "hf-hub:a", "C:", ["a"])]
    [True, True, True, False, False, False, False]
    """
    if isinstance(value, str):
        return len(value) <= 200 and value.isprintable() and not any(mark in value for mark in "/\\:")
    return value is None or isinstance(value, int | float)


def close_to(name: str, names: list[str]) -> list[str]:
    """Return the names that are most like it: libraries have hundreds."""
    return get_close_matches(name, names, n=8, cutoff=0.5) or names[:8]
