"""The command in the package, and models of its runs."""

import json
import subprocess
import sys

import pytest
from rigl import command

try:
    command.program()
except FileNotFoundError as missing:
    pytest.skip(str(missing), allow_module_level=True)


def test_the_command_is_the_packages():
    assert command.run("--version").split() == ["rigl", __import__("rigl").__version__]
    called = [sys.executable, "-c", "import sys; from rigl.command import main; sys.exit(main())", "bench", "nothing"]
    done = subprocess.run(called, capture_output=True, text=True)
    assert done.returncode == 2 and "nothing" in done.stderr
    with pytest.raises(command.CommandError, match="nowhere"):
        command.run("eval", "nowhere")


def accuracy(model, *data):
    return json.loads(command.run("eval", model, "--json", *data).splitlines()[-1])


torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

import rigl  # noqa: E402
from torch import nn  # noqa: E402


class LeNet(nn.Module):
    def __init__(self, hidden=100):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(784, 300), nn.Linear(300, hidden), nn.Linear(hidden, 10)

    def forward(self, x):
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x.flatten(1))))))


@pytest.fixture(scope="module", params=["csr", "bsr4x4"])
def run(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "lenet"
    command.run("train", "--epochs", "1", "--format", request.param, "--distribution", "uniform", "--out", path)
    return path


def test_a_run_in_pytorch_and_back(run, tmp_path):
    from safetensors.torch import load_file

    model = rigl.load_model(LeNet(), run)
    assert isinstance(model.fc1, rigl.SparseLinear) and model.fc1.density < 0.2
    command.run("export", run, "--dense", "--out", tmp_path / "dense.safetensors")
    dense = load_file(tmp_path / "dense.safetensors")
    for name in ("fc1", "fc2", "fc3"):
        layer = model.get_submodule(name)
        weight = layer.dense_weight() if isinstance(layer, rigl.SparseLinear) else layer.weight
        assert torch.equal(weight, dense[f"{name}.weight"]) and torch.equal(layer.bias, dense[f"{name}.bias"])

    rigl.save_model(model, tmp_path / "back.safetensors")
    again = rigl.load_model(LeNet(), tmp_path / "back.safetensors")
    x = torch.randn(50, 784)
    assert torch.equal(again(x), model(x))
    # It trains on.
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = rigl.RigL(model, optimizer, total_steps=10, update_interval=2)
    for _ in range(5):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        scheduler.step()
    rigl.save_model(model, tmp_path / "trained.safetensors")
    assert torch.equal(rigl.load_model(LeNet(), tmp_path / "trained.safetensors")(x), model(x))


def test_models_that_do_not_fit(run, tmp_path):
    with pytest.raises(ValueError, match="layer fc2 of the model has a weight of"):
        rigl.load_model(LeNet(hidden=50), run)
    model = LeNet()
    model.extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="has no extra.bias, extra.weight"):
        rigl.load_model(model, run)
    assert isinstance(model.fc1, nn.Linear)
    del model.extra, model.fc3
    with pytest.raises(ValueError, match="fc3"):
        rigl.load_model(model, run)
    model = LeNet()
    model.fc1 = nn.Linear(784, 300, bias=False)
    with pytest.raises(ValueError, match="layer fc1 has a bias in the run, and none in the model"):
        rigl.load_model(model, run)
    with pytest.raises(command.CommandError, match="nowhere"):
        rigl.load_model(LeNet(), tmp_path / "nowhere")


def test_convolutions(tmp_path):
    """Weights drawn in PyTorch go through the command, and its network's come back."""
    torch.manual_seed(0)
    run = tmp_path / "run"
    command.run("train", "--model", "lenet-5", "--epochs", "1", "--steps", "3", "--out", run)
    from safetensors import safe_open

    command.run("export", run, "--out", tmp_path / "lenet-5.safetensors")
    with safe_open(tmp_path / "lenet-5.safetensors", "pt") as opened:
        shapes = opened.metadata()
        sizes = {name: opened.get_tensor(name).shape for name in opened.keys()}
    model = nn.Module()
    for key, size in shapes.items():
        name = key.removesuffix(".weight.shape")
        if name == key:
            continue
        if shape := shapes.get(f"{name}.weight.dimensions"):
            outputs, inputs, *kernel = json.loads(shape)
            model.add_module(name, nn.Conv2d(inputs, outputs, kernel, bias=f"{name}.bias" in sizes))
        else:
            outputs, inputs = json.loads(size)
            model.add_module(name, nn.Linear(inputs, outputs))
    for name, size in sizes.items():
        owner, _, part = name.partition(".")
        if part == "weight":
            model.add_module(owner, nn.Linear(size[1], size[0]) if len(size) == 2 else nn.Conv2d(size[1], size[0], size[2:]))
    loaded = rigl.load_model(model, run)
    assert any(isinstance(layer, rigl.SparseConv2d) for layer in loaded.children())
    rigl.save_model(loaded, tmp_path / "back.safetensors", network="lenet-5")
    command.run("export", tmp_path / "back.safetensors", "--out", tmp_path / "again.safetensors")
    with safe_open(tmp_path / "again.safetensors", "pt") as again, safe_open(tmp_path / "lenet-5.safetensors", "pt") as first:
        assert sorted(again.keys()) == sorted(first.keys())
        for name in first.keys():
            assert torch.equal(first.get_tensor(name), again.get_tensor(name)), name
