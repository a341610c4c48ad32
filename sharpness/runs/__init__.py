"""The run folder of a training run, and the network, data and loss that it stands for.

Training and measurements meet here and nowhere else.
"""

from sharpness.runs.folder import RESUME, RecordFolder, RunFolder, remove_leftovers, sha256_file

__all__ = ["RESUME", "RecordFolder", "RunFolder", "remove_leftovers", "sha256_file"]
