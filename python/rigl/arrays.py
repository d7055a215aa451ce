"""Products of sparse matrices with NumPy arrays, without PyTorch.

::

    import numpy, scipy.sparse
    from rigl.arrays import Matrix

    a = Matrix(scipy.sparse.random_array((512, 1024), density=0.1, dtype=numpy.float32))
    y = a @ x             # x is [1024, n]
    dx = a.T @ dy         # dy is [512, n]
    da = a.sampled(dy, x) # the gradient of a.values: dy · xᵀ where the matrix has entries
"""

import os
from typing import Any, Optional, Tuple

import numpy as np

from ._rigl import Weight


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _address(array: np.ndarray) -> Tuple[int, int]:
    return array.ctypes.data, array.size


def _operand(what: str, array: Any, rows: int, lanes: Optional[int] = None) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype != np.float32:
        raise TypeError(f"{what} is of {array.dtype}; it must be of float32, which astype('float32') makes it")
    if array.ndim != 2 or array.shape[0] != rows or lanes not in (None, array.shape[1]):
        raise ValueError(f"{what} has shape {array.shape}; it must be ({rows}, {'n' if lanes is None else lanes})")
    return np.ascontiguousarray(array)


class Matrix:
    """A sparse matrix, planned once for many products.

    Args:
        matrix: a SciPy sparse matrix or array, or a NumPy array whose zeros are left out.
        format: ``"csr"``, or blocks such as ``"bsr8x8"``: a block is stored if any entry of it is.
        threads: by default all cores of this process.

    ``values`` may be changed in place: it has one number for each stored entry, the padding of blocks included.
    """

    def __init__(self, matrix: Any, format: str = "csr", threads: Optional[int] = None):
        if hasattr(matrix, "tocsr"):
            csr = matrix.tocsr(copy=True)
            csr.sum_duplicates()
            rows = np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr))
            columns, values = csr.indices, csr.data
            self.shape: Tuple[int, int] = (int(csr.shape[0]), int(csr.shape[1]))
        else:
            dense = np.asarray(matrix)
            if dense.ndim != 2:
                raise ValueError(f"the matrix has {dense.ndim} dimensions; it must have 2")
            rows, columns = dense.nonzero()
            values, self.shape = dense[rows, columns], (dense.shape[0], dense.shape[1])
        if values.dtype != np.float32:
            raise TypeError(f"the matrix is of {values.dtype}; it must be of float32: matrix.astype('float32')")
        self.format, self.threads = format, _threads() if threads is None else threads
        if self.threads < 1:
            raise ValueError(f"threads is {threads}; it must be 1 or more")
        r, c = (1, 1) if format == "csr" else self._block()
        grid = (-(-self.shape[0] // r), -(-self.shape[1] // c))
        places = np.unique(rows // r * np.int64(grid[1]) + columns // c)
        offsets = np.zeros(grid[0] + 1, np.int32)
        np.cumsum(np.bincount(places // max(grid[1], 1), minlength=grid[0]), out=offsets[1:])
        stored = (places % max(grid[1], 1)).astype(np.int32)
        self._weight = Weight.linear(*self.shape, format, _address(offsets), _address(stored))
        self._positions = np.array(self._weight.positions(), np.int64)
        #: One for each stored entry.
        self.values = np.zeros(self._weight.nnz, np.float32)
        at = rows * np.int64(self.shape[1]) + columns
        order = np.argsort(self._positions, kind="stable")
        self.values[order[np.searchsorted(self._positions[order], at)]] = values

    def _block(self) -> Tuple[int, int]:
        sizes = self.format.removeprefix("bsr").split("x")
        if not self.format.startswith("bsr") or len(sizes) != 2 or not all(size.isdecimal() for size in sizes):
            raise ValueError(f"format is {self.format!r}; it must be 'csr', or blocks such as 'bsr8x8'")
        r, c = (max(int(size), 1) for size in sizes)
        return r, c

    @property
    def nnz(self) -> int:
        """Stored entries, the padding of blocks included."""
        return self.values.size

    @property
    def T(self) -> "Transposed":
        """For products with the transposed matrix. Nothing is copied."""
        return Transposed(self)

    def _values(self) -> Tuple[int, int]:
        if self.values.dtype != np.float32 or not self.values.flags.c_contiguous:
            raise TypeError("values must stay a contiguous array of float32; change it in place: a.values[:] = ...")
        return _address(self.values)

    def _product(self, x: Any, transpose: bool) -> np.ndarray:
        rows, columns = self.shape[::-1] if transpose else self.shape
        x = _operand("the operand", x, columns)
        y = np.empty((rows, x.shape[1]), np.float32)
        self._weight.product(self.threads, transpose, x.shape[1], self._values(), _address(x), _address(y))
        return y

    def __matmul__(self, x: Any) -> np.ndarray:
        return self._product(x, False)

    def sampled(self, dy: Any, x: Any) -> np.ndarray:
        """``dy · xᵀ`` at the stored entries: the gradient of ``values`` where ``y = a @ x``."""
        dy = _operand("dy", dy, self.shape[0])
        x = _operand("x", x, self.shape[1], dy.shape[1])
        gradient = np.empty(self.values.size, np.float32)
        self._weight.sampled(self.threads, x.shape[1], _address(dy), _address(x), _address(gradient))
        return gradient

    def to_dense(self) -> np.ndarray:
        """The matrix with its zeros."""
        dense = np.zeros(self.shape, np.float32)
        stored = self._positions >= 0
        dense.reshape(-1)[self._positions[stored]] = self.values[stored]
        return dense

    def to_scipy(self):
        """A ``scipy.sparse.csr_array`` of the stored entries."""
        from scipy.sparse import coo_array  # type: ignore[import-untyped]

        stored = self._positions >= 0
        places = np.divmod(self._positions[stored], self.shape[1])
        return coo_array((self.values[stored], places), self.shape).tocsr()


class Transposed:
    """A matrix in products with its transpose: see :attr:`Matrix.T`."""

    def __init__(self, matrix: Matrix):
        self.T = matrix
        self.shape = matrix.shape[::-1]

    def __matmul__(self, x: Any) -> np.ndarray:
        return self.T._product(x, True)
