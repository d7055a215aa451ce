"""The operators that PyTorch sees: one for the forward pass of a sparse layer, one for its backward pass.

A layer hands its weight over as a number in a tensor, so that a compiled graph stays valid when the topology changes.
"""

import itertools
import random
import weakref
from typing import List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ._rigl import Weight

# Numbers of another process, say in an exported graph, are none of this one.
_numbers = itertools.count(random.SystemRandom().getrandbits(62))
_handles: "weakref.WeakValueDictionary[int, Handle]" = weakref.WeakValueDictionary()


class Handle:
    """A weight, and the tensor by which the operators find it."""

    def __init__(self, weight: Weight):
        self.weight = weight
        self.number = torch.empty((), dtype=torch.int64, device="cpu")
        self.set(weight)

    def set(self, weight: Weight):
        """Another pattern, in the same tensor. Graphs of the one before can no longer be walked backward."""
        self.weight = weight
        if _handles.get(int(self.number)) is self:
            del _handles[int(self.number)]
        number = next(_numbers)
        self.number.fill_(number)
        _handles[number] = self


_CHANGED = (
    "the topology of a sparse layer has changed since its forward pass, or the layer is gone; "
    "call backward() before scheduler.step(). An exported graph works only in the process that made it"
)


def _weight(number: int) -> Weight:
    handle = _handles.get(number)
    if handle is None:
        raise RuntimeError(_CHANGED)
    return handle.weight


def _address(tensor: Tensor) -> Tuple[int, int]:
    return tensor.data_ptr(), tensor.numel()


def _check(what: str, tensor: Tensor, shape: Optional[Sequence[int]] = None) -> Tensor:
    """What the extension may have the address of."""
    if tensor.device.type != "cpu":
        raise RuntimeError(
            f"{what} must be on the CPU, where rigl computes, not on {tensor.device}; "
            "move the model and its inputs there with .to('cpu')"
        )
    if tensor.dtype != torch.float32:
        raise TypeError(f"{what} must be torch.float32, not {tensor.dtype}")
    if shape is not None and list(tensor.shape) != list(shape):
        raise ValueError(f"{what} must have shape {list(shape)}, not {list(tensor.shape)}")
    return tensor.contiguous()


def _output_shape(x: Tensor, outputs: int, window: List[int]) -> List[int]:
    """``window`` is empty, or kernel, stride, padding and dilation of a convolution, two numbers each."""
    if not window:
        return [x.shape[0], outputs]
    if any(x.shape[2 + i] + 2 * window[4 + i] < window[6 + i] * (window[i] - 1) + 1 for i in (0, 1)):
        raise ValueError(f"an image of {list(x.shape[2:])} pixels is smaller than the kernel of {window[:2]}")
    size = [
        (x.shape[2 + i] + 2 * window[4 + i] - window[6 + i] * (window[i] - 1) - 1) // window[2 + i] + 1 for i in (0, 1)
    ]
    return [x.shape[0], outputs, *size]


def _forward(
    weight: Weight, x: Tensor, values: Tensor, bias: Optional[Tensor], outputs: int, window: List[int]
) -> Tensor:
    x, values = _check("the input", x), _check("a layer's values", values, [weight.nnz])
    if bias is not None:
        bias = _check("a layer's bias", bias, [outputs])
    y = x.new_empty(_output_shape(x, outputs, window))
    weight.forward(
        torch.get_num_threads(),
        (x.data_ptr(), list(x.shape)),
        _address(values),
        (0, 0) if bias is None else _address(bias),
        _address(y),
    )
    return y


def _gradients(
    weight: Weight, dy: Tensor, x: Tensor, values: Tensor, outputs: int, wanted: List[bool]
) -> Tuple[Tensor, Tensor, Tensor]:
    x, values, dy = _check("the input", x), _check("a layer's values", values, [weight.nnz]), _check("the gradient", dy)
    gradients = [
        like.new_empty(shape if want else [0])
        for like, shape, want in zip((x, values, dy), (x.shape, values.shape, [outputs]), wanted)
    ]
    weight.backward(
        torch.get_num_threads(),
        _address(dy),
        (x.data_ptr(), list(x.shape)),
        _address(values),
        *(gradient.data_ptr() if want else 0 for gradient, want in zip(gradients, wanted)),
    )
    return gradients[0], gradients[1], gradients[2]


@torch.library.custom_op("rigl::sparse", mutates_args=(), device_types="cpu")
def sparse(
    x: Tensor, values: Tensor, bias: Optional[Tensor], weight: Tensor, outputs: int, window: List[int]
) -> Tensor:
    return _forward(_weight(int(weight.item())), x, values, bias, outputs, window)


@sparse.register_fake
def _(x, values, bias, weight, outputs, window):
    return x.new_empty(_output_shape(x, outputs, window))


@torch.library.custom_op("rigl::sparse_backward", mutates_args=(), device_types="cpu")
def sparse_backward(
    dy: Tensor, x: Tensor, values: Tensor, weight: Tensor, outputs: int, wanted: List[bool]
) -> Tuple[Tensor, Tensor, Tensor]:
    return _gradients(_weight(int(weight.item())), dy, x, values, outputs, wanted)


@sparse_backward.register_fake
def _(dy, x, values, weight, outputs, wanted):
    shapes = (x.shape, values.shape, [outputs])
    return tuple(like.new_empty(shape if want else [0]) for like, shape, want in zip((x, values, dy), shapes, wanted))


def _setup(ctx, inputs, output):
    x, values, _, weight, ctx.outputs, _ = inputs
    ctx.save_for_backward(x, values, weight.clone())


def _backward(ctx, dy):
    x, values, weight = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:3])
    gradients = sparse_backward(dy, x, values, weight, ctx.outputs, wanted)
    return (*(gradient if want else None for gradient, want in zip(gradients, wanted)), None, None, None)


sparse.register_autograd(_backward, setup_context=_setup)
# Under autocast the layers compute in 32 bits, as their values are stored.
torch.library.register_autocast("rigl::sparse", "cpu", torch.float32)


class _Sparse(torch.autograd.Function):
    """The same without the operators' cost, which is 40 µs a call: for tensors that nobody traces."""

    @staticmethod
    def forward(ctx, x, values, bias, handle, outputs, window):
        ctx.save_for_backward(x, values)
        ctx.handle, ctx.weight, ctx.outputs = handle, handle.weight, outputs
        return _forward(handle.weight, x, values, bias, outputs, window)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        if ctx.handle.weight is not ctx.weight:
            raise RuntimeError(_CHANGED)
        x, values = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        gradients = _gradients(ctx.weight, dy, x, values, ctx.outputs, wanted)
        return (*(gradient if want else None for gradient, want in zip(gradients, wanted)), None, None, None)


def _is_traced(x: Tensor) -> bool:
    return (
        torch.compiler.is_compiling()
        or type(x) not in (Tensor, torch.nn.Parameter)
        or x.device.type != "cpu"
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def apply(x: Tensor, values: Tensor, bias: Optional[Tensor], handle: Handle, outputs: int, window: List[int]) -> Tensor:
    """What a layer computes."""
    if torch.autograd.forward_ad._current_level >= 0:
        raise RuntimeError("sparse layers have no forward-mode derivatives; use backward()")
    if _is_traced(x):
        return sparse(x, values, bias, handle.number, outputs, window)
    if torch.is_autocast_enabled("cpu"):
        x = x.to(torch.float32)
    return _Sparse.apply(x, values, bias, handle, outputs, window)
