"""Sparse layers as PyTorch modules."""

import itertools
import math
from typing import List, Optional, Tuple, Union

import torch
from torch import Tensor, nn

from ._rigl import Weight
from .ops import Handle, sparse

_unnamed = itertools.count()

Pair = Union[int, Tuple[int, ...]]


def _pair(what: str, value: Pair) -> Tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(number, int) and number >= 0 for number in pair):
        raise ValueError(f"{what} is {value!r}; it must be one whole number, or two")
    return pair[0], pair[1]


class SparseLayer(nn.Module):
    """What :class:`SparseLinear` and :class:`SparseConv2d` share.

    ``values`` and ``bias`` are parameters, so every optimizer, clipping, ``state_dict`` and ``DistributedDataParallel`` work on them.
    ``row_offsets`` and ``columns`` are buffers: the pattern in CSR (of single weights, or of blocks), as 32-bit integers. Only the
    schedulers and ``load_state_dict`` change them.
    """

    values: nn.Parameter
    bias: Optional[nn.Parameter]
    row_offsets: Tensor
    columns: Tensor
    _handle: Handle

    def __init__(self, size: Tuple[int, int], dense_shape: Tuple[int, ...], window: List[int], format: str):
        super().__init__()
        self.format = format
        self._size, self._dense_shape, self._window = size, dense_shape, window

    def _begin(self, density: float, bias: bool, seed: Optional[int]):
        if not 0 < density <= 1:
            raise ValueError(f"density is {density}; it must be above 0 and at most 1")
        count = round(density * math.prod(self._size))
        if count == 0:
            raise ValueError(f"density {density} leaves a layer of {math.prod(self._size)} weights with none")
        if seed is None:
            seed = int(torch.randint(2**62, ()))
        offsets, columns = Weight.random_pattern(self._size, self.format, count, seed, "")
        self._take(_indices(offsets), _indices(columns))
        self.values = nn.Parameter(torch.empty(self._handle.weight.nnz))
        if bias:
            self.bias = nn.Parameter(torch.empty(self._size[0]))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def _planned(self, offsets: Tensor, columns: Tensor) -> Weight:
        raise NotImplementedError

    def _take(self, offsets: Tensor, columns: Tensor, weight: Optional[Weight] = None):
        """Another pattern."""
        weight = weight or self._planned(offsets, columns)
        self.register_buffer("row_offsets", offsets)
        self.register_buffer("columns", columns)
        if "_handle" in self.__dict__:
            self._handle.set(weight)
        else:
            self._handle = Handle(weight)

    def reset_parameters(self):
        """Values as PyTorch's dense layer has them, but for the fan-in: the weights of a row that exist (Evci et al. 2022)."""
        with torch.no_grad():
            rows, positions = self._size[0], self._positions()
            row = torch.div(positions.clamp(min=0), self._size[1], rounding_mode="floor")
            fan_in = torch.bincount(row[positions >= 0], minlength=rows).clamp(min=1)
            bound = fan_in.to(torch.float32).rsqrt()
            self.values.uniform_(-1, 1).mul_(bound[row])
            self.values[positions < 0] = 0
            if self.bias is not None:
                self.bias.uniform_(-1, 1).mul_(bound)

    @property
    def nnz(self) -> int:
        """Values that the layer stores, the padding of blocks included."""
        return self.values.numel()

    @property
    def density(self) -> float:
        """Stored values by positions."""
        return self.nnz / math.prod(self._size)

    def _positions(self) -> Tensor:
        return torch.tensor(self._handle.weight.positions(), dtype=torch.int64)

    def mask(self) -> Tensor:
        """Which weights exist, in the shape of the dense weight."""
        mask = torch.zeros(math.prod(self._size), dtype=torch.bool)
        positions = self._positions()
        mask[positions[positions >= 0]] = True
        return mask.view(self._dense_shape)

    def dense_weight(self) -> Tensor:
        """The weight with its zeros, in the shape of the dense weight. Gradients flow back to ``values``."""
        positions = self._positions()
        stored = positions >= 0
        dense = self.values.new_zeros(math.prod(self._size))
        return dense.index_put((positions[stored],), self.values[stored]).view(self._dense_shape)

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _apply_sparse(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self._check(x)
        return sparse(x, self.values, self.bias, self._handle.number, self._size[0], self._window)

    def _check(self, x: Tensor):
        name = type(self).__name__
        for what, tensor in (("the input", x), ("the layer's values", self.values)):
            if tensor.device.type not in ("cpu", "meta"):
                raise RuntimeError(
                    f"{name}: {what} is on the device {tensor.device}; rigl computes on the CPU only. "
                    "Move the model and its inputs there with .to('cpu')"
                )
        if self.values.dtype != torch.float32:
            raise TypeError(f"{name}: the layer's values are {self.values.dtype}; they must be torch.float32")
        if x.dtype != torch.float32 and not torch.is_autocast_enabled("cpu"):
            raise TypeError(f"{name}: the input is {x.dtype}; it must be torch.float32")
        if self.values.numel() != self._handle.weight.nnz:
            raise RuntimeError(
                f"{name}: there are {self.values.numel()} values, but the pattern has {self._handle.weight.nnz}; "
                "only the schedulers and load_state_dict may change their number"
            )

    def _load_from_state_dict(self, state_dict, prefix, *args):
        offsets, columns = (state_dict.get(prefix + name) for name in ("row_offsets", "columns"))
        values = state_dict.get(prefix + "values")
        if offsets is not None and columns is not None and values is not None:
            same = self.columns.shape == columns.shape and torch.equal(self.columns, columns.cpu())
            if not (same and torch.equal(self.row_offsets, offsets.cpu())):
                weight = self._planned(offsets.cpu().contiguous(), columns.cpu().contiguous())
                if weight.nnz != values.numel():
                    raise ValueError(f"{prefix}values: there are {values.numel()}; the pattern has {weight.nnz}")
                self._take(offsets.clone().cpu(), columns.clone().cpu(), weight)
                if values.numel() != self.values.numel():
                    self.values.data = torch.empty(values.numel())
                    self.values.grad = None
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getstate__(self):
        state = self.__dict__.copy()
        del state["_handle"]
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        self._handle = Handle(self._planned(self.row_offsets, self.columns))

    def __deepcopy__(self, memo):
        from copy import deepcopy

        copy = type(self).__new__(type(self))
        memo[id(self)] = copy
        copy.__setstate__(deepcopy(self.__getstate__(), memo))
        return copy


def _indices(numbers) -> Tensor:
    return torch.as_tensor(numbers, dtype=torch.int64).to(torch.int32)


def _address(tensor: Tensor) -> Tuple[int, int]:
    if tensor.dtype != torch.int32 or not tensor.is_contiguous():
        raise TypeError(f"the indices of a pattern are {tensor.dtype}; they must be torch.int32, and contiguous")
    return tensor.data_ptr(), tensor.numel()


class SparseLinear(SparseLayer):
    """A linear layer ``y = x Wᵀ + bias`` whose weight stores ``density`` of its entries.

    Args:
        in_features: size of each input sample.
        out_features: size of each output sample.
        density: the share of weights that exist, at random positions.
        format: ``"csr"``, or blocks such as ``"bsr8x8"``.
        bias: whether there is one.
        seed: of the pattern; by default from PyTorch's generator.

    Inputs are ``[..., in_features]`` of ``torch.float32`` on the CPU. A pass costs ``2 · nnz`` operations a sample.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        density: float = 0.1,
        format: str = "csr",
        bias: bool = True,
        *,
        seed: Optional[int] = None,
    ):
        super().__init__((out_features, in_features), (out_features, in_features), [], format)
        self.in_features, self.out_features = in_features, out_features
        self._begin(density, bias, seed)

    def _planned(self, offsets: Tensor, columns: Tensor) -> Weight:
        return Weight.linear(*self._size, self.format, _address(offsets), _address(columns))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.in_features:
            raise ValueError(
                f"SparseLinear: the input has shape {list(x.shape)}; its last size must be {self.in_features}"
            )
        if x.dim() == 2:
            return self._apply_sparse(x)
        return self._apply_sparse(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"format={self.format}, density={self.density:.4g}"
        )


class SparseConv2d(SparseLayer):
    """A convolution over images whose weight stores ``density`` of its entries.

    Arguments are those of ``torch.nn.Conv2d`` with padding by zeros, and ``density``, ``format`` and ``seed`` as of
    :class:`SparseLinear`. Inputs are ``[samples, channels, height, width]`` of ``torch.float32`` on the CPU.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        density: float = 0.1,
        format: str = "csr",
        *,
        seed: Optional[int] = None,
    ):
        kernel, stride = _pair("kernel_size", kernel_size), _pair("stride", stride)
        padding, dilation = _pair("padding", padding), _pair("dilation", dilation)
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"groups is {groups}; it must divide {in_channels} and {out_channels} channels")
        columns = in_channels // groups * kernel[0] * kernel[1]
        shape = (out_channels, in_channels // groups, *kernel)
        super().__init__((out_channels, columns), shape, [*kernel, *stride, *padding, *dilation], format)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.padding, self.dilation = kernel, stride, padding, dilation
        self._begin(density, bias, seed)

    def _planned(self, offsets: Tensor, columns: Tensor) -> Weight:
        channels = (self.out_channels, self.in_channels)
        window = (self.kernel_size, self.stride, self.padding, self.dilation)
        return Weight.conv(channels, *window, self.groups, self.format, _address(offsets), _address(columns))

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"SparseConv2d: the input has shape {list(x.shape)}; it must be [samples, {self.in_channels}, height, width]"
            )
        return self._apply_sparse(x)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}, "
            f"format={self.format}, density={self.density:.4g}"
        )
