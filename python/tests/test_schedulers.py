"""Updates of the topology, against the same rule in plain PyTorch."""

import copy
import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

import rigl  # noqa: E402
from torch import nn  # noqa: E402


def mlp(density=0.3, format="csr", seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 16))
    return rigl.sparsify(model, density, "uniform", format=format, seed=seed)


def batch(samples=32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 24, generator=generator), torch.randn(samples, 16, generator=generator)


def step(model, optimizer, scheduler, *batches):
    optimizer.zero_grad()
    for x, t in batches or [batch()]:
        (nn.functional.mse_loss(model(x), t) / max(len(batches), 1)).backward()
    optimizer.step()
    return scheduler.step()


def dense_gradients(model, batches):
    """Of each sparse layer, at all positions."""
    dense = nn.Sequential(*(rigl.to_dense(module) if hasattr(module, "nnz") else module for module in model))
    for x, t in batches:
        (nn.functional.mse_loss(dense(x), t) / len(batches)).backward()
    return {name: dense[int(name)].weight.grad for name, module in model.named_modules() if hasattr(module, "nnz")}


def expected_topology(layer, gradient, fraction):
    """RigL's rule for single weights: drop the smallest, grow where the gradient is largest among those that are not kept."""
    weight, mask = rigl.to_dense(layer).weight.detach(), layer.mask()
    count = int(fraction * layer.nnz)
    magnitudes = torch.where(mask, weight.abs(), torch.inf).flatten()
    kept = mask.flatten().clone()
    kept[magnitudes.topk(count, largest=False).indices] = False
    scores = torch.where(kept, -1.0, gradient.abs().flatten())
    grown = torch.zeros_like(kept)
    grown[scores.topk(count).indices] = True
    return (kept | grown).view(mask.shape), kept.view(mask.shape)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_rigl_drops_and_grows_by_its_rule(accumulation):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    arguments = dict(total_steps=400, update_interval=2, drop_schedule="constant", accumulation=accumulation)
    scheduler = rigl.RigL(model, optimizer, **arguments)
    batches = [batch(seed=3 + i) for i in range(accumulation)]
    for number in range(7):
        is_update = number in (2, 4, 6)
        gradients = dense_gradients(model, batches)
        expected = {
            name: expected_topology(model.get_submodule(name), gradient, 0.3) for name, gradient in gradients.items()
        }
        before = {name: model.get_submodule(name).mask() for name in expected}
        assert step(model, optimizer, scheduler, *batches) == is_update
        for name, (mask, kept) in expected.items():
            layer = model.get_submodule(name)
            assert torch.equal(layer.mask(), mask if is_update else before[name]), (number, name)
            if is_update:
                momentum = optimizer.state[layer.values]["momentum_buffer"]
                new = ~kept.flatten()[layer._positions()] & ~before[name].flatten()[layer._positions()]
                assert new.any() and not layer.values[new].any() and not momentum[new].any()
                assert momentum[~new].any() and momentum.shape == layer.values.shape


def test_values_and_adams_moments_move_with_their_weights():
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = rigl.SET(model, optimizer, total_steps=100, update_interval=3)
    layer, changed = model[0], 0
    for _ in range(12):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(batch()[0]), batch()[1]).backward()
        optimizer.step()
        before = rigl.to_dense(layer).weight.detach().clone()
        state = optimizer.state[layer.values]
        moments = {}
        for key in ("exp_avg", "exp_avg_sq"):
            moments[key] = torch.zeros(before.numel())
            moments[key][layer._positions()] = state[key]
        mask = layer.mask()
        changed += scheduler.step()
        survivors = mask & layer.mask()
        assert torch.equal(rigl.to_dense(layer).weight[survivors], before[survivors])
        kept = survivors.flatten()[layer._positions()]
        for key, moment in moments.items():
            assert torch.equal(state[key][kept], moment[layer._positions()][kept])
            assert not state[key][~kept].any()
        assert state["step"] > 0
    assert changed == 3


@pytest.mark.parametrize("format", ["csr", "bsr8x8", "bsr1x2"])
@pytest.mark.parametrize("method", [rigl.RigL, rigl.SET])
def test_runs_go_on_as_if_never_stopped(format, method):
    def begin():
        model = mlp(0.4, format)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer, method(model, optimizer, total_steps=40, update_interval=3, seed=5)

    model, optimizer, scheduler = begin()
    for _ in range(8):
        step(model, optimizer, scheduler)
    states = copy.deepcopy([part.state_dict() for part in (model, optimizer, scheduler)])
    for _ in range(12):
        step(model, optimizer, scheduler)
    other = begin()
    step(*other)
    for part, state in zip(other, states):
        part.load_state_dict(state)
    for _ in range(12):
        step(*other)
    for key, value in model.state_dict().items():
        assert torch.equal(value, other[0].state_dict()[key]), key
    with pytest.raises(ValueError, match="the state is of the method"):
        rigl.Static(model, optimizer).load_state_dict(scheduler.state_dict())


def test_results_do_not_depend_on_threads():
    def run(threads):
        torch.set_num_threads(threads)
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = rigl.RigL(model, optimizer, total_steps=20, update_interval=3)
        for _ in range(10):
            step(model, optimizer, scheduler)
        return model.state_dict()

    before = torch.get_num_threads()
    one, two = run(1), run(2)
    torch.set_num_threads(before)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_pruning_ends_at_its_density():
    torch.manual_seed(0)
    model = rigl.sparsify(nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 16)), 1.0)
    assert model[0].density == 1.0
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scheduler = rigl.GMP(model, optimizer, total_steps=40, density=0.2, distribution="uniform", update_interval=5)
    densities = []
    for _ in range(40):
        # The graph of the step before lives on while the next one is made, as in most training loops.
        loss = nn.functional.mse_loss(model(batch()[0]), batch()[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        densities.append(model[0].density)
    assert densities[0] == 1.0 and densities == sorted(densities, reverse=True)
    assert abs(densities[-1] - 0.2) < 0.002 and len(set(densities)) > 3
    assert optimizer.state[model[0].values]["exp_avg"].shape == model[0].values.shape
    with pytest.raises(ValueError, match="stored as bsr4x4; it must be csr"):
        blocks = mlp(0.5, "bsr4x4")
        rigl.GMP(blocks, torch.optim.SGD(blocks.parameters(), lr=0.1), total_steps=40, density=0.2)


def test_static_changes_nothing():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler, mask = rigl.Static(model, optimizer), model[0].mask()
    assert not any([step(model, optimizer, scheduler) for _ in range(5)])
    assert torch.equal(model[0].mask(), mask)


def test_wrong_use_says_what_is_right():
    dense = nn.Sequential(nn.Linear(4, 4))
    optimizer = torch.optim.SGD(dense.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="the model has no sparse layer"):
        rigl.RigL(dense, optimizer, total_steps=10)
    model = rigl.sparsify(nn.Sequential(nn.Linear(8, 8)), 0.5)
    with pytest.raises(RuntimeError, match="0.values is not in the optimizer; make the optimizer after"):
        rigl.RigL(model, optimizer, total_steps=1000)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(
        ValueError, match="updates would begin at step 100 and end before step 7; set a smaller update_interval"
    ):
        rigl.RigL(model, optimizer, total_steps=10)
    with pytest.raises(ValueError, match="drop_fraction"):
        rigl.RigL(model, optimizer, total_steps=1000, drop_fraction=2.0)
    with pytest.raises(ValueError, match="accumulation is 0"):
        rigl.RigL(model, optimizer, total_steps=1000, accumulation=0)
    scheduler = rigl.RigL(model, optimizer, total_steps=100, update_interval=1)
    x = torch.randn(4, 8)
    model(x).sum().backward()
    optimizer.step()
    scheduler.step()
    stale = model(x).sum()
    stale.backward(retain_graph=True)
    assert scheduler.step()
    with pytest.raises(RuntimeError, match="the topology of a sparse layer has changed since its forward pass"):
        stale.backward()


def test_a_scheduler_follows_no_other_pattern():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = rigl.RigL(model, optimizer, total_steps=40, update_interval=2)
    model.load_state_dict(mlp(seed=7).state_dict())
    with pytest.raises(RuntimeError, match="the patterns of the model are not those that this scheduler knows"):
        step(model, optimizer, scheduler)


def test_a_layer_that_is_used_twice_says_so():
    torch.manual_seed(0)
    layer = rigl.SparseLinear(16, 16, 0.3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    scheduler = rigl.RigL(layer, optimizer, total_steps=20, update_interval=1)
    x = torch.randn(4, 16)
    layer(layer(x)).sum().backward()
    scheduler.step()
    with pytest.raises(RuntimeError, match="to the scheduler, such as accumulation=2"):
        layer(layer(x)).sum().backward()
    scheduler = rigl.RigL(layer, optimizer, total_steps=20, update_interval=1, begin_step=0, accumulation=2)
    optimizer.zero_grad()
    dense = rigl.to_dense(layer)
    dense(dense(x)).sum().backward()
    layer(layer(x)).sum().backward()
    expected, _ = expected_topology(layer, dense.weight.grad, 0.3)
    scheduler.step()
    assert torch.equal(layer.mask(), expected)


def test_frozen_layers_stay():
    model = mlp()
    model[0].values.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = rigl.SET(model, optimizer, total_steps=20, update_interval=2)
    before = [model[i].mask() for i in (0, 2)]
    for _ in range(4):
        step(model, optimizer, scheduler)
    assert torch.equal(model[0].mask(), before[0]) and not torch.equal(model[2].mask(), before[1])
    model[2].values.requires_grad_(False)
    with pytest.raises(ValueError, match="all sparse layers of the model are frozen"):
        rigl.SET(model, optimizer, total_steps=20)


def run_python(code, timeout=120):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_exit_and_fork():
    code = """
import os, torch, rigl
torch.set_num_threads(2)
layer = rigl.SparseLinear(512, 512, 0.2, seed=1)
x = torch.ones(256, 512)
with torch.no_grad():
    y = layer(x)
torch.set_grad_enabled(False)
child = os.fork()
if child == 0:
    # PyTorch's own threads do not survive a fork: nothing of it here that would use them.
    os._exit(0 if layer(x).numpy().tobytes() == y.numpy().tobytes() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
torch.set_grad_enabled(True)
layer(x).sum().backward()
print("done")
"""
    assert run_python(code) == "done\n"


def ranks(rank, count, port, folder):
    from torch.nn.parallel import DistributedDataParallel

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=count)
    model = mlp()
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9)
    scheduler = rigl.RigL(model, optimizer, total_steps=40, update_interval=2)
    for number in range(9):
        x, t = batch(seed=number)
        x, t = x.chunk(count)[rank], t.chunk(count)[rank]
        optimizer.zero_grad()
        nn.functional.mse_loss(wrapped(x), t).backward()
        optimizer.step()
        scheduler.step()
    torch.save(model.state_dict(), os.path.join(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_two_processes_train_as_one(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(ranks, (2, port, str(tmp_path)), nprocs=2)
    states = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for key in states[0]:
        assert torch.equal(states[0][key], states[1][key]), key
    model = mlp()
    first = model[0].mask()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = rigl.RigL(model, optimizer, total_steps=40, update_interval=2)
    for number in range(9):
        step(model, optimizer, scheduler, batch(seed=number))
    assert not torch.equal(model[0].mask(), first)
    for key, value in model.state_dict().items():
        assert torch.allclose(value, states[0][key], atol=1e-5), key
