"""Sparse layers as PyTorch modules."""

import itertools
import math
from typing import List, Optional, Tuple, Union

import torch
from torch import Tensor, nn

from ._rigl import Weight
from .ops import Handle, apply

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
        """Sets another pattern."""
        weight = weight or self._planned(offsets, columns)
        self.register_buffer("row_offsets", offsets)
        self.register_buffer("columns", columns)
        if "_handle" in self.__dict__:
            self._handle.set(weight)
        else:
            self._handle = Handle(weight)
        self._versions = (offsets._version, columns._version)

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

    @property
    def weight(self) -> Tensor:
        """:meth:`dense_weight`, for code that asks a dense layer for its weight."""
        return self.dense_weight()

    def _positions(self) -> Tensor:
        return torch.tensor(self._handle.weight.positions(), dtype=torch.int64, device="cpu")

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
            if self._versions != (self.row_offsets._version, self.columns._version):
                self._follow()
            if x.dtype != torch.float32 and not torch.is_autocast_enabled("cpu"):
                raise TypeError(f"{type(self).__name__}: the input must be torch.float32, not {x.dtype}")
        return apply(x, self.values, self.bias, self._handle, self._size[0], self._window)

    def _follow(self):
        """Takes the pattern that somebody has written into the buffers, as DistributedDataParallel does."""
        self._versions = (self.row_offsets._version, self.columns._version)
        if self.columns.is_meta:
            return
        offsets, columns = self.row_offsets.cpu(), self.columns.cpu()
        planned = tuple(_indices(part) for part in self._handle.weight.indices())
        if not (torch.equal(planned[0], offsets) and torch.equal(planned[1], columns)):
            weight = self._planned(offsets.contiguous(), columns.contiguous())
            if weight.nnz != self.values.numel():
                raise RuntimeError(
                    f"{type(self).__name__}: there are {self.values.numel()} values, but the pattern has {weight.nnz}; "
                    "only the schedulers and load_state_dict may change their number"
                )
            self._handle.set(weight)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        names = ("row_offsets", "columns", "values")
        parts = [state_dict.get(prefix + name) for name in names]
        if any(part is not None for part in parts):
            missing = [prefix + name for name, part in zip(names, parts) if part is None]
            if missing:
                raise ValueError(f"the state has no {', '.join(missing)}; pattern and values belong together")
            offsets, columns, values = (part.detach().cpu() for part in parts)
            planned = tuple(_indices(part) for part in self._handle.weight.indices())
            if not (torch.equal(planned[0], offsets) and torch.equal(planned[1], columns)):
                weight = self._planned(offsets.contiguous(), columns.contiguous())
                if weight.nnz != values.numel():
                    raise ValueError(f"{prefix}values: there are {values.numel()}; the pattern has {weight.nnz}")
                self._take(offsets.clone(), columns.clone(), weight)
                if values.numel() != self.values.numel():
                    replace_values(self.values, torch.empty(values.numel()))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getstate__(self):
        state = self.__dict__.copy()
        del state["_handle"], state["_versions"]
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        if self.columns.is_meta:
            raise RuntimeError(f"{type(self).__name__}: the pattern is on the meta device and holds no data")
        offsets, columns = self.row_offsets.cpu(), self.columns.cpu()
        self._handle = Handle(self._planned(offsets.contiguous(), columns.contiguous()))
        self._versions = (self.row_offsets._version, self.columns._version)

    def __copy__(self):
        # A shallow copy shares values and buffers, and so the pattern.
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        return copy

    def __deepcopy__(self, memo):
        from copy import deepcopy

        copy = type(self).__new__(type(self))
        memo[id(self)] = copy
        copy.__setstate__(deepcopy(self.__getstate__(), memo))
        return copy


def replace_values(parameter: nn.Parameter, values: Tensor):
    """Gives a parameter another number of values. It stays the object that an optimizer holds."""
    parameter.grad = None
    # A change of type makes PyTorch forget the shape of the gradient that a graph of before waits for.
    parameter.data = torch.empty(0, dtype=torch.float64)
    parameter.data = values


def _indices(numbers) -> Tensor:
    return torch.as_tensor(numbers, dtype=torch.int64, device="cpu").to(torch.int32)


def _address(tensor: Tensor) -> Tuple[int, int]:
    if tensor.dtype != torch.int32 or not tensor.is_contiguous() or tensor.device.type != "cpu":
        raise TypeError(
            f"the indices of a pattern are {tensor.dtype} on {tensor.device}; they must be torch.int32 on the CPU, and contiguous"
        )
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
        if format.startswith("bsr"):
            block = format[3:].partition("x")[2]
            if block.isdecimal() and (int(block) == 0 or in_channels // groups % int(block)):
                raise ValueError(
                    f"format is {format!r}, whose blocks span {block} input channels of a group; "
                    f"there are {in_channels // groups}, which {block} must divide"
                )
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
