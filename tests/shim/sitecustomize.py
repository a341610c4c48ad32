"""Four things for tests alone, in every process that they start: those find this file on PYTHONPATH.

The Python parts of torchvision load beside a torch for CPUs alone, for which its compiled operators do not fit: the
wheel of the package index is built for another torch, and registering shapes for operators that are not there fails.

PNG files are written with 40 dots per inch. Nobody looks at them, and 300 take half the time of a study's rendering;
``inspect.unwrap(Figure.savefig)`` is the method as it was.

A formula in a figure is parsed once in a process. Matplotlib forgets them with each file that it draws, and tick labels
are formulas, the same ones in most figures: to parse them takes a third of the time.

Nothing waits for the disk: tests kill processes, and what a process has written outlives it. Power losses are not
tested.
"""

import functools
import importlib.abc
import os
import sys
import typing


class _First(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname == "torchvision":
            tolerate_missing_operators()
        elif fullname == "sharpness.plots.save":
            draw_small()
            remember_formulas()


def tolerate_missing_operators():
    import torch

    register = torch.library.register_fake

    def tolerant(op, *arguments, **options):
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return register(op, *arguments, **options)

    torch.library.register_fake = tolerant


def draw_small():
    from matplotlib.figure import Figure

    plain = Figure.savefig

    @functools.wraps(plain)
    def small(self, *arguments, **options):
        return plain(self, *arguments, **options | ({"dpi": 40} if options.get("format") == "png" else {}))

    Figure.savefig = small


def remember_formulas():
    from matplotlib.mathtext import MathTextParser

    parser: typing.Any = MathTextParser
    plain, parsers = parser._parse_cached.__wrapped__, {}

    @functools.cache
    def parsed(output, *formula):
        return plain(parsers[output], *formula)

    def remembered(self, *formula):
        parsers.setdefault(self._output_type, self)
        return parsed(self._output_type, *formula)

    parser._parse_cached = remembered


sys.meta_path.insert(0, _First())
os.fsync = lambda descriptor: None
