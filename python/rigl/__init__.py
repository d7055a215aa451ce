"""Sparse layers for PyTorch whose time and memory follow density.

With PyTorch installed, ``rigl.SparseLinear``, ``rigl.SparseConv2d``, ``rigl.sparsify`` and the schedulers ``rigl.RigL``, ``rigl.SET``,
``rigl.Static`` and ``rigl.GMP`` are there; ``rigl.load_model`` and ``rigl.save_model`` exchange models with the command ``rigl``.
``rigl.arrays`` has products on NumPy arrays and SciPy matrices, and ``rigl.command`` runs the command, without PyTorch.
"""

import os as _os

from . import _rigl
from ._rigl import __version__

if hasattr(_os, "register_at_fork"):
    # The threads of a parent process do not exist in its child.
    _os.register_at_fork(after_in_child=_rigl.after_fork)

_TORCH = {
    "SparseLinear": "nn",
    "SparseConv2d": "nn",
    "from_dense": "convert",
    "to_dense": "convert",
    "sparsify": "convert",
    "RigL": "schedulers",
    "SET": "schedulers",
    "Static": "schedulers",
    "GMP": "schedulers",
    "load_model": "models",
    "save_model": "models",
}

_MODULES = ["arrays", "command"]

__all__ = ["__version__", *_MODULES, *_TORCH]


def __getattr__(name):
    # PyTorch takes a second to import: only who uses it waits.
    from importlib import import_module

    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name in _TORCH:
        try:
            module = import_module(f".{_TORCH[name]}", __name__)
        except ModuleNotFoundError as error:
            if error.name == "torch":
                raise ModuleNotFoundError(f"rigl.{name} needs PyTorch: pip install torch", name="torch") from None
            raise
        return getattr(module, name)
    raise AttributeError(f"module 'rigl' has no attribute {name!r}")


def __dir__():
    return __all__
