"""Specs of the command line: ``kind:name,option=value`` or ``package.module:object`` (no torch here)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sharpness.errors import InputError, unknown_name
from sharpness.parsing import parse_toml

OPTION = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<value>.*)", re.DOTALL)
IMPORTABLE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Spec:
    """A named thing with options: ``kind`` is what stands before the first colon, if that is one of the known kinds."""

    text: str
    kind: str | None
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def importable(self) -> bool:
        """Return whether the name is of the form ``package.module:object``."""
        return self.kind is None and IMPORTABLE.fullmatch(self.name) is not None

    def checked(self, known: Iterable[str]) -> dict[str, Any]:
        """Return the options; :class:`InputError` for one that is not among the known names.

        >>> parse_spec("npz:data.npz,imputs=x", ["npz"]).checked(["inputs", "targets"])
        Traceback (most recent call last):
        sharpness.errors.InputError: npz:data.npz,imputs=x: unknown option 'imputs': expected one of inputs, targets
        """
        known = list(known)
        for name in self.options:
            if name not in known:
                if not known:
                    raise InputError(f"{self.text}: expected no options, got {name!r}: leave it out")
                raise InputError(f"{self.text}: {unknown_name('option', name, known)}")
        return dict(self.options)


def parse_spec(text: str, kinds: Collection[str]) -> Spec:
    """Take a spec apart; options are read from the end, so that a path may hold commas.

    >>> parse_spec("timm:resnet18,num_classes=10", ["timm"])
    Spec(text='timm:resnet18,num_classes=10', kind='timm', name='resnet18', options={'num_classes': 10})
    >>> parse_spec("my.models:make,width=8,act=relu", ["timm"]).options
    {'width': 8, 'act': 'relu'}
    """
    pieces, options = text.split(","), dict[str, Any]()
    while len(pieces) > 1 and (match := OPTION.fullmatch(pieces[-1].strip())):
        if match["name"] in options:
            raise InputError(f"{text}: expected each option once, got {match['name']} twice")
        options[match["name"]] = literal(match["value"])
        pieces.pop()
    kind, colon, name = ",".join(pieces).strip().partition(":")
    if not colon or kind not in kinds:
        kind, name = None, ",".join(pieces).strip()
    if not name:
        raise InputError(f"expected a name, got {text!r}")
    return Spec(text, kind, name, dict(reversed(options.items())))


def literal(text: str) -> Any:
    """Return a number, a truth value, a quoted string or ``None`` as itself, and anything else as the string it is.

    >>> literal("1e-3"), literal("true"), literal("False"), literal("None"), literal("both")
    (0.001, True, False, None, 'both')
    """
    if text.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text.lower()]
    try:
        value = parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text
    return value if isinstance(value, int | float | str | list) else text


def names_in(text: str, what: str) -> list[str]:
    """Return the names of a comma-separated list, each once; :class:`InputError` for an empty list.

    >>> names_in("eigenvalues, trace,", "probes")
    ['eigenvalues', 'trace']
    """
    names = [name.strip() for name in text.split(",")]
    if not any(names):
        raise InputError(f"expected names of {what} separated by commas, got {text!r}: leave the option out for all")
    return list(dict.fromkeys(name for name in names if name))
