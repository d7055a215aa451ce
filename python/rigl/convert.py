"""From dense models to sparse ones, and back."""

import math
from typing import Any, Iterable, List, Optional, Tuple, Union

import torch
from torch import Tensor, nn

from . import _rigl
from ._rigl import Weight
from .nn import SparseConv2d, SparseLayer, SparseLinear, _indices


def _blank(module: Any, format: str) -> SparseLayer:
    """A sparse layer of the same shape, as sparse as can be."""
    bias = module.bias is not None
    if isinstance(module, nn.Linear):
        size = module.in_features * module.out_features
        return SparseLinear(module.in_features, module.out_features, 1 / size, format, bias, seed=0)
    if isinstance(module, nn.Conv2d):
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise ValueError(
                f"from_dense: the convolution pads with {module.padding_mode!r}, {module.padding!r}; "
                "it must pad with zeros, by a number of pixels"
            )
        window = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups)
        size = module.weight.numel()
        return SparseConv2d(module.in_channels, module.out_channels, *window, bias, 1 / size, format, seed=0)
    raise TypeError(f"from_dense: {type(module).__name__} has no sparse counterpart; nn.Linear and nn.Conv2d have")


def from_dense(module: Any, mask: Union[Tensor, float], format: str = "csr") -> SparseLayer:
    """The sparse layer with the weights of ``module`` that ``mask`` keeps.

    Args:
        module: an ``nn.Linear`` or ``nn.Conv2d``, on the CPU and of ``torch.float32``.
        mask: a tensor of the weight's shape that is not zero where a weight is to exist; or a density, for which the weights of
            largest magnitude (blocks of largest norm) stay.
        format: ``"csr"``, or blocks such as ``"bsr8x8"``: a block exists if the mask keeps any of it, and then as a whole.
    """
    layer = _blank(module, format)
    weight = module.weight.detach()
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        raise TypeError(
            f"from_dense: the weight is {weight.dtype} on {weight.device}; it must be torch.float32 on the CPU"
        )
    matrix = weight.reshape(layer._size)
    if isinstance(mask, Tensor):
        if mask.shape != weight.shape:
            raise ValueError(f"from_dense: the mask has shape {list(mask.shape)}; the weight has {list(weight.shape)}")
        scores, count = mask.reshape(layer._size).ne(0).to(torch.float32), 0
    else:
        if not 0 < mask <= 1:
            raise ValueError(f"from_dense: density is {mask}; it must be above 0 and at most 1")
        scores, count = matrix, round(mask * matrix.numel())
        if count == 0:
            raise ValueError(f"from_dense: density {mask} leaves a layer of {matrix.numel()} weights with none")
    grid = _block_norms(scores, layer)
    if isinstance(mask, Tensor):
        stored = grid > 0
        if not stored.any():
            raise ValueError("from_dense: the mask keeps no weight at all")
    else:
        blocks = max(round(count / (matrix.numel() / grid.numel())), 1)
        stored = torch.zeros(grid.numel(), dtype=torch.bool)
        stored[grid.flatten().topk(blocks).indices] = True
        stored = stored.view(grid.shape)
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), stored.sum(1).cumsum(0)))
    layer._take(_indices(offsets), _indices(stored.nonzero()[:, 1]))
    positions = layer._positions()
    values = matrix.flatten()[positions.clamp(min=0)]
    values[positions < 0] = 0
    layer.values = nn.Parameter(values, module.weight.requires_grad)
    if layer.bias is not None:
        layer.bias = nn.Parameter(module.bias.detach().clone(), module.bias.requires_grad)
    return layer.train(module.training)


def _block_norms(matrix: Tensor, layer: SparseLayer) -> Tensor:
    """The norm of each block of the grid; of single weights their magnitudes."""
    if layer.format == "csr":
        return matrix.abs()
    r, c = (int(size) for size in layer.format[3:].split("x"))
    rows, columns = matrix.shape
    taps = math.prod(layer.kernel_size) if isinstance(layer, SparseConv2d) else 1
    # Blocks of a convolution span channels of one tap; the grid's columns are [tap][channel block].
    by_tap = matrix.view(rows, columns // taps, taps)
    channels = columns // taps
    padded = by_tap.new_zeros(-(-rows // r) * r, -(-channels // c) * c, taps)
    padded[:rows, :channels] = by_tap
    blocks = padded.view(padded.shape[0] // r, r, padded.shape[1] // c, c, taps)
    norms = blocks.square().sum((1, 3)).sqrt()
    return norms.transpose(1, 2).reshape(padded.shape[0] // r, -1)


def to_dense(layer: SparseLayer) -> Union[nn.Linear, nn.Conv2d]:
    """The ``nn.Linear`` or ``nn.Conv2d`` that computes the same."""
    dense: Union[nn.Linear, nn.Conv2d]
    if isinstance(layer, SparseLinear):
        dense = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
    elif isinstance(layer, SparseConv2d):
        window = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
        bias = layer.bias is not None
        dense = nn.Conv2d(layer.in_channels, layer.out_channels, *window, bias=bias)  # type: ignore[arg-type]
    else:
        raise TypeError(f"to_dense: {type(layer).__name__} is no sparse layer")
    with torch.no_grad():
        dense.weight.copy_(layer.dense_weight())
        dense.weight.requires_grad_(layer.values.requires_grad)
        if layer.bias is not None and dense.bias is not None:
            dense.bias.copy_(layer.bias).requires_grad_(layer.bias.requires_grad)
    return dense.train(layer.training)


def _every(model: nn.Module) -> List[Tuple[str, Any]]:
    """All modules by all of their names."""
    return list(model.named_modules(remove_duplicate=False))


def sparsify(
    model: nn.Module,
    density: float,
    distribution: str = "erk",
    skip: Iterable[str] = (),
    format: str = "csr",
    *,
    keep: str = "random",
    erk_power: float = 1.0,
    seed: Optional[int] = None,
) -> nn.Module:
    """Replaces the linear layers and convolutions of a model by sparse ones, in place, and returns it.

    Make the optimizer afterwards: it must have the parameters of the new layers.

    Args:
        model: the model; all its ``nn.Linear`` and ``nn.Conv2d`` are replaced, but no subclasses of them, such as the output of
            ``nn.MultiheadAttention``.
        density: the share of weights that stay, of all these layers together. A layer that would keep all of its weights stays
            dense; with a density of 1 all become sparse layers with all their weights, which is what :class:`rigl.GMP` begins with.
        distribution: ``"uniform"``, ``"er"`` or ``"erk"`` (Evci et al. 2020, section 3).
        skip: names of layers that stay dense, as in ``model.named_modules()``.
        format: ``"csr"``, or blocks such as ``"bsr8x8"``.
        keep: ``"random"`` positions, for training from scratch (weights keep the values they have, as in RigL), or those of largest ``"magnitude"``, for a trained model.
        erk_power: of the distribution ``"erk"``.
        seed: of the random positions; by default from PyTorch's generator.
    """
    if keep not in ("random", "magnitude"):
        raise ValueError(f"sparsify: keep is {keep!r}; it must be 'random' or 'magnitude'")
    skip = set(skip)
    # Not their subclasses, which may compute something else.
    dense = {name: module for name, module in _every(model) if type(module) in (nn.Linear, nn.Conv2d)}
    if unknown := skip - dense.keys():
        raise ValueError(f"sparsify: skip names {sorted(unknown)}; the layers are {sorted(dense)}")
    skipped = {id(dense[name]) for name in skip}
    chosen = {name: module for name, module in dense.items() if id(module) not in skipped}
    if not chosen:
        raise ValueError("sparsify: the model has no nn.Linear or nn.Conv2d to replace")
    if "" in chosen:
        raise ValueError("sparsify: the model is itself a layer; from_dense() makes it sparse")
    # A layer in several places is one.
    first = {id(module): name for name, module in reversed(chosen.items())}
    unique = {name: module for name, module in chosen.items() if first[id(module)] == name}
    for name, module in unique.items():
        for owner, other in _every(model):
            if other is not module and any(own is module.weight for own in other._parameters.values()):
                raise ValueError(
                    f"sparsify: the weight of {name} is also a parameter of {owner or 'the model'}; "
                    f"keep it dense: skip=[{name!r}]"
                )
    shapes = [(name, list(module.weight.shape)) for name, module in unique.items()]
    if seed is None:
        seed = int(torch.randint(2**62, ()))
    made = {}
    for (name, module), nnz in zip(unique.items(), _rigl.solve(shapes, density, distribution, erk_power)):
        if nnz == module.weight.numel() and density < 1:
            continue
        try:
            mask: Union[Tensor, float]
            if keep == "magnitude":
                mask = nnz / module.weight.numel()
            else:
                blank = _blank(module, format)
                offsets, columns = Weight.random_pattern(blank._size, format, nnz, seed, name)
                blank._take(_indices(offsets), _indices(columns))
                mask = blank.mask().view(module.weight.shape)
            made[id(module)] = from_dense(module, mask, format)
        except (TypeError, ValueError) as error:
            raise type(error)(f"sparsify: {name}: {error}; to keep the layer dense: skip=[{name!r}]") from None
    for name, module in chosen.items():
        if id(module) in made:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, made[id(module)])
    return model
