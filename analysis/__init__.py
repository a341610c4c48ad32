"""From the records of a study to its tables, figures and verdicts.

Everything here reads run folders and records through ``analysis.runs`` and never loads torch.
"""
