"""The algorithms that probes share: ascents, samplers, geodesics and estimates of noise.

They know the loss and the operators and import no probe.
"""
