"""Noise scales of training: that of SGD by Smith and Le, and that of the gradient from two batch sizes."""

from __future__ import annotations

from sharpness.errors import InputError


def sgd_noise_scale(learning_rate: float, batch_size: int, num_examples: int, momentum: float = 0.0) -> float:
    """Return the noise scale ``g = learning_rate (N / B - 1) / (1 - momentum)`` of SGD (Smith and Le 2018).

    The paper has ``learning_rate (N / B - 1)`` without momentum and ``learning_rate N / (B (1 - momentum))`` for
    B much smaller than N; this is both. Raises :class:`InputError` for settings that no training can have.

    >>> round(sgd_noise_scale(0.1, 100, 50_000, momentum=0.9), 6)
    499.0
    """
    if not learning_rate > 0:
        raise InputError(f"expected a positive learning rate, got {learning_rate}")
    if not 0 < batch_size <= num_examples:
        raise InputError(f"expected a batch size from 1 to the {num_examples} training examples, got {batch_size}")
    if not 0 <= momentum < 1:
        raise InputError(f"expected a momentum from 0 to below 1, got {momentum}")
    return learning_rate * (num_examples / batch_size - 1) / (1 - momentum)


def two_batch_estimates(small: float, large: float, small_size: float, large_size: float) -> tuple[float, float]:
    r"""Return unbiased estimates of ``|G|^2`` and ``tr Sigma`` from squared norms of gradients of two batch sizes.

    ``small`` and ``large`` are ``|G_b|^2`` and ``|G_B|^2`` for the sizes b < B, the small one a mean over the parts of
    the large batch where there are several (McCandlish et al. 2018, arXiv 1812.06162, Appendix A.1):
    ``|G|^2 = (B |G_B|^2 - b |G_b|^2) / (B - b)`` and ``tr Sigma = (|G_b|^2 - |G_B|^2) / (1/b - 1/B)``. Their ratio
    is biased for a single draw; average both before dividing. Raises :class:`InputError` unless b < B.

    >>> two_batch_estimates(5.0, 4.5, 2, 4)                    # |G|^2 = 4 and tr Sigma = 2: 4 + 2/2 and 4 + 2/4
    (4.0, 2.0)
    """
    if not 0 < small_size < large_size:
        raise InputError(f"expected a small batch size below the large one, got {small_size} and {large_size}")
    square = (large_size * large - small_size * small) / (large_size - small_size)
    return square, (small - large) / (1 / small_size - 1 / large_size)
