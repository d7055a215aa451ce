"""Models of the command's runs."""

import os

import pytest
from rigl import command

try:
    command.program()
except FileNotFoundError as missing:
    if os.environ.get("RIGL_REQUIRE_COMMAND"):
        raise
    pytest.skip(str(missing), allow_module_level=True)


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

    model = LeNet()
    model.fc2.weight.requires_grad_(False)
    rigl.load_model(model, run)
    assert isinstance(model.fc1, rigl.SparseLinear) and model.fc1.density < 0.2
    assert model.fc1.values.requires_grad and not model.fc2.values.requires_grad and model.fc2.bias.requires_grad
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
    with pytest.raises(TypeError, match="layer fc1 of the model is torch.float64 on cpu"):
        rigl.load_model(LeNet().double(), run)
    model = LeNet()
    model.fc1 = nn.Linear(784, 300, bias=False)
    with pytest.raises(ValueError, match="layer fc1 has a bias in the run, and none in the model"):
        rigl.load_model(model, run)
    with pytest.raises(command.CommandError, match="nowhere"):
        rigl.load_model(LeNet(), tmp_path / "nowhere")


class LeNet5(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)


@pytest.mark.parametrize("format", ["csr", "bsr2x2"])
def test_convolutions(format, tmp_path):
    from safetensors import safe_open

    run, back = tmp_path / "run", tmp_path / "back.safetensors"
    command.run("train", "--model", "lenet-5", "--steps", "3", "--out", run)
    model = rigl.load_model(LeNet5(), run)
    assert isinstance(model.conv1, rigl.SparseConv2d) and isinstance(model.fc1, rigl.SparseLinear)
    if format != "csr":
        # An image of one channel has no blocks of two.
        dense = rigl.to_dense(model.conv2)
        model.conv2 = rigl.from_dense(dense, dense.weight != 0, format)
    rigl.save_model(model, back, network="lenet-5")
    for name, source in (("first", run), ("again", back)):
        command.run("export", source, "--out", tmp_path / f"{name}.safetensors")
    with (
        safe_open(tmp_path / "again.safetensors", "pt") as again,
        safe_open(tmp_path / "first.safetensors", "pt") as first,
    ):
        assert sorted(again.keys()) == sorted(first.keys())
        for name in first.keys():
            if format == "csr" or not name.startswith("conv2.weight"):
                assert torch.equal(first.get_tensor(name), again.get_tensor(name)), name
        values = again.get_tensor("conv2.weight.values")
        assert values.numel() == model.conv2.mask().sum()
        assert torch.equal(values[values != 0], first.get_tensor("conv2.weight.values"))
