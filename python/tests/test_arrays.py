"""Products on arrays, against NumPy; no PyTorch is needed."""

import subprocess
import sys

import numpy as np
import pytest
from rigl.arrays import Matrix

scipy_sparse = pytest.importorskip("scipy.sparse")


def close(a, b):
    assert a.shape == b.shape and a.dtype == np.float32
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("format", ["csr", "bsr8x8", "bsr4x4", "bsr1x16"])
@pytest.mark.parametrize("shape,lanes", [((8, 8), 1), ((33, 17), 5), ((64, 40), 32), ((7, 130), 100), ((5, 5), 0)])
@pytest.mark.parametrize("threads", [1, 2])
def test_products(format, shape, lanes, threads):
    rng = np.random.default_rng(0)
    dense = (rng.random(shape) < 0.3) * rng.standard_normal(shape)
    dense = dense.astype(np.float32)
    for given in (dense, scipy_sparse.csr_array(dense), scipy_sparse.coo_matrix(dense)):
        a = Matrix(given, format, threads)
        np.testing.assert_array_equal(a.to_dense(), dense)
        x = rng.standard_normal((shape[1], lanes)).astype(np.float32)
        dy = rng.standard_normal((shape[0], lanes)).astype(np.float32)
        close(a @ x, dense @ x)
        close(a.T @ dy, dense.T @ dy)
        close(np.asfortranarray(x).T.copy().T, x)
        close(a @ np.asfortranarray(x), dense @ x)
        gradient = (dy @ x.T).reshape(-1)
        stored = a._positions >= 0
        close(a.sampled(dy, x)[stored], gradient[a._positions[stored]].astype(np.float32))
        np.testing.assert_array_equal(a.to_scipy().toarray(), dense)
        a.values[:] = 0
        assert not (a @ x).any()


def test_wrong_use_says_what_is_right():
    a = Matrix(np.eye(4, dtype=np.float32))
    with pytest.raises(TypeError, match="is of float64; it must be of float32"):
        a @ np.zeros((4, 2))
    with pytest.raises(ValueError, match=r"has shape \(3, 2\); it must be \(4, n\)"):
        a @ np.zeros((3, 2), np.float32)
    with pytest.raises(TypeError, match="the matrix is of float64"):
        Matrix(np.eye(4))
    with pytest.raises(ValueError, match="format is 'coo'"):
        Matrix(np.eye(4, dtype=np.float32), "coo")
    with pytest.raises(ValueError, match='format is "bsr3x3"'):
        Matrix(np.eye(4, dtype=np.float32), "bsr3x3")
    with pytest.raises(ValueError, match="threads is 0"):
        Matrix(np.eye(4, dtype=np.float32), threads=0)
    with pytest.raises(ValueError, match="it must be .4, 2."):
        a.sampled(np.zeros((4, 2), np.float32), np.zeros((4, 3), np.float32))


def test_without_torch_the_rest_says_so():
    code = """
import sys
sys.modules["torch"] = None
import rigl
try:
    rigl.SparseLinear
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rigl.SparseLinear needs PyTorch: pip install torch" in done.stdout
