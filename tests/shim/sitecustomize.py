"""Four things that tests change in every process that they start: those find this file on PYTHONPATH.

torchvision loads as it does for the site, see docs/shim.

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
import pathlib
import runpy
import sys
import typing


class _First(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname == "sharpness.plots.save":
            draw_small()
            remember_formulas()


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

    @functools.wraps(plain)  # whoever imports the tests in such a process runs this file twice
    def remembered(self, *formula):
        parsers.setdefault(self._output_type, self)
        return parsed(self._output_type, *formula)

    parser._parse_cached = remembered


runpy.run_path(str(pathlib.Path(__file__).parents[2] / "docs" / "shim" / "sitecustomize.py"))
sys.meta_path.insert(0, _First())
os.fsync = lambda descriptor: None
