"""Methods that change which weights exist while a model trains.

::

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = rigl.RigL(model, optimizer, total_steps=10_000)
    for x, y in loader:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
        scheduler.step()

The topology is that of the crate ``rigl`` for the same weights and gradients. One thing differs from the paper: there an update takes
the place of the optimizer's step, here it follows it. Which weights are dropped, and the gradient that growth goes by, are those
before that step in both cases.
"""

from typing import Any, Dict, List, Optional

import torch
from torch import Tensor, nn

from . import _rigl
from .nn import SparseLayer, _indices, replace_values

_MOVED = "rigl: the parameter {name}.values is not in the optimizer; make the optimizer after sparsify(), from model.parameters()"


class Scheduler:
    """Drives a method. Its subclasses choose one."""

    _method: str

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        begin_step: int,
        end_step: Optional[int],
        update_interval: int,
        drop_fraction: float,
        drop_schedule: str,
        drop_exponent: float = 3.0,
        seed: int = 0,
        accumulation: int = 1,
        targets: Optional[List[int]] = None,
    ):
        self.optimizer, self.accumulation = optimizer, accumulation
        if accumulation < 1:
            raise ValueError(f"accumulation is {accumulation}; it must be 1 or more: the backward passes of a step")
        layers = _managed(model)
        owners: Dict[int, str] = {}
        for name, layer in layers.items():
            if (other := owners.setdefault(id(layer.values), name)) != name:
                raise ValueError(
                    f"the layers {other} and {name} share their values; only a layer as a whole can be shared"
                )
        for what, number in (("begin_step", begin_step), ("end_step", end_step or 0), ("seed", seed)):
            if number < 0:
                raise ValueError(f"{what} is {number}; it must be 0 or more")
        if end_step is not None and end_step <= begin_step:
            raise ValueError(
                f"updates would begin at step {begin_step} and end before step {end_step}; "
                "set a smaller update_interval or begin_step, or a larger end_step or total_steps"
            )
        if self._method == "gmp" and _processes() > 1:
            raise RuntimeError(
                "GMP changes the number of weights, which DistributedDataParallel does not support; "
                "train with RigL, SET or Static, or in one process"
            )
        self._layers = layers
        self._targets = targets or [layer._handle.weight.entries for layer in layers.values()]
        self._schedule = (begin_step, end_step, update_interval, drop_fraction, drop_schedule, drop_exponent)
        self._seed = seed
        self._build()
        #: Steps done.
        self.last_step = 0
        self._check_optimizer()
        self._before()

    def _build(self, state: Optional[str] = None):
        """The method, on the patterns that the layers have."""
        layers = self._layers.items()
        self._known = [layer._handle.weight for _, layer in layers]
        described = [(name, layer._handle.weight, count) for (name, layer), count in zip(layers, self._targets)]
        self._rust = _rigl.Scheduler(self._method, described, *self._schedule, self._seed, {})
        if state is not None:
            self._rust.restore(state)

    def _check_patterns(self):
        if any(layer._handle.weight is not known for layer, known in zip(self._layers.values(), self._known)):
            raise RuntimeError(
                "rigl: the patterns of the model are not those that this scheduler knows; "
                "load the model's state before you make the scheduler or load its state"
            )

    def _check_optimizer(self):
        held = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        for name, layer in self._layers.items():
            if layer.values.requires_grad and id(layer.values) not in held:
                raise RuntimeError(_MOVED.format(name=name))

    def _values(self):
        return [(layer.values.data_ptr(), layer.values.numel()) for layer in self._layers.values()]

    def _before(self):
        # Processes add their gradients up too, which no list of the largest can be made of.
        adds_up = self.accumulation > 1 or _processes() > 1
        self._updates = self._rust.before(self.last_step, self._values(), adds_up)

    def step(self):
        """After each step of the optimizer. Whether the topology has changed."""
        changed = False
        self._check_patterns()
        self._check_optimizer()
        if self._updates:
            for layer in self._layers.values():
                if layer._handle.weight.grows and _processes() > 1:
                    _sum_over_processes(layer)
            changed = self._apply(self._rust.after(self.last_step, self._values(), 0.0, False))
        self.last_step += 1
        rate = float(self.optimizer.param_groups[0]["lr"])
        changed |= self._apply(self._rust.after(self.last_step, self._values(), rate, True))
        self._before()
        return changed

    def _apply(self, updates) -> bool:
        layers = list(self._layers.items())
        for update in updates:
            _, layer = layers[update.layer]
            map = torch.frombuffer(update.map(), dtype=torch.int32).to(torch.int64) if update.weight.nnz else None
            _move(layer, self.optimizer, update.weight, map)
            self._known[update.layer] = update.weight
        return bool(updates)

    def state_dict(self) -> Dict[str, Any]:
        """What ``load_state_dict`` takes. Patterns and values are in the model's."""
        return {"method": self._method, "last_step": self.last_step, "state": self._rust.state()}

    def load_state_dict(self, state: Dict[str, Any]):
        """Resumes from a state, after the model's and the optimizer's were loaded."""
        if state.get("method") != self._method:
            raise ValueError(f"the state is of the method {state.get('method')!r}; this scheduler is {self._method!r}")
        self._build(state["state"])
        self.last_step = state["last_step"]
        self._before()


def _processes() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _sum_over_processes(layer: SparseLayer):
    dense = torch.empty(layer._handle.weight.size)
    address = (dense.data_ptr(), dense.numel())
    layer._handle.weight.dense_gradient(address)
    torch.distributed.all_reduce(dense)
    layer._handle.weight.set_dense_gradient(address)


def _move(layer: SparseLayer, optimizer, weight, map: Optional[Tensor]):
    """Gives a layer its new pattern: survivors keep value, gradient and optimizer state, newcomers begin at zero."""
    parameter = layer.values
    old = parameter.numel()

    def moved(tensor: Tensor) -> Tensor:
        if map is None:
            return tensor.new_zeros(0)
        return torch.where(map >= 0, tensor[map.clamp(min=0)], torch.zeros((), dtype=tensor.dtype))

    with torch.no_grad():
        for key, state in optimizer.state.get(parameter, {}).items():
            if isinstance(state, Tensor) and state.shape == (old,):
                optimizer.state[parameter][key] = moved(state)
        gradient = None if parameter.grad is None else moved(parameter.grad)
        values = moved(parameter.data)
        if weight.nnz != old:
            replace_values(parameter, values)
        else:
            parameter.data.copy_(values)
        parameter.grad = gradient
    offsets, columns = weight.indices()
    layer._take(_indices(offsets), _indices(columns), weight)


def _managed(model: nn.Module) -> Dict[str, SparseLayer]:
    """The layers that a method manages: those that train."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, SparseLayer)}
    if not layers:
        raise ValueError("the model has no sparse layer; call rigl.sparsify(model, density) before")
    managed = {name: layer for name, layer in layers.items() if layer.values.requires_grad}
    if not managed:
        raise ValueError("all sparse layers of the model are frozen: their values do not require gradients")
    return managed


def _end(total_steps: int, end_step: Optional[int]) -> int:
    if total_steps < 1:
        raise ValueError(f"total_steps is {total_steps}; it must be 1 or more")
    return total_steps * 3 // 4 if end_step is None else end_step


class RigL(Scheduler):
    """Drops the smallest weights and grows those of largest gradient (Evci et al. 2020).

    Args:
        model: with sparse layers, see :func:`rigl.sparsify`.
        optimizer: of the model's parameters.
        total_steps: optimizer steps of the whole training.
        update_interval: steps from one update to the next, the paper's ΔT.
        drop_fraction: the share of a layer's weights that the first update drops, the paper's α.
        drop_schedule: how it falls: ``"cosine"``, ``"constant"`` or ``"inverse-power"``.
        begin_step, end_step: where updates begin and end; by default at ``update_interval`` and three quarters of the training.
        seed: of what ties and random growth are decided by.
        accumulation: backward passes of a step. With more than one, an update's step holds a dense gradient of each layer.
    """

    _method = "rigl"

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        total_steps: int,
        update_interval: int = 100,
        drop_fraction: float = 0.3,
        drop_schedule: str = "cosine",
        begin_step: Optional[int] = None,
        end_step: Optional[int] = None,
        seed: int = 0,
        accumulation: int = 1,
    ):
        super().__init__(
            model,
            optimizer,
            begin_step=update_interval if begin_step is None else begin_step,
            end_step=_end(total_steps, end_step),
            update_interval=update_interval,
            drop_fraction=drop_fraction,
            drop_schedule=drop_schedule,
            seed=seed,
            accumulation=accumulation,
        )


class SET(RigL):
    """Drops the smallest weights and grows others at random (Mocanu et al. 2018). Arguments as of :class:`RigL`."""

    _method = "set"


class Static(Scheduler):
    """Changes nothing: the random pattern stays."""

    _method = "static"

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, total_steps: int = 1):
        super().__init__(
            model,
            optimizer,
            begin_step=0,
            end_step=None,
            update_interval=max(total_steps, 1),
            drop_fraction=0.0,
            drop_schedule="constant",
        )


class GMP(Scheduler):
    """Gradual magnitude pruning (Zhu and Gupta 2017): all weights at first, then fewer along a cubic schedule.

    Args:
        model: whose layers ``rigl.sparsify(model, 1.0)`` has made sparse layers with all their weights.
        optimizer: of the model's parameters.
        density: of all sparse layers at the end, spread over them by ``distribution``.
        begin_step, end_step: the window of pruning; by default a quarter and three quarters of ``total_steps``.
        update_interval: steps from one pruning to the next.

    The number of values falls. ``torch.compile`` then compiles anew, unless
    ``torch._dynamo.config.force_parameter_static_shapes`` is false; ``DistributedDataParallel`` does not support it.
    """

    _method = "gmp"

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        total_steps: int,
        density: float,
        distribution: str = "erk",
        update_interval: int = 100,
        begin_step: Optional[int] = None,
        end_step: Optional[int] = None,
    ):
        layers = _managed(model)
        for name, layer in layers.items():
            if layer.format != "csr":
                raise ValueError(f"GMP: the layer {name} is stored as {layer.format}; it must be csr")
        shapes = [(name, list(layer._dense_shape)) for name, layer in layers.items()]
        targets = _rigl.solve(shapes, density, distribution, 1.0)
        super().__init__(
            model,
            optimizer,
            begin_step=total_steps // 4 if begin_step is None else begin_step,
            end_step=_end(total_steps, end_step),
            update_interval=update_interval,
            drop_fraction=0.0,
            drop_schedule="constant",
            targets=targets,
        )
