"""Criteria as likelihoods of their targets: which are known, what their Fisher matrix is, and draws from them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional as F

from sharpness.curvature.output_space import Criterion, OutputProduct, criterion_hessian, gradient_moments, mean_of
from sharpness.errors import InputError
from sharpness.loss.counts import ignored_label, reduction_of
from sharpness.loss.square_loss import square_loss
from sharpness.machine.environment import derived_seed

MOST_CLASSES = 100  # that are summed over: K classes take K gradients of K numbers for each example
USUAL_DRAWS = 16
NORMALISED = 1e-3  # how far probabilities may be from the sum 1

_MODULES: dict[type[nn.Module], str] = {
    nn.CrossEntropyLoss: "cross_entropy",
    nn.NLLLoss: "nll_loss",
    nn.MSELoss: "mse_loss",
    nn.BCEWithLogitsLoss: "binary_cross_entropy_with_logits",
    nn.BCELoss: "binary_cross_entropy",
}
OF_CLASSES = ("cross_entropy", "nll_loss")


def kind_of(criterion: Criterion) -> tuple[str, dict[str, Any]]:
    """Return which known likelihood a criterion is, PyTorch's or the square loss, with its options; else no name.

    A module derived from one of PyTorch's is that likelihood only where it has no ``forward`` of its own.

    >>> kind_of(nn.NLLLoss(ignore_index=3))[0], kind_of(partial(F.mse_loss, reduction="sum"))
    ('nll_loss', ('mse_loss', {'reduction': 'sum'}))
    """
    if criterion is square_loss:
        return "square_loss", {}
    for module, name in _MODULES.items():
        if isinstance(criterion, module) and type(criterion).forward is module.forward:
            names = ("weight", "pos_weight", "label_smoothing", "reduction", "ignore_index")
            found = {key: getattr(criterion, key, None) for key in names}
            return name, {key: value for key, value in found.items() if value is not None}
    function, keywords = (criterion.func, criterion.keywords) if isinstance(criterion, partial) else (criterion, {})
    name = next((name for name in _MODULES.values() if function is getattr(F, name)), "")
    return name, dict(keywords) if name else {}


def joined(criterion: Criterion, outputs: Tensor) -> Criterion:
    """Return cross-entropy for the ``nll_loss`` of outputs that are log-probabilities, else the criterion itself.

    The two are one function where ``log_softmax(z) = z``. But ``nll_loss`` is linear in z, so that J^T H J is 0, while
    the Hessian of cross-entropy maps constants to 0 and gives with J = J_log_softmax J_logits that of the logits.

    >>> joined(F.nll_loss, torch.zeros(2, 3)) is F.nll_loss, joined(F.nll_loss, torch.zeros(2, 3).log_softmax(1)).func
    (True, <function cross_entropy at ...>)
    """
    kind, keywords = kind_of(criterion)
    if kind != "nll_loss" or not _are_log_probabilities(outputs):
        return criterion
    return partial(F.cross_entropy, **keywords)


def _are_log_probabilities(outputs: Tensor) -> bool:
    return bool((outputs.detach().logsumexp(1).abs() < NORMALISED).all())


def hessian_by_outputs(criterion: Criterion, outputs: Tensor, targets: Any) -> OutputProduct:
    """Return ``t -> H t`` with H the Hessian of the mean criterion by the outputs, shape (N, K, ...).

    For cross-entropy of one class per prediction it is ``H_n = c_n (diag(p_n) - p_n p_n^T)`` with c_n the share of the
    prediction in the mean, whatever the label smoothing: nothing is kept but the outputs, and a product takes the
    memory of two more of them. Everything else is differentiated twice
    (:func:`sharpness.curvature.output_space.criterion_hessian`).

    >>> hessian_by_outputs(F.cross_entropy, torch.zeros(1, 2), torch.tensor([0]))(torch.tensor([[1.0, 0.0]]))
    tensor([[ 0.2500, -0.2500]])
    """
    shares = _shares_of_predictions(criterion, targets)
    if shares is None:
        return criterion_hessian(criterion, outputs, targets)
    z = outputs.detach()
    c = shares.to(z).unsqueeze(1)

    def product(t: Tensor) -> Tensor:
        p = z.softmax(1)
        mean = torch.einsum("nk...,nk...->n...", p, t).unsqueeze(1)
        return (t - mean).mul_(p).mul_(c)

    return product


def _shares_of_predictions(criterion: Criterion, targets: Any) -> Tensor | None:
    """Return the share of each prediction in a cross-entropy; ``None`` for other criteria, and where it has no formula.

    Class weights with smoothed labels weigh the classes within a prediction, so that there the Hessian depends on them.
    """
    kind, options = kind_of(criterion)
    weight, smoothing = options.get("weight"), options.get("label_smoothing", 0.0)
    labels = isinstance(targets, Tensor) and not targets.is_floating_point()
    if kind != "cross_entropy" or not labels or (weight is not None and smoothing):
        return None
    counted = targets != options.get("ignore_index", -100)
    shares = counted.double() if weight is None else weight.double()[targets.clamp(0, len(weight) - 1)] * counted
    total = 1.0 if options.get("reduction", "mean") == "sum" else float(shares.sum())
    return shares / total if total > 0 else None  # a mean over nothing is refused where it is differentiated


def check_likelihood(criterion: Criterion, outputs: Tensor, targets: Any) -> str:
    """Return the kind of a criterion that is minus the log of a likelihood, empty for one that may be.

    Raises :class:`InputError` for class weights, label smoothing, targets that are probabilities, an ignored class
    that the network predicts, and ``nll_loss`` of outputs that are no log-probabilities.
    """
    kind, keywords = kind_of(criterion)
    if keywords.get("label_smoothing") or keywords.get("weight") is not None or keywords.get("pos_weight") is not None:
        raise InputError(
            "expected a plain likelihood for the Fisher matrix, got class weights or label smoothing: "
            "use the empirical Fisher or the Gauss-Newton matrix"
        )
    if kind not in OF_CLASSES:
        return kind
    if targets.is_floating_point():
        raise InputError(
            "expected class indices for the Fisher matrix, got probabilities: use the Gauss-Newton matrix, "
            "which is the same for cross-entropy"
        )
    ignored = keywords.get("ignore_index", -100)
    if 0 <= ignored < outputs.shape[1]:
        raise InputError(
            f"expected an ignore_index that is no class for the Fisher matrix, got {ignored}, which the network "
            "predicts: use -100"
        )
    if kind == "nll_loss" and not _are_log_probabilities(outputs):
        raise InputError(
            "expected log-probabilities for nll_loss, got outputs whose exponentials do not sum to 1: end the network "
            "in LogSoftmax, or use cross_entropy"
        )
    return kind


def expected_moments(criterion: Criterion, outputs: Tensor, targets: Any, count: float) -> tuple[OutputProduct, str]:
    """Return ``t -> (1 / c) sum_n E[g_n <g_n, t_n>]``, the targets as the network predicts them, and how it is made.

    For cross-entropy, ``nll_loss``, squared errors, the square loss and binary cross-entropy it is the Hessian by the
    outputs (Martens 2020, section 9.2), whatever the number of classes. Another criterion of one class per example is a
    likelihood where ``sum_k exp(-l(z, k)) = 1``; then it is the sum over k, dear for more than :data:`MOST_CLASSES`
    classes. Raises :class:`InputError` for a criterion that is no likelihood.

    >>> product, how = expected_moments(F.cross_entropy, torch.zeros(1, 2), torch.tensor([0]), 1.0)
    >>> how, product(torch.tensor([[1.0, 0.0]]))         # diag(p) - p p^T
    ('closed form', tensor([[ 0.2500, -0.2500]]))
    """
    kind = check_likelihood(criterion, outputs, targets)
    if kind == "binary_cross_entropy":
        return _binary_moments(criterion, outputs), "closed form"
    if kind:
        return hessian_by_outputs(joined(criterion, outputs), outputs, targets), "closed form"
    _check_classes(criterion, outputs, targets)
    shares = _probabilities(criterion, outputs) * (targets != ignored_label(criterion)).unsqueeze(1) / count
    gradients = _gradient_of_each_class(criterion, outputs)

    def product(t: Tensor) -> Tensor:
        overlaps = torch.einsum("nkz,nz->nk", gradients, t)
        return torch.einsum("nk,nkz->nz", shares * overlaps, gradients)

    return product, f"sum over {outputs.shape[1]} classes"


def _binary_moments(criterion: Criterion, outputs: Tensor) -> OutputProduct:
    """Return the product for probabilities p of two classes: ``E[g^2] = 1 / (p (1 - p))``, over what is averaged."""
    p = outputs.detach()
    terms = p.numel() if kind_of(criterion)[1].get("reduction", "mean") == "mean" else 1
    curvature = 1 / ((p * (1 - p)).clamp(min=torch.finfo(p.dtype).tiny) * terms)
    return lambda t: curvature * t


def _check_classes(criterion: Criterion, outputs: Tensor, targets: Any) -> None:
    one_label = isinstance(targets, Tensor) and not targets.is_floating_point() and targets.ndim == 1
    if outputs.ndim != 2 or not one_label:
        raise InputError(
            "expected cross_entropy, nll_loss, mse_loss or binary cross-entropy of torch, or one class per example, "
            f"for the Fisher matrix, got {criterion!r}: use the empirical Fisher or the Gauss-Newton matrix"
        )


def _gradient_of_each_class(criterion: Criterion, outputs: Tensor) -> Tensor:
    """Return the gradient by the outputs with each class as the target, shape (N, K, K)."""
    examples, classes = outputs.shape
    z = outputs.detach().repeat_interleave(classes, 0).requires_grad_()
    targets = torch.arange(classes, device=outputs.device).repeat(examples)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(criterion(z, targets), z)  # of the mean or the sum over all of them
    terms = 1 if reduction_of(criterion) == "sum" else len(z)
    return (terms * gradient).view(examples, classes, classes)


def _probabilities(criterion: Criterion, outputs: Tensor) -> Tensor:
    """Return ``exp(-l(z_n, k))`` (N, K); :class:`InputError` unless each row is a distribution."""
    classes = torch.arange(outputs.shape[1], device=outputs.device)

    def alone(z: Tensor, k: Tensor) -> Tensor:
        return criterion(z.unsqueeze(0), k.unsqueeze(0))

    try:
        with torch.no_grad():
            probabilities = (-vmap(vmap(alone, (None, 0)), (0, None))(outputs.detach(), classes)).exp()
    except RuntimeError as error:
        raise InputError(
            f"expected a criterion of one example at a time for the Fisher matrix, got {criterion!r}, which "
            f"torch.func.vmap cannot take ({str(error).splitlines()[0]}): use the Gauss-Newton matrix"
        ) from error
    sums = probabilities.sum(1)
    worst = int((sums - 1).abs().nan_to_num(torch.inf).argmax())
    if not abs(float(sums[worst]) - 1) < NORMALISED:
        raise InputError(
            f"expected minus the log of a likelihood for the Fisher matrix, got {criterion!r}, whose exp(-loss) over "
            f"the classes sums to {float(sums[worst]):.3g}, not 1: use the empirical Fisher or the Gauss-Newton matrix"
        )
    return probabilities


def drawn_moments(
    criterion: Criterion, outputs: Tensor, targets: Any, count: float, draws: range, seed: int, first_example: int
) -> OutputProduct:
    """Return ``t -> (1 / c) sum_n g_n <g_n, t_n>`` with drawn targets, the mean over ``draws``.

    It is unbiased for :func:`expected_moments`, and of rank at most the number of draws times that of the examples.
    """
    per_draw = [
        gradient_moments(
            criterion,
            outputs,
            sampled_targets(criterion, outputs, targets, seed, first_example, draw),
            _terms(criterion, outputs, count),
        )
        for draw in draws
    ]
    return mean_of(per_draw)


def sampled_targets(
    criterion: Criterion, outputs: Tensor, targets: Any, seed: int, first_example: int, draw: int = 0
) -> Tensor:
    """Draw targets from the distribution that the network predicts: classes, Gaussians for squares, coins for BCE.

    The draw of an example depends on the seed, the number of the draw and its position in the data alone, so it is the
    same for any split. The variance is 1/2 for squared errors and 1 for the square loss, with which ``-log p`` of each
    number is its term of the loss plus a constant. Targets that the criterion ignores stay. Raises :class:`InputError`
    for criteria that are no likelihood.

    >>> certain = torch.tensor([[0.0, 99.0], [99.0, 0.0]])
    >>> sampled_targets(F.cross_entropy, certain, torch.tensor([0, 0]), seed=0, first_example=0)
    tensor([1, 0])
    """
    kind = check_likelihood(criterion, outputs, targets)
    if not kind:
        _check_classes(criterion, outputs, targets)
    of_classes, normal = kind in (*OF_CLASSES, ""), kind in ("mse_loss", "square_loss")
    shape = targets.shape[1:] if of_classes else outputs.shape[1:]
    seeds = (derived_seed(seed, "fisher", draw, first_example + i) for i in range(len(outputs)))
    noise = torch.stack([_noise(shape, each, normal) for each in seeds]).to(outputs)
    if normal:
        variance = 1.0 if kind == "square_loss" else 0.5
        return outputs.detach() + variance**0.5 * noise
    if not of_classes:
        p = outputs.detach() if kind == "binary_cross_entropy" else outputs.detach().sigmoid()
        return (noise < p).to(targets.dtype)
    probabilities = outputs.detach().softmax(1) if kind else _probabilities(criterion, outputs)
    drawn = (probabilities.cumsum(1) < noise.unsqueeze(1)).sum(1).clamp(max=outputs.shape[1] - 1)
    return torch.where(targets == ignored_label(criterion), targets, drawn)


def _terms(criterion: Criterion, outputs: Tensor, count: float) -> float:
    """Return what the second moment of drawn gradients is multiplied by: the number of independent draws in the mean.

    That is one for each prediction of classes, which ``count`` counts, and one for each output of squared errors and of
    binary cross-entropy, whatever ``count`` takes for one example.
    """
    kind, keywords = kind_of(criterion)
    of_numbers = kind == "mse_loss" or kind.startswith("binary_cross_entropy")
    return outputs.numel() if of_numbers and keywords.get("reduction") != "sum" else count


def _noise(shape: torch.Size, seed: int, normal: bool) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn if normal else torch.rand)(shape, generator=generator, dtype=torch.float64)
