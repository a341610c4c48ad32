"""The curvature matrices of a loss as symmetric operators: Hessian, Gauss-Newton and Fisher.

They stand on the loss and know nothing of the algorithms in ``linalg`` that use them, but for its replayed products.
"""

from sharpness.curvature.matrices import (
    MATRICES,
    CurvatureOperator,
    FisherOperator,
    GaussNewtonOperator,
    HessianOperator,
    curvature_operator,
    per_layer,
    remembering,
)

__all__ = [
    "MATRICES",
    "CurvatureOperator",
    "FisherOperator",
    "GaussNewtonOperator",
    "HessianOperator",
    "curvature_operator",
    "per_layer",
    "remembering",
]
