"""The algorithms that probes share: ascents, line searches, samplers, geodesics and estimates of noise.

They know the loss and the operators and import no probe.
"""
