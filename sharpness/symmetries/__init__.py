"""The changes of weights that leave a network's outputs alone: rescaled layers and permuted hidden units.

They are found in the network's graph and stand on the loss's view of a network; stress tests and barriers use them.
"""
