"""One number with its evidence, and how records lie in a file.

Nothing here loads torch: analysis and figures read records without it.
"""

from sharpness.records.probe_record import SCHEMA, ProbeRecord, checked_fields, deciding_knobs

__all__ = ["SCHEMA", "ProbeRecord", "checked_fields", "deciding_knobs"]
