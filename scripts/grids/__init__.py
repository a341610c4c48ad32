"""The larger studies' grids: arms, presets and searches that would hide what their script says.

They import the runner's grid and the library's configs.
"""
