"""BatchNorm whose second derivative is taken in closed form, in a few passes over memory.

Torch writes the second derivative of BatchNorm out as some forty elementary operations, each of which reads and writes
a tensor of the size of the layer's output. Here it takes about six. Per channel, with ``x^`` the normalised input,
``s = 1 / std``, ``gamma`` the weight, N the entries of the channel, ``g`` the gradient by the output, and

    y = gamma x^ + beta,    a = mean(g),    b = mean(g x^),
    g_x = gamma s (g - a - b x^),    g_gamma = N b,    g_beta = N a,

the adjoint of this backward pass along ``(v, u, t)``, cotangents of ``g_x``, ``g_gamma`` and ``g_beta``, is

    c = mean(v),    d = mean(v x^),    h = mean(v g) - a c - b d,
    by g:      gamma s (v - c - d x^) + u x^ + t
    by x:      gamma s^2 ((2 b d - h) x^ - d g - b v + a d + b c) + u s (g - a - b x^)
    by gamma:  s N h

With running statistics mean and std are constants: ``g_x = gamma s g``, and the adjoint is ``gamma s v + u x^ + t``
by g, ``u s g`` by x and ``s sum(v g)`` by gamma.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
DEVICES = ("cpu", "cuda")
_aten = torch.ops.aten


@contextlib.contextmanager
def closed_form_norms(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Let torch's own BatchNorm layers take their second derivative in closed form inside, hooks and all as they are.

    A subclass with a forward pass of its own, an instance with one, a compiled layer and a synchronised one are left
    alone. Outputs, gradients and running statistics are those of the same kernels as without.
    """
    changed = [module for module in norms if _is_plain(module)]
    try:
        for module in changed:
            module.forward = _in_closed_form(module)
        yield
    finally:
        for module in changed:
            del module.forward  # the instance's; that of the class is there again


def _is_plain(module: _BatchNorm) -> bool:
    """Return whether a layer's forward pass is torch's."""
    own = "forward" in module.__dict__ or module._compiled_call_impl is not None
    return isinstance(module, PLAIN) and type(module).forward is _BatchNorm.forward and not own


def _in_closed_form(module: _BatchNorm) -> Any:
    def forward(input: Tensor) -> Tensor:
        with _Intercepting():
            return _BatchNorm.forward(module, input)

    return forward


class _Intercepting(TorchFunctionMode):
    """Replaces the one call of ``batch_norm`` in torch's forward pass, which keeps its own rules for statistics."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        function = _batch_norm if func is F.batch_norm else func
        return function(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return what ``torch.nn.functional.batch_norm`` does, in closed form where it can be."""
    tensors = [each for each in (input, running_mean, running_var, weight, bias) if each is not None]
    plain = all(type(each) in (Tensor, nn.Parameter) and each.dtype == input.dtype for each in tensors)
    known = input.dtype in (torch.float32, torch.float64) and input.device.type in DEVICES
    usual = eps > 0 and input.numel() > (input.shape[1] if training else 0)  # torch has its errors for the others
    if not (plain and known and usual) or torch._C._are_functorch_transforms_active():
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return _BatchNormFunction.apply(input, weight, bias, running_mean, running_var, training, momentum, eps)


class _BatchNormFunction(torch.autograd.Function):
    """The forward pass; its backward pass is a function of its own, so that autograd differentiates that one."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
    ) -> Tensor:
        y, mean, rstd = _aten.native_batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps)
        if not training:  # the kernel gives back the statistics of a batch only
            assert running_mean is not None and running_var is not None
            mean, rstd = running_mean, (running_var + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.has_bias, ctx.training, ctx.eps = bias is not None, training, eps
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, mean, rstd = ctx.saved_tensors
        constants = (mean, rstd, ctx.training, ctx.eps)
        by_x, by_weight, by_bias = _Backward.apply(_like(gradients[0], x), x, weight, *constants)
        by_weight, by_bias = None if weight is None else by_weight, by_bias if ctx.has_bias else None
        return by_x, by_weight, by_bias, None, None, None, None, None


class _Backward(torch.autograd.Function):
    """The backward pass, with its own adjoint in closed form; higher derivatives are written out."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, rstd: Tensor, training: bool, eps: float
    ) -> tuple[Tensor, ...]:
        gamma = torch.ones_like(rstd) if weight is None else weight
        by_x, sum_gx, sum_g = _first_derivative(g, x, gamma, mean, rstd, by_x=training)
        if not training:
            by_x = g * _per_channel(gamma * rstd, x)
        ctx.save_for_backward(g, x, weight, mean, rstd, sum_gx, sum_g)
        ctx.training, ctx.eps = training, eps
        ctx.set_materialize_grads(False)
        return by_x, sum_gx, sum_g

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        g, x, weight, mean, rstd, sum_gx, sum_g = ctx.saved_tensors
        n, zero, one = x.numel() / x.shape[1], torch.zeros_like(rstd), torch.ones_like(rstd)
        v = torch.zeros_like(x) if cotangents[0] is None else _like(cotangents[0], x)
        u, t = (zero if each is None else each for each in cotangents[1:])
        if torch.is_grad_enabled():
            by_g, by_x, by_weight = _written_out((g, x, weight), (v, u, t), mean, rstd, ctx.training, ctx.eps)
            return by_g, by_x, by_weight, None, None, None, None
        gs, sum_vg = rstd if weight is None else weight * rstd, _first_derivative(g, v, one, zero, one)[1]
        if not ctx.training:
            by_g, by_x = _combined(x, v, gs, u, t, mean, rstd), g * _per_channel(u * rstd, x)
            return by_g, by_x, None if weight is None else rstd * sum_vg, None, None, None, None
        _, sum_vx, sum_v = _first_derivative(v, x, one, mean, rstd)
        a, b, c, d = sum_g / n, sum_gx / n, sum_v / n, sum_vx / n
        h, outer = sum_vg / n - a * c - b * d, gs * rstd
        by_g = _combined(x, v, gs, u - gs * d, t - gs * c, mean, rstd)
        of_x = outer * (2 * b * d - h) - u * rstd * b
        by_x = _combined(x, v, -outer * b, of_x, outer * (a * d + b * c) - u * rstd * a, mean, rstd)
        by_x.addcmul_(g, _per_channel(u * rstd - outer * d, x))
        return by_g, by_x, None if weight is None else rstd * n * h, None, None, None, None


def _written_out(
    inputs: tuple[Tensor, Tensor, Tensor | None],
    cotangents: Sequence[Tensor],
    mean: Tensor,
    rstd: Tensor,
    training: bool,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the adjoint by elementary operations, for networks that differentiate inside and so need higher ones.

    Torch's own third derivative of BatchNorm on batch statistics is wrong (2.13): it takes them as constants.
    """
    g, x, weight = (None if each is None else _apart(each) for each in inputs)
    assert g is not None and x is not None
    gamma, beta = (torch.full_like(rstd, number, requires_grad=True) for number in (1.0, 0.0))
    gamma = gamma if weight is None else weight
    if training:
        variance, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
        rstd = (variance + eps).rsqrt()
    y = (x - _per_channel(mean, x)) * _per_channel(rstd * gamma, x) + _per_channel(beta, x)
    first = torch.autograd.grad(y, (x, gamma, beta), g, create_graph=True)
    by = torch.autograd.grad(first, (g, x, gamma), cotangents, create_graph=True, materialize_grads=True)
    return by[0], by[1], None if weight is None else by[2]


def _apart(tensor: Tensor) -> Tensor:
    """Return the tensor as an input of its own: what it is made of may depend on another input."""
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()


def _like(gradient: Tensor, x: Tensor) -> Tensor:
    """Return a gradient in the memory format of ``x``, in which the kernels are fast."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim(), torch.contiguous_format)
    return gradient.contiguous(memory_format=torch.contiguous_format if x.is_contiguous() else last)


def _per_channel(numbers: Tensor, x: Tensor) -> Tensor:
    """Return one number per channel in the shape that goes with ``x``."""
    return numbers.view(1, -1, *[1] * (x.dim() - 2))


def _first_derivative(
    g: Tensor, x: Tensor, gamma: Tensor, mean: Tensor, rstd: Tensor, *, by_x: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``g_x`` if wanted, ``sum g (x - mean) rstd`` and ``sum g`` per channel, by torch's kernel."""
    return _aten.native_batch_norm_backward(g, x, gamma, None, None, mean, rstd, True, 0.0, [by_x, True, True])


def _combined(
    x: Tensor, v: Tensor, of_v: Tensor, of_normalised: Tensor, constant: Tensor, mean: Tensor, rstd: Tensor
) -> Tensor:
    """Return ``of_v v + of_normalised x^ + constant`` with one number of each per channel, in two passes."""
    of_x, zero, one = of_normalised * rstd, torch.zeros_like(rstd), torch.ones_like(rstd)
    scaled = _aten.native_batch_norm(v, of_v, constant - of_x * mean, zero, one, False, 0.0, 0.0)[0]
    return scaled.addcmul_(x, _per_channel(of_x, x))
