"""Grad-weights as a product of a low rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foldcam.runtime.system.errors import FoldcamError

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Factors:
    """Grad-weights `[M, K]` as a product.

    Attributes:
        rows: `float32 [M, r]`.
        basis: `float32 [r, K]`.
    """

    rows: Floats
    basis: Floats

    def product(self) -> Floats:
        """`float32 [M, K]`."""
        return self.rows @ self.basis


def factors(grad_weights: Floats, rank: int) -> Factors:
    """The best approximation of grad-weights by `rank` numbers per row (Eckart, Young 1936).

    A linear head's grad-weights are its weights times a direction in embedding space, so
    that a rank of D loses nothing.

    Args:
        grad_weights: `float32 [M, K]`, the distinct rows of a bank.
        rank: r.
    """
    scales = row_scales(grad_weights)[:, None].astype(np.float64)
    # Every row counts alike, whatever its size.
    exact = grad_weights / scales
    basis = basis_of(exact.T @ exact, rank, len(exact))
    return Factors((exact @ basis.T * scales).astype(np.float32), basis.astype(np.float32))


def row_scales(rows: Floats) -> Floats:
    """`float32 [M]`: for each row the power of two that is just below its greatest magnitude.

    Rows over their scale are of size 1 to 2, and times it exactly what they were: raw gradients
    of 1e-7 would vanish in half precision. The scale of a row of zeros is 1.
    """
    greatest = np.abs(rows).max(axis=1, initial=0.0)
    _, exponents = np.frexp(np.where(greatest > 0, greatest, 1.0))
    scales: Floats = np.ldexp(np.float32(1.0), exponents - 1).astype(np.float32)
    return scales


def basis_of(products: Doubles, rank: int, rows: int) -> Doubles:
    """The basis of `factors`, from products that add up over parts of the rows.

    Args:
        products: `float64 [K, K]`, the grad-weights' transpose times the grad-weights: banks
            have many more rows than K, so that its eigenvectors are cheaper than their SVD.

    Returns:
        `float64 [r, K]`, the right singular vectors of the greatest singular values.
    """
    channels = len(products)
    if rank >= min(rows, channels):
        raise FoldcamError(
            f"--compress rank:{rank} saves nothing: the bank has {rows} distinct rows of "
            f"{channels} grad-weights, so the rank must be below {min(rows, channels)}."
        )
    _, vectors = np.linalg.eigh(products)
    basis: Doubles = vectors[:, ::-1][:, :rank].T
    return basis
