"""
What does the interval of an eigenvalue prove?
==============================================

Iterations for the largest eigenvalue approach it from below. When they stop, how far may they still be away? Here the
answer is known: a matrix of size 2,000 is given by its eigenvalues, two of which lie close together at the top.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import sharpness as sh
from sharpness.linalg.lanczos import extreme_eigenpairs

spectrum = torch.cat([torch.linspace(0, 1, 1998, dtype=torch.float64), torch.tensor([1.9, 2.0], dtype=torch.float64)])
operator = sh.FunctionOperator(lambda v: spectrum * v, 2000, torch.float64)

# %%
# The history has the number of products, the estimate from below, and both ends of the interval after each product.

pairs = extreme_eigenpairs(operator, rtol=1e-4, confidence=0.99, seed=0)
products, values, lower, upper = (np.array(column, dtype=float) for column in zip(*pairs.history, strict=True))
print(f"{pairs.eigenvalues[0]:.6f} in [{pairs.lowers[0]:.6f}, {pairs.uppers[0]:.6f}] after {products[-1]:.0f} products")

# %%
# A small residual says that *some* eigenvalue is near, not that it is the largest one. A start without any part along
# the top eigenvector finds the second one, and its residual is tiny. A start that is given therefore proves no upper
# bound, and the result says so. From a random start such bad luck has a known probability, which is what
# ``confidence`` bounds.

unlucky = torch.randn(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
unlucky[-1] = 0.0
missed = extreme_eigenpairs(operator, rtol=1e-4, start=unlucky)
print(
    f"from the unlucky start: {missed.eigenvalues[0]:.6f}, residual {missed.residuals[0]:.1e}, upper: {missed.uppers}"
)
print(missed.reasons)

figure, axes = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
axes.fill_between(products, lower, upper, alpha=0.25, label="proven interval, 99 %")
axes.plot(products, values, "o-", markersize=3, label="estimate, random start")
own = np.array([row[:2] for row in missed.history], dtype=float)
axes.plot(own[:, 0], own[:, 1], "s--", markersize=3, label="estimate, unlucky start")
axes.axhline(2.0, color="black", linewidth=0.8, label="largest eigenvalue")
axes.set(xlabel="products with the matrix", ylabel="eigenvalue", ylim=(0.8, 3.2))
axes.legend()
plt.show()
