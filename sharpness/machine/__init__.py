"""The machine that the program runs on: device, threads, memory, processes and optional libraries.

Everything may import from here; this folder imports ``sharpness.errors`` alone.
"""
