"""The machine that a program runs on: device, threads, memory, processes, optional libraries, the user's own modules.

Everything may import from here; this folder imports ``sharpness.errors`` and ``sharpness.config.spec`` alone.
"""
