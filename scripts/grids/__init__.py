"""The larger studies' grids: arms, presets and searches that would hide what their script says.

They import the runner and the library; the one of ``large_batch_recipes`` takes the cluster of its analysis, too.
"""
