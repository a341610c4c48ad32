"""The clock of a tracked training: the seconds of its steps, the seconds of tracking, and what may be spent."""

from __future__ import annotations

import time

import torch

WARM_UP = 5
"""Calls before steps are timed: the first ones compile, choose kernels and touch memory."""
PAUSE, PAUSE_SECONDS = 10.0, 1.0
"""A step that takes so many times the usual one, and so long, held something else, such as an evaluation.

Both: on a busy machine short steps are held up by ten times their length, and so is what the tracker does.
"""
DECAY = 0.1


class Clock:
    """Tells training and tracking apart: a training step is the time between two calls without that of the calls.

    A step of more than a second and ten times the mean of the recent ones counts as that mean: pauses buy nothing.
    :meth:`arrive`, :meth:`affords` and :meth:`leave` are called at every step, so they do little.
    """

    def __init__(self, overhead: float) -> None:
        self.overhead = overhead
        self.trained = self.spent = 0.0
        self.calls = 0
        self._usual = 0.0
        self._began = self._left = 0.0

    def arrive(self) -> None:
        """Note that the loop called."""
        self._began = time.perf_counter()
        self.calls += 1
        if self.calls > WARM_UP + 1:
            seconds = self._began - self._left
            usual = self._usual or seconds
            if seconds > PAUSE_SECONDS and seconds > PAUSE * usual:
                seconds = usual
            self._usual = usual + DECAY * (seconds - usual)
            self.trained += seconds

    def settle(self, device: torch.device) -> None:
        """Wait for what the loop queued on an accelerator; that time is training's."""
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
            now = time.perf_counter()
            self.trained += now - self._began
            self._began = now

    def leave(self) -> None:
        """Note that the loop gets control back."""
        self._left = time.perf_counter()
        if self.calls > WARM_UP:
            self.spent += self._left - self._began

    def resume(self) -> None:
        """Note that the loop goes on after something that was no training, however short."""
        self._left = time.perf_counter()

    @property
    def warm(self) -> bool:
        """Say whether the warm-up is over."""
        return self.calls > WARM_UP

    @property
    def steps(self) -> int:
        """Training steps that were timed."""
        return max(0, self.calls - WARM_UP - 1)

    @property
    def step_seconds(self) -> float:
        """Seconds of a training step, on average; 0 before the first."""
        return self.trained / self.steps if self.steps else 0.0

    @property
    def now(self) -> float:
        """Seconds since the loop called, or since what it had queued was done."""
        return time.perf_counter() - self._began

    def affords(self, seconds: float) -> bool:
        """Return whether so many more seconds stay within the overhead."""
        return self.calls > WARM_UP + 1 and self.spent + seconds <= self.overhead * self.trained
