"""Models of runs of the command ``rigl``, in PyTorch and back. Needs the package ``safetensors``."""

import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from . import command
from .convert import _blank
from .nn import SparseConv2d, SparseLayer, SparseLinear, _indices

_PARTS = ("crow_indices", "col_indices", "values")


def load_model(model: nn.Module, path: Union[str, Path], which: str = "newest") -> nn.Module:
    """Gives a model the weights of a run, in place, and returns it.

    Layers are found by name; the names are those of ``rigl export``: ``fc1``, ``fc2``, … for perceptrons, torchvision's for its networks.
    A layer that is sparse in the run becomes a :class:`rigl.SparseLinear` or :class:`rigl.SparseConv2d`; a convolution in blocks comes in
    single weights. Make the optimizer afterwards.

    Args:
        model: with an ``nn.Linear``, ``nn.Conv2d`` or sparse layer for each layer of the run. It is left as it was if one does not fit.
        path: a run's folder, a checkpoint, or a model that ``rigl import`` has written.
        which: of a run's checkpoints the ``"newest"`` or the ``"best"``.
    """
    from safetensors import safe_open

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        command.run("export", path, "--which", which, "--out", file)
        with safe_open(file, "pt") as opened:
            shapes, tensors = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}
    suffix = ".weight.values"
    sparse = [name[: -len(suffix)] for name in tensors if name.endswith(suffix)]
    made = {name: _of_run(model, name, tensors, shapes[f"{name}.weight.shape"]) for name in sparse}
    for name, module in model.named_modules():
        if isinstance(module, SparseLayer) and name not in made:
            raise ValueError(f"load_model: layer {name} of the model is sparse; in {path} it is dense, or is not there")
    expected = {name for name in model.state_dict() if name.rpartition(".")[0] not in made}
    expected -= {name for name in expected if name.endswith("num_batches_tracked")}
    _same("load_model", path, tensors, expected)
    for name, value in model.state_dict().items():
        if name in expected and value.shape != tensors[name].shape:
            got = list(tensors[name].shape)
            raise ValueError(f"load_model: {name} has shape {list(value.shape)}; in {path} it has {got}")
    model.load_state_dict(tensors, strict=False)
    for name, layer in made.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    return model


def _same(what: str, path: Any, tensors: Dict[str, Tensor], expected: set):
    if missing := sorted(expected - tensors.keys()):
        raise ValueError(f"{what}: {path} has no {', '.join(missing)}; it has {', '.join(sorted(tensors))}")
    if left := sorted(tensors.keys() - expected):
        raise ValueError(f"{what}: the model has no {', '.join(left)}, which {path} has")


def _of_run(model: nn.Module, name: str, tensors: Dict[str, Tensor], shape: str) -> SparseLayer:
    """The layer of this name, whose tensors are taken out."""
    try:
        module: Any = model.get_submodule(name)
    except AttributeError:
        raise ValueError(f"load_model: the model has no layer {name}, which the run has") from None
    offsets, columns, values = (tensors.pop(f"{name}.weight.{part}") for part in _PARTS)
    bias = tensors.pop(f"{name}.bias", None)
    layer = _like(module, name, "csr" if values.dim() == 1 else "bsr{}x{}".format(*values.shape[1:]))
    if str(list(layer._size)) != shape:
        raise ValueError(
            f"load_model: layer {name} of the model has a weight of {list(layer._size)}; the run's has {shape}"
        )
    weight = module.values if isinstance(module, SparseLayer) else module.weight
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        raise TypeError(
            f"load_model: layer {name} of the model is {weight.dtype} on {weight.device}; it must be torch.float32 on the CPU"
        )
    layer._take(_indices(offsets), _indices(columns))
    layer.values = nn.Parameter(values.flatten().clone(), weight.requires_grad)
    if (bias is None) != (layer.bias is None):
        has, has_not = ("the model", "the run") if bias is None else ("the run", "the model")
        raise ValueError(f"load_model: layer {name} has a bias in {has}, and none in {has_not}")
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone(), module.bias.requires_grad)
    return layer.train(module.training)


def _like(module: Any, name: str, format: str) -> SparseLayer:
    """A sparse layer of the same shape."""
    if isinstance(module, SparseLinear):
        module = nn.Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
    elif isinstance(module, SparseConv2d):
        window = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups)
        module = nn.Conv2d(module.in_channels, module.out_channels, *window, module.bias is not None, device="meta")
    try:
        return _blank(module, format)
    except (TypeError, ValueError) as error:
        raise type(error)(f"load_model: layer {name}: {error}") from None


def save_model(
    model: nn.Module,
    path: Union[str, Path],
    network: Optional[str] = None,
    order: Sequence[str] = (),
) -> str:
    """Writes a model that ``rigl eval``, ``rigl predict`` and ``rigl train --init-from`` read, and returns what ``rigl import`` says of it.

    Convolutions in blocks are written weight by weight, with the zeros of their blocks.

    Args:
        model: a perceptron, or one of the networks that ``rigl import`` knows.
        path: the file to write, which ends in ``.safetensors``.
        network: the network's name, such as ``"resnet-18"``, where the names of its layers do not tell it.
        order: the names of a perceptron's layers from input to output, where neither sizes nor numbers in the names tell it.
    """
    from safetensors.torch import save_file

    tensors, shapes = {}, {"format": "pt"}
    layers = {name: module for name, module in model.named_modules() if isinstance(module, SparseLayer)}
    for name, value in model.state_dict().items():
        owner = name.rpartition(".")[0]
        if owner not in layers and not name.endswith("num_batches_tracked"):
            tensors[name] = value.detach().cpu().contiguous()
    for name, layer in layers.items():
        prefix = f"{name}.weight" if name else "weight"
        for part, tensor in zip(_PARTS, _entries(layer)):
            tensors[f"{prefix}.{part}"] = tensor.contiguous()
        shapes[f"{prefix}.shape"] = str(list(layer._size))
        if isinstance(layer, SparseConv2d):
            shapes[f"{prefix}.dimensions"] = str(list(layer._dense_shape))
        if layer.bias is not None:
            tensors[f"{name}.bias" if name else "bias"] = layer.bias.detach().contiguous()
    options: List[Any] = ["--model", network] if network else []
    if order:
        options += ["--order", ",".join(order)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        save_file(tensors, file, shapes)
        return command.run("import", file, "--out", path, *options)


def _entries(layer: SparseLayer) -> Tuple[Tensor, Tensor, Tensor]:
    """Row offsets, columns and values of a layer's weights or blocks; of a convolution's blocks those of their weights."""
    values = layer.values.detach()
    if layer.format == "csr":
        return layer.row_offsets, layer.columns, values
    if isinstance(layer, SparseLinear):
        r, c = (int(size) for size in layer.format[3:].split("x"))
        return layer.row_offsets, layer.columns, values.view(-1, r, c)
    positions, order = layer._positions().sort()
    stored = positions >= 0
    positions, values = positions[stored], values[order[stored]]
    rows, columns = layer._size
    counts = torch.bincount(torch.div(positions, columns, rounding_mode="floor"), minlength=rows)
    return _indices(torch.cat((counts.new_zeros(1), counts.cumsum(0)))), _indices(positions % columns), values
