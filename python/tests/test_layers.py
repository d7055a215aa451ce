"""Sparse layers against PyTorch's dense ones."""

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch")

import rigl  # noqa: E402
from rigl.ops import sparse  # noqa: E402
from torch import nn  # noqa: E402

FORMATS = ["csr", "bsr8x8", "bsr4x4", "bsr1x2"]


def close(a, b, tolerance=1e-5):
    scale = b.abs().max().clamp(min=1e-3)
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * scale, (a - b).abs().max() / scale


def both(layer, x):
    """Output and gradients of a sparse layer, and of the dense one with the same weights."""
    dense = rigl.to_dense(layer)
    results = []
    for module in (layer, dense):
        inputs = x.clone().requires_grad_()
        y = module(inputs)
        torch.manual_seed(1)
        module.zero_grad()
        y.backward(torch.randn(y.shape))
        results.append((y, inputs.grad, None if module.bias is None else module.bias.grad))
    weight_grad = dense.weight.grad.flatten()
    positions = layer._positions()
    stored = positions >= 0
    assert not layer.values.grad[~stored].any()
    close(layer.values.grad[stored], weight_grad[positions[stored]])
    for mine, theirs in zip(*results):
        if theirs is not None:
            close(mine, theirs)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("samples,inputs,outputs", [(1, 8, 8), (5, 33, 17), (64, 40, 72), (100, 130, 7), (0, 16, 16)])
def test_linear_equals_dense(format, bias, samples, inputs, outputs):
    torch.manual_seed(0)
    layer = rigl.SparseLinear(inputs, outputs, 0.3, format, bias)
    if samples:
        both(layer, torch.randn(samples, inputs))
    else:
        assert layer(torch.randn(0, inputs)).shape == (0, outputs)


def test_inputs_of_many_dimensions():
    layer = rigl.SparseLinear(12, 20, 0.5)
    x = torch.randn(3, 4, 5, 12)
    close(layer(x), rigl.to_dense(layer)(x))
    close(layer(x[0, 0, 0]), rigl.to_dense(layer)(x[0, 0, 0]))
    turned = torch.randn(12, 6).t()
    close(layer(turned), rigl.to_dense(layer)(turned))


@pytest.mark.parametrize("format", ["csr", "bsr4x4"])
@pytest.mark.parametrize(
    "samples,channels,size,kernel,options",
    [
        (3, (8, 16), (9, 7), 3, {"padding": 1}),
        (20, (4, 8), (8, 8), 3, {"padding": 1, "stride": 2}),
        (9, (8, 4), (11, 10), (1, 1), {}),
        (2, (4, 4), (13, 13), 3, {"padding": 2, "dilation": 2}),
        (17, (8, 8), (6, 6), (5, 3), {"padding": (2, 1), "groups": 2}),
    ],
)
def test_convolution_equals_dense(format, samples, channels, size, kernel, options):
    torch.manual_seed(0)
    layer = rigl.SparseConv2d(*channels, kernel, density=0.4, format=format, **options)
    both(layer, torch.randn(samples, channels[0], *size))
    both(layer, torch.randn(samples + 1, channels[0], size[0] + 2, size[1]))


@pytest.mark.parametrize("format", ["csr", "bsr8x8"])
def test_from_dense_and_back(format):
    dense = nn.Linear(64, 48)
    layer = rigl.from_dense(dense, 0.25, format)
    assert layer.nnz == 768
    back = rigl.to_dense(layer)
    assert torch.equal(back.weight != 0, layer.mask())
    assert torch.equal(back.weight[layer.mask()], dense.weight[layer.mask()])
    if format == "csr":
        smallest_kept = dense.weight[layer.mask()].abs().min()
        assert dense.weight[~layer.mask()].abs().max() <= smallest_kept
    mask = torch.rand(48, 64) < 0.1
    kept = rigl.from_dense(dense, mask, format)
    assert (kept.mask() | ~mask).all() and (format != "csr" or torch.equal(kept.mask(), mask))


def test_gradcheck():
    # The layer is linear in inputs, values and bias, each: central differences have no error but rounding, so that wide steps and
    # 32 bits do.
    for layer, x in [
        (rigl.SparseLinear(6, 5, 0.5), torch.randn(4, 6)),
        (rigl.SparseLinear(8, 16, 0.5, "bsr4x4"), torch.randn(3, 8)),
        (rigl.SparseConv2d(2, 3, 3, padding=1, density=0.5), torch.randn(2, 2, 4, 4)),
    ]:

        def f(x, values, bias):
            return sparse(x, values, bias, layer._handle.number, layer._size[0], layer._window)

        arguments = (x.requires_grad_(), layer.values, layer.bias)
        assert torch.autograd.gradcheck(f, arguments, eps=0.5, atol=1e-4, rtol=1e-4, nondet_tol=0.0)


@pytest.mark.filterwarnings("ignore")
def test_opcheck():
    for layer, x in [
        (rigl.SparseLinear(16, 8, 0.5), torch.randn(4, 16)),
        (rigl.SparseLinear(16, 8, 0.5, bias=False), torch.randn(4, 16)),
        (rigl.SparseConv2d(4, 4, 3, padding=1, density=0.5), torch.randn(2, 4, 5, 5)),
    ]:
        arguments = (x.requires_grad_(), layer.values, layer.bias, layer._handle.number, layer._size[0], layer._window)
        torch.library.opcheck(sparse, arguments)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(backend):
    model = nn.Sequential(rigl.SparseLinear(16, 32, 0.5), nn.ReLU(), rigl.SparseLinear(32, 4, 0.5))
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    x = torch.randn(8, 16)
    close(compiled(x), model(x))
    compiled(x).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model(x).square().sum().backward()
    for parameter, gradient in zip(model.parameters(), expected):
        close(parameter.grad, gradient)


def test_a_compiled_model_follows_its_topology():
    torch.manual_seed(0)
    model = nn.Sequential(rigl.SparseLinear(16, 32, 0.3), nn.ReLU(), rigl.SparseLinear(32, 4, 0.3))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = rigl.RigL(model, optimizer, total_steps=20, update_interval=2)
    x, before = torch.randn(8, 16), model[0].mask()
    torch._dynamo.utils.counters.clear()
    for _ in range(10):
        optimizer.zero_grad()
        compiled(x).square().sum().backward()
        optimizer.step()
        scheduler.step()
        close(compiled(x), nn.Sequential(rigl.to_dense(model[0]), nn.ReLU(), rigl.to_dense(model[2]))(x), 1e-4)
    assert not torch.equal(model[0].mask(), before)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_copies_are_copies():
    layer = rigl.SparseLinear(16, 8, 0.5)
    x = torch.randn(4, 16)
    expected = layer(x)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), expected)
        with torch.no_grad():
            other.values.zero_()
        assert torch.equal(layer(x), expected)
        other(x).sum().backward()


@pytest.mark.parametrize("format", ["csr", "bsr4x4"])
def test_state_dict(format):
    first, second = rigl.SparseLinear(16, 8, 0.5, format), rigl.SparseLinear(16, 8, 0.25, format)
    x = torch.randn(4, 16)
    assert set(first.state_dict()) == {"values", "bias", "row_offsets", "columns"}
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(x), first(x))
    second(x).sum().backward()
    assert torch.equal(second.mask(), first.mask())
    wrong = dict(first.state_dict(), values=torch.zeros(3))
    with pytest.raises(RuntimeError, match="size mismatch for values"):
        second.load_state_dict(wrong)
    columns = first.columns.clone()
    columns[0] = 99
    with pytest.raises(ValueError):
        second.load_state_dict(dict(first.state_dict(), columns=columns))
    assert torch.equal(second(x), first(x))


def test_autocast():
    layer = rigl.SparseLinear(16, 8, 0.5)
    x = torch.randn(4, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(nn.Linear(16, 16)(x))
        assert y.dtype == torch.float32
    y.sum().backward()
    assert layer.values.grad is not None


def test_only_what_is_wanted_is_computed():
    layer = rigl.SparseLinear(16, 8, 0.5)
    layer.values.requires_grad_(False)
    x = torch.randn(4, 16, requires_grad=True)
    layer(x).sum().backward()
    assert layer.values.grad is None and x.grad is not None and layer.bias.grad is not None
    with torch.no_grad():
        assert not layer(x).requires_grad


def test_wrong_use_says_what_is_right():
    layer = rigl.SparseLinear(16, 8, 0.5)
    with pytest.raises(TypeError, match="the input must be torch.float32, not torch.float64"):
        layer(torch.randn(4, 16, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"shape \[4, 15\]; its last size must be 16"):
        layer(torch.randn(4, 15))
    with pytest.raises(ValueError, match="density is 0; it must be above 0"):
        rigl.SparseLinear(16, 8, 0)
    with pytest.raises(ValueError, match="density is nan"):
        rigl.SparseLinear(16, 8, float("nan"))
    with pytest.raises(ValueError, match="density 0.001 leaves a layer of 128 weights with none"):
        rigl.SparseLinear(16, 8, 0.001)
    with pytest.raises(ValueError, match='format is "bsr3x3"; it must be "csr"'):
        rigl.SparseLinear(16, 8, 0.5, "bsr3x3")
    with pytest.raises(ValueError, match="must be .samples, 4, height, width."):
        rigl.SparseConv2d(4, 4, 3, density=0.5)(torch.randn(2, 3, 5, 5))
    with pytest.raises(ValueError):
        rigl.SparseConv2d(4, 4, 3, density=0.5)(torch.randn(2, 4, 2, 2))
    with pytest.raises(ValueError, match="groups is 3; it must divide"):
        rigl.SparseConv2d(4, 4, 3, groups=3)
    with pytest.raises(TypeError, match="a layer's values must be torch.float32, not torch.float64"):
        copy.deepcopy(layer).double()(torch.randn(4, 16))
    with pytest.raises(TypeError, match="LSTM has no sparse counterpart"):
        broken = nn.LSTM(3, 3)
        broken.bias = None
        rigl.from_dense(broken, 0.5)
    with pytest.raises(ValueError, match="the mask keeps no weight"):
        rigl.from_dense(nn.Linear(4, 4), torch.zeros(4, 4))
    with pytest.raises(ValueError, match=r"skip names \['head'\]; the layers are \['0'\]"):
        rigl.sparsify(nn.Sequential(nn.Linear(4, 4)), 0.5, skip=["head"])
    with pytest.raises(ValueError, match=r"a layer's values must have shape \[64\], not \[3\]"):
        other = copy.deepcopy(layer)
        other.values.data = torch.zeros(3)
        other(torch.randn(4, 16))
    assert layer(torch.randn(4, 16)).shape == (4, 8)


def test_sparsify():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 50), nn.Linear(50, 10))
    dense = copy.deepcopy(model)
    rigl.sparsify(model, 0.1, skip=["4"])
    kinds = [type(module).__name__ for module in model]
    assert kinds == ["SparseConv2d", "ReLU", "Flatten", "SparseLinear", "Linear"] or kinds[0] == "Conv2d"
    stored = sum(module.nnz for module in model if hasattr(module, "nnz"))
    stored += model[0].weight.numel() if kinds[0] == "Conv2d" else 0
    assert abs(stored / (3 * 8 * 9 + 8 * 36 * 50) - 0.1) < 0.001
    assert torch.equal(rigl.to_dense(model[3]).weight[model[3].mask()], dense[3].weight[model[3].mask()])
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_operator_and_function_are_one():
    layer = rigl.SparseLinear(16, 8, 0.5)
    x = torch.randn(4, 16, requires_grad=True)
    results = []
    for y in (layer(x), sparse(x, layer.values, layer.bias, layer._handle.number, 8, [])):
        gradients = torch.autograd.grad(y.square().sum(), (x, layer.values, layer.bias))
        results.append((y, *gradients))
    assert all(torch.equal(a, b) for a, b in zip(*results))
    with pytest.raises(RuntimeError):
        (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        gradient.sum().backward()


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("format", ["bsr4x4", "bsr2x1", "bsr8x8", "csr"])
def test_convolutions_keep_what_the_mask_keeps(kernel, format):
    torch.manual_seed(0)
    layer = rigl.SparseConv2d(16, 8, kernel, density=0.3, format=format)
    dense = rigl.to_dense(layer)
    again = rigl.from_dense(dense, layer.mask(), format)
    assert torch.equal(again.mask(), layer.mask()) and torch.equal(rigl.to_dense(again).weight, dense.weight)
    with torch.no_grad():
        dense.weight.zero_()
        dense.weight[:4, 4:8, -1, -1] = 1
    if format == "bsr4x4":
        kept = rigl.from_dense(dense, 16 / dense.weight.numel(), format)
        assert torch.equal(rigl.to_dense(kept).weight, dense.weight)


@pytest.mark.parametrize("size", [(784, 10), (20, 20), (33, 65)])
def test_blocks_have_the_density_asked_for(size):
    blocks = -(-size[0] // 16) * -(-size[1] // 16)
    for density in (0.3, 0.5, 1.0):
        layer = rigl.SparseLinear(*size, density, "bsr16x16")
        assert abs(layer.columns.numel() - density * blocks) <= 0.6
    assert layer.mask().all()


def test_nothing_wrong_reaches_the_kernels():
    layer, x = rigl.SparseLinear(16, 8, 0.5), torch.randn(4, 16)
    for bias, error in (
        (torch.zeros(3), ValueError),
        (torch.zeros(8, dtype=torch.float64), TypeError),
        (torch.zeros(8, device="meta"), RuntimeError),
    ):
        other = copy.deepcopy(layer)
        other.bias = nn.Parameter(bias)
        with pytest.raises(error, match="a layer's bias must"):
            other(x)
    other = copy.deepcopy(layer)
    other.bias.data = torch.arange(16.0)[::2]
    close(other(x), rigl.to_dense(other)(x))
    meta = copy.deepcopy(layer).to("meta")
    assert meta(x.to("meta")).shape == (4, 8)
    with pytest.raises(RuntimeError, match="on the meta device"):
        copy.deepcopy(meta)
    with pytest.raises(RuntimeError, match="must be on the CPU"):
        other = copy.deepcopy(layer)
        other.values = nn.Parameter(other.values.to("meta"))
        other(x)


@pytest.mark.filterwarnings("ignore")
def test_compiled_graphs_check_too():
    layer = rigl.SparseLinear(16, 8, 0.5)
    with pytest.raises(Exception, match="must be torch.float32, not torch.float16"):
        torch.compile(layer, backend="eager")(torch.randn(4, 16, dtype=torch.float16))


def test_buffers_that_change_in_place_are_followed():
    first, second = (rigl.SparseLinear(32, 16, 0.25, seed=seed) for seed in (1, 2))
    x = torch.randn(4, 32)
    with torch.no_grad():
        for to, source in zip([*second.parameters(), *second.buffers()], [*first.parameters(), *first.buffers()]):
            to.copy_(source)
    assert torch.equal(second(x), first(x))
    shallow = copy.copy(first)
    assert shallow.values is first.values and torch.equal(shallow(x), first(x))
    with pytest.raises(ValueError, match="pattern and values belong together"):
        state = first.state_dict()
        del state["values"]
        second.load_state_dict(state, strict=False)
    smaller = rigl.SparseLinear(32, 16, 0.1)
    loss = smaller(x).sum()
    smaller.load_state_dict(first.state_dict())
    smaller(x).sum().backward()
    assert smaller.values.grad.shape == smaller.values.shape
    del loss


def test_threads_share_a_layer():
    from concurrent.futures import ThreadPoolExecutor

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    layer, x = rigl.SparseLinear(256, 256, 0.2), torch.randn(512, 256)
    with torch.no_grad():
        expected = layer(x)
        with ThreadPoolExecutor(3) as threads:
            assert all(torch.equal(y, expected) for y in threads.map(lambda _: layer(x), range(60)))
    torch.set_num_threads(before)


def test_sparsify_keeps_what_it_cannot_replace():
    shared = nn.Linear(8, 8)
    model = rigl.sparsify(nn.Sequential(shared, nn.ReLU(), shared), 0.5)
    assert model[0] is model[2] and type(model[0]).__name__ == "SparseLinear"
    encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    rigl.sparsify(encoder, 0.5)
    x = torch.randn(2, 3, 16)
    encoder(x).sum().backward()
    with torch.no_grad():
        assert encoder.eval()(x).shape == x.shape
    tied = nn.ModuleDict({"embedding": nn.Embedding(8, 4), "head": nn.Linear(4, 8)})
    tied["head"].weight = tied["embedding"].weight
    with pytest.raises(ValueError, match="the weight of head is also a parameter of embedding"):
        rigl.sparsify(tied, 0.5)
    half = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding="same"))
    with pytest.raises(ValueError, match=r"sparsify: 1: .*skip=\['1'\]"):
        rigl.sparsify(half, 0.5)
    assert type(half[0]) is nn.Conv2d
    with pytest.raises(ValueError, match="3, which 4 must divide"):
        rigl.sparsify(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), 0.5, format="bsr4x4")
    frozen = nn.Sequential(nn.Linear(8, 8).requires_grad_(False), nn.Linear(8, 8))
    rigl.sparsify(frozen, 0.5)
    assert not frozen[0].values.requires_grad and frozen[1].values.requires_grad


def test_no_forward_mode():
    layer, x = rigl.SparseLinear(8, 8, 0.5), torch.randn(2, 8)
    with pytest.raises(RuntimeError, match="no forward-mode derivatives"):
        torch.func.jvp(layer, (x,), (x,))


@pytest.mark.parametrize("format", ["csr", "bsr8x8", "bsr4x4"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("samples", [1, 40, 129, 145, 272, 300, 512, 1000])
def test_results_are_the_librarys_to_the_bit(format, threads, samples):
    """A layer takes its samples in groups; the library's products of whole matrices take them at once."""
    numpy = pytest.importorskip("numpy")
    torch.manual_seed(samples)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        # Of a batch of 1000, groups of 128 with the small weight, of 256 with the large one.
        for inputs, outputs, density in [(96, 72, 0.2), (300, 200, 0.9)]:
            layer = rigl.SparseLinear(inputs, outputs, density, format, bias=False)
            x, dy = torch.randn(samples, inputs, requires_grad=True), torch.randn(samples, outputs)
            y = layer(x)
            dx, gradient = torch.autograd.grad(y, (x, layer.values), dy)
            whole = Whole(layer, threads)
            rows = [numpy.ascontiguousarray(part.detach().numpy().T) for part in (x, dy)]
            assert torch.equal(y, torch.from_numpy(whole.product(False, rows[0])).t())
            assert torch.equal(dx, torch.from_numpy(whole.product(True, rows[1])).t())
            assert torch.equal(gradient, torch.from_numpy(whole.sampled(rows[1], rows[0])))
    finally:
        torch.set_num_threads(before)


class Whole:
    """The library's three products with a layer's weight, of operands [feature, sample]."""

    def __init__(self, layer, threads):
        self.layer, self.threads = layer, threads
        self.values = layer.values.detach().contiguous()

    def product(self, transpose, x):
        import numpy

        y = numpy.full((self.layer._size[1 if transpose else 0], x.shape[1]), numpy.nan, numpy.float32)
        arguments = [(part.ctypes.data, part.size) for part in (x, y)]
        values = (self.values.data_ptr(), self.values.numel())
        self.layer._handle.weight.product(self.threads, transpose, x.shape[1], values, *arguments)
        return y

    def sampled(self, dy, x):
        import numpy

        values = numpy.full(self.values.numel(), numpy.nan, numpy.float32)
        arguments = [(part.ctypes.data, part.size) for part in (dy, x, values)]
        self.layer._handle.weight.sampled(self.threads, x.shape[1], *arguments)
        return values
