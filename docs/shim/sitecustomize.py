"""torchvision for every process of the site and of the tests that finds this file on PYTHONPATH.

Its Python parts load beside a torch for CPUs alone, for which its compiled operators do not fit: the wheel of the
package index is built for another torch, and registering shapes for operators that are not there fails.
"""

import importlib.abc
import sys


class _First(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname == "torchvision":
            tolerate_missing_operators()


def tolerate_missing_operators():
    import torch

    register = torch.library.register_fake

    def tolerant(op, *arguments, **options):
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return register(op, *arguments, **options)

    torch.library.register_fake = tolerant


sys.meta_path.insert(0, _First())
