"""The largest curvature of a loss in a group of parameters, from a few Hessian-vector products.

The top eigenvalue of one batch's Hessian overestimates that of the data: the eigenvector fits the batch's odd rows. So
the direction is found on one batch (`sharpest_direction`) and the curvature measured on another (`curvature_along`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Vector = list[Tensor]


def sharpest_direction(
    loss: Tensor, params: Sequence[nn.Parameter], products: int, scale: Sequence[Tensor] | None = None
) -> Vector | None:
    """Return a unit vector near the top eigenvector of the Hessian, one tensor per parameter; None without curvature.

    Lanczos' recursion without reorthogonalisation (Golub and Van Loan, Matrix Computations, 4th ed., 10.1) from the
    gradient, which lies mostly in the sharp directions already, so that three products suffice. It keeps `products`
    copies of the parameters, and reads 2 × `products` numbers from the device.

    Args:
        loss: a 0-d tensor with a graph that can be differentiated twice.
        params: the parameters.
        products: the number of Hessian-vector products.
        scale: per parameter a tensor s of its shape, or none; the Hessian is then `s H s`, which is what an optimiser
            sees that divides by `1 / s^2` (Adam).
    """
    gradient, product = _hessian(loss, params, scale)
    size = _norm(gradient)
    if not size > 0:
        return None
    v = list(torch._foreach_div(gradient, size))
    before, beta = [torch.zeros_like(x) for x in v], v[0].new_zeros(())
    basis: list[Vector] = []
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    for _ in range(products):
        basis.append(v)
        w = product(v)
        alpha = _dot(w, v)
        torch._foreach_sub_(w, torch._foreach_mul(v, alpha))
        torch._foreach_sub_(w, torch._foreach_mul(before, beta))
        beta = _norm(w)
        diagonal.append(alpha)
        beside.append(beta)
        before, v = v, list(torch._foreach_div(w, beta.clamp(min=torch.finfo(beta.dtype).tiny)))
    packed = torch.stack([*diagonal, *beside]).double().cpu()
    a, b = packed[:products], packed[products : 2 * products - 1]
    if not packed.isfinite().all():
        return None
    weights = torch.linalg.eigh(torch.diag(a) + torch.diag(b, 1) + torch.diag(b, -1)).eigenvectors[:, -1].tolist()
    top = [torch.zeros_like(x) for x in v]
    for weight, vector in zip(weights, basis, strict=True):
        torch._foreach_add_(top, vector, alpha=weight)
    return list(torch._foreach_div(top, _norm(top)))


def curvature_along(
    loss: Tensor, params: Sequence[nn.Parameter], direction: Vector, scale: Sequence[Tensor] | None = None
) -> Tensor:
    """Return `v^T H v` for a unit vector v of `sharpest_direction`, with the same `scale` (0-d, on the device)."""
    _, product = _hessian(loss, params, scale)
    return _dot(product(direction), direction)


def _hessian(
    loss: Tensor, params: Sequence[nn.Parameter], scale: Sequence[Tensor] | None
) -> tuple[Vector, Callable[[Vector], Vector]]:
    """Return the gradient and the product with the Hessian, both scaled; 0 where the loss does not reach."""
    raw = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
    reached = [g for g in raw if g.requires_grad]

    def scaled(vector: Sequence[Tensor]) -> Vector:
        return list(vector) if scale is None else list(torch._foreach_mul(list(vector), list(scale)))

    def product(v: Vector) -> Vector:
        outer = [x for x, g in zip(scaled(v), raw, strict=True) if g.requires_grad]
        if not reached:
            return [torch.zeros_like(x) for x in v]
        return scaled(torch.autograd.grad(reached, params, outer, retain_graph=True, materialize_grads=True))

    return scaled([g.detach() for g in raw]), product


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))
