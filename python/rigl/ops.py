"""The operators that PyTorch sees: one for the forward pass of a sparse layer, one for its backward pass.

A layer hands its weight over as a number in a tensor, so that a compiled graph stays valid when the topology changes.
"""

import itertools
import weakref
from typing import List, Optional, Tuple

import torch
from torch import Tensor

from ._rigl import Weight

_numbers = itertools.count(1)
_handles: "weakref.WeakValueDictionary[int, Handle]" = weakref.WeakValueDictionary()


class Handle:
    """A weight, and the tensor by which the operators find it."""

    def __init__(self, weight: Weight):
        self.weight = weight
        self.number = torch.empty((), dtype=torch.int64)
        self.set(weight)

    def set(self, weight: Weight):
        """Another pattern, in the same tensor. Graphs of the one before can no longer be walked backward."""
        self.weight = weight
        if (old := _handles.get(int(self.number))) is self:
            del _handles[int(self.number)]
        number = next(_numbers)
        self.number.fill_(number)
        _handles[number] = self


def _weight(number: int) -> Weight:
    handle = _handles.get(number)
    if handle is None:
        raise RuntimeError(
            "the topology of a sparse layer has changed since its forward pass, or the layer is gone; "
            "call backward() before scheduler.step()"
        )
    return handle.weight


def _address(tensor: Tensor) -> Tuple[int, int]:
    return tensor.data_ptr(), tensor.numel()


def _output_shape(x: Tensor, outputs: int, window: List[int]) -> List[int]:
    """``window`` is empty, or kernel, stride, padding and dilation of a convolution, two numbers each."""
    if not window:
        return [x.shape[0], outputs]
    size = [
        (x.shape[2 + i] + 2 * window[4 + i] - window[6 + i] * (window[i] - 1) - 1) // window[2 + i] + 1 for i in (0, 1)
    ]
    return [x.shape[0], outputs, *size]


@torch.library.custom_op("rigl::sparse", mutates_args=(), device_types="cpu")
def sparse(
    x: Tensor, values: Tensor, bias: Optional[Tensor], weight: Tensor, outputs: int, window: List[int]
) -> Tensor:
    x, values = x.contiguous(), values.contiguous()
    y = x.new_empty(_output_shape(x, outputs, window))
    _weight(int(weight.item())).forward(
        torch.get_num_threads(),
        (x.data_ptr(), list(x.shape)),
        _address(values),
        0 if bias is None else bias.data_ptr(),
        _address(y),
    )
    return y


@sparse.register_fake
def _(x, values, bias, weight, outputs, window):
    return x.new_empty(_output_shape(x, outputs, window))


@torch.library.custom_op("rigl::sparse_backward", mutates_args=(), device_types="cpu")
def sparse_backward(
    dy: Tensor, x: Tensor, values: Tensor, weight: Tensor, outputs: int, wanted: List[bool]
) -> Tuple[Tensor, Tensor, Tensor]:
    dy, x, values = dy.contiguous(), x.contiguous(), values.contiguous()
    gradients = [
        like.new_empty(shape if want else [0])
        for like, shape, want in zip((x, values, dy), (x.shape, values.shape, [outputs]), wanted)
    ]
    _weight(int(weight.item())).backward(
        torch.get_num_threads(),
        _address(dy),
        (x.data_ptr(), list(x.shape)),
        _address(values),
        *(gradient.data_ptr() if want else 0 for gradient, want in zip(gradients, wanted)),
    )
    return gradients[0], gradients[1], gradients[2]


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
