"""The knobs that all algorithms have, refused in one line where they make no sense."""

from __future__ import annotations

from sharpness.errors import InputError


def check_rtol(rtol: float, usual: str) -> None:
    """Raise :class:`InputError` unless ``rtol`` is positive."""
    if not rtol > 0:
        raise InputError(f"expected a positive rtol, got {rtol}: {usual} is usual")


def check_confidence(confidence: float, usual: str) -> None:
    """Raise :class:`InputError` unless ``confidence`` lies between 0 and 1."""
    if not 0 < confidence < 1:
        raise InputError(f"expected a confidence between 0 and 1, got {confidence}: {usual} is usual")


def check_seconds(seconds: float | None) -> None:
    """Raise :class:`InputError` unless a bound on the time is positive or absent."""
    if seconds is not None and not seconds > 0:
        raise InputError(f"expected seconds above 0, got {seconds}: leave it out for no limit")
