#!/usr/bin/env python3
"""The files of `rigl export` and `rigl import` against the programs they are for: SciPy, NumPy, safetensors, onnxruntime,
PyTorch.

  interop.py --rigl PATH_OF_THE_COMMAND

Needs numpy, scipy, safetensors, onnxruntime and onnx from PyPI, and the example `logits` beside the command (cargo build
--release --example logits); checks with PyTorch run where it is installed. Matrices are compared bit for bit, logits within
1e-4 of the largest. Prints what was checked; the first difference ends the script with exit code 1.
"""
import argparse
import gzip
import json
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import safetensors.numpy
import scipy.io
import scipy.sparse
from safetensors import safe_open

try:
    import safetensors.torch
    import torch
except ImportError:
    torch = None

LAYERS = ["fc1", "fc2", "fc3"]


def fail(message):
    sys.exit(f"FAILED: {message}")


class Rigl:
    """The command under test, run in a folder of its own."""

    def __init__(self, command, folder):
        self.command, self.folder = command, folder

    def __call__(self, *arguments):
        """Runs a command and returns its last record."""
        arguments = [str(argument) for argument in arguments] + ["--json"]
        result = subprocess.run([self.command, *arguments], cwd=self.folder, capture_output=True, text=True)
        if result.returncode != 0:
            fail(f"rigl {' '.join(arguments)}: exit code {result.returncode}: {result.stderr}")
        return json.loads(result.stdout.splitlines()[-1])

    def logits(self, model, pictures):
        """The logits of our own forward pass for pictures of bytes, `[sample, ...]`."""
        np.save(self.folder / "pictures.npy", pictures.reshape(len(pictures), -1))
        command = [self.command.parent / "examples" / "logits", model, "pictures.npy", "logits.npy"]
        result = subprocess.run([str(part) for part in command], cwd=self.folder, capture_output=True, text=True)
        if result.returncode != 0:
            fail(f"logits {model}: {result.stderr}")
        return np.load(self.folder / "logits.npy")

    def import_and_export(self, *sources):
        """The state dict of the model that `sources` make, by way of a model file of rigl."""
        self("import", *sources, "--out", "imported.safetensors")
        self("export", "imported.safetensors", "--out", "exported.safetensors")
        return read_state_dict(self.folder / "exported.safetensors")


def bits(array):
    """Of what floats are made: NaN equals itself, and 0 is not -0."""
    array = np.ascontiguousarray(array)
    return array.view(np.uint32) if array.dtype == np.float32 else array


def csr(matrix):
    """Row offsets, column indices and values of a sparse matrix, canonical."""
    matrix = scipy.sparse.csr_matrix(matrix)
    matrix.sum_duplicates()
    return matrix


def dense(matrix):
    """As an array. `toarray` adds to zeros, which takes the sign of a stored -0."""
    if not scipy.sparse.issparse(matrix):
        return np.asarray(matrix)
    entries = csr(matrix).tocoo()
    array = np.zeros(entries.shape, entries.dtype)
    array[entries.row, entries.col] = entries.data
    return array


def expect_equal(what, got, expected):
    """Two weights or biases: both sparse with the same entries, or compared as arrays."""
    if scipy.sparse.issparse(got) and scipy.sparse.issparse(expected):
        got, expected = csr(got), csr(expected)
        parts = [(got.indptr, expected.indptr), (got.indices, expected.indices), (got.data, expected.data)]
    else:
        parts = [(dense(got), dense(expected))]
    if got.shape != expected.shape:
        fail(f"{what}: shape {got.shape}, expected {expected.shape}")
    for one, other in parts:
        if one.dtype.kind == "f" and (one.dtype, other.dtype) != (np.float32, np.float32):
            fail(f"{what}: types {one.dtype} and {other.dtype}; both should be float32")
        if not np.array_equal(bits(one), bits(other)):
            fail(f"{what}: the content differs")


def checked(what):
    print(f"ok      {what}", flush=True)


def read_state_dict(path):
    """Weights and biases by name, CSR or BSR parts joined with the shape from the metadata."""
    tensors = safetensors.numpy.load_file(path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
    for name in [name.removesuffix(".crow_indices") for name in tensors if name.endswith(".crow_indices")]:
        parts = [tensors.pop(f"{name}.{part}") for part in ["values", "col_indices", "crow_indices"]]
        shape = json.loads(metadata[f"{name}.shape"])
        if parts[0].ndim == 3:
            # Blocks may reach beyond the matrix, which SciPy's may not.
            whole = [-(-size // block) * block for size, block in zip(shape, parts[0].shape[1:])]
            matrix = scipy.sparse.bsr_matrix(tuple(parts), shape=whole)
            if matrix.count_nonzero() != matrix.tocsr()[: shape[0], : shape[1]].count_nonzero():
                fail(f"{path.name}, {name}: there are weights beyond the matrix")
            tensors[name] = matrix.tocsr()[: shape[0], : shape[1]]
        else:
            tensors[name] = scipy.sparse.csr_matrix(tuple(parts), shape=shape)
    return tensors


def read_smtx(path):
    """A pattern of the Deep Learning Matrix Collection, as a matrix of ones."""
    lines = path.read_text().splitlines()
    nrows, ncols, nnz = (int(word) for word in lines[0].split(","))
    offsets, columns = (np.array(line.split(), dtype=np.int32) for line in [*lines[1:], ""][:2])
    return scipy.sparse.csr_matrix((np.ones(nnz, np.float32), columns, offsets), shape=(nrows, ncols))


def check_exports(rigl):
    """A trained model in every format, each read by its own program, all with the same content."""
    folder = rigl.folder
    rigl("train", "--steps", 5, "--density", 0.1, "--out", "run")
    rigl("export", "run", "--out", "model.safetensors")
    model = read_state_dict(folder / "model.safetensors")
    names = sorted(f"{layer}.{part}" for layer in LAYERS for part in ["weight", "bias"])
    if sorted(model) != names:
        fail(f"model.safetensors: tensors {sorted(model)}, expected {names}")
    sparse = [scipy.sparse.issparse(model[f"{layer}.weight"]) for layer in LAYERS]
    if sparse != [True, True, False]:
        fail(f"model.safetensors: the layers are sparse as {sparse}")
    checked("safetensors, CSR: safetensors.numpy.load_file, scipy.sparse.csr_matrix")

    rigl("export", "run", "--out", "dense.safetensors", "--dense")
    tensors = safetensors.numpy.load_file(folder / "dense.safetensors")
    if sorted(tensors) != names:
        fail(f"dense.safetensors: tensors {sorted(tensors)}, expected {names}")
    for name in names:
        expect_equal(f"dense.safetensors, {name}", tensors[name], model[name])
    checked("safetensors, dense: safetensors.numpy.load_file")

    readers = [
        ("npz", [], scipy.sparse.load_npz, read_npy_vector, "scipy.sparse.load_npz, biases numpy.load"),
        ("npy", [], np.load, read_npy_vector, "numpy.load"),
        ("mtx", [], read_mtx, read_mtx_vector, "scipy.io.mmread"),
        ("mtx", ["--dense"], read_mtx, read_mtx_vector, "scipy.io.mmread, dense"),
        ("smtx", [], read_smtx, None, "the collection's text format"),
    ]
    for extension, options, read, read_bias, program in readers:
        out = folder / "-".join([extension, *options])
        rigl("export", "run", "--out", out, "--format", extension, *options)
        for layer in LAYERS:
            weight = read(out / f"{layer}.weight.{extension}")
            expected = model[f"{layer}.weight"]
            if extension == "smtx":
                expected = csr(expected)
                expected.data = np.ones_like(expected.data)
            expect_equal(f"{out.name}, {layer}.weight", weight, expected)
            if read_bias:
                bias = read_bias(out / f"{layer}.bias.{extension}")
                expect_equal(f"{out.name}, {layer}.bias", bias, model[f"{layer}.bias"])
        checked(f".{extension}: {program}")
        if extension != "smtx":
            back = rigl.import_and_export(out)
            for name in names:
                expect_equal(f"{out.name} imported again, {name}", back[name], model[name])
    checked("every folder imported again")


def check_blocks(rigl):
    """A model trained in blocks is the same entry by entry and whole; SciPy's own blocks come back as they were."""
    folder, generator = rigl.folder, np.random.default_rng(4)
    spread = ["--density", 0.1, "--distribution", "uniform"]
    rigl("train", "--steps", 5, "--format", "bsr8x8", *spread, "--out", "blocks")
    rigl("export", "blocks", "--out", "blocks.safetensors")
    rigl("export", "blocks", "--out", "blocks-dense.safetensors", "--dense")
    rigl("export", "blocks", "--out", "blocks-npz", "--format", "npz")
    model, whole = (read_state_dict(folder / f"blocks{end}.safetensors") for end in ["", "-dense"])
    back = rigl.import_and_export("blocks.safetensors")
    for layer in LAYERS:
        name = f"{layer}.weight"
        expect_equal(f"blocks.safetensors, {name}", model[name], whole[name])
        expect_equal(f"blocks.npz, {name}", scipy.sparse.load_npz(folder / "blocks-npz" / f"{name}.npz"), model[name])
        expect_equal(f"blocks.safetensors imported again, {name}", back[name], model[name])
    checked("safetensors, BSR: scipy.sparse.bsr_matrix; the same as .npz, whole, and imported again")

    weight = scipy.sparse.random(24, 40, 0.1, random_state=generator, dtype=np.float32).tobsr((4, 8))
    weight.sort_indices()
    tensors = {"weight.crow_indices": weight.indptr, "weight.col_indices": weight.indices, "weight.values": weight.data}
    safetensors.numpy.save_file(tensors, folder / "scipy.safetensors", metadata={"weight.shape": "[24, 40]"})
    expect_equal("BSR of SciPy", rigl.import_and_export("scipy.safetensors")["fc1.weight"], weight.tocsr())
    checked("safetensors.numpy.save_file: BSR tensors")


def read_npy_vector(path):
    """The bias beside weights in .npz or .npy."""
    return np.load(path.with_suffix(".npy"))


def read_mtx(path):
    """Matrix Market has no types: what is read as float64 must be the float32 that was written."""
    return narrow(scipy.io.mmread(path))


def read_mtx_vector(path):
    """A bias, which the format only has as a matrix of one column."""
    array = read_mtx(path)
    if array.shape[1] != 1:
        fail(f"{path.name}: shape {array.shape}")
    return array[:, 0]


def narrow(matrix):
    """Rounded to the nearest float32, as `rigl import` does."""
    return matrix.astype(np.float32)


def random_matrix(generator, nrows, ncols, dtype, density=0.3):
    """Entries in no order, with values that are easily lost."""
    matrix = scipy.sparse.random(nrows, ncols, density, "coo", rng=generator, dtype=np.float64)
    values = generator.standard_normal(matrix.nnz) * 10.0 ** generator.integers(-40, 38, matrix.nnz)
    special = [0.0, -0.0, 2.0**-149, 1 / 3, 2.0**-126]
    values[: len(special)] = special
    order = generator.permutation(matrix.nnz)
    entries = (values[order].astype(dtype), (matrix.row[order], matrix.col[order]))
    return scipy.sparse.coo_matrix(entries, shape=(nrows, ncols))


def check_matrix_imports(rigl):
    """Files of SciPy and NumPy, in all their variants, as single matrices."""
    folder, generator = rigl.folder, np.random.default_rng(1)

    def check(what, path, expected):
        got = rigl.import_and_export(path)["fc1.weight"]
        expect_equal(f"{what} imported", got, expected)

    for dtype in [np.float32, np.float64]:
        for layout in ["csr", "csc", "coo"]:
            for compressed in [True, False]:
                matrix = random_matrix(generator, 13, 29, dtype)
                path = folder / "matrix.npz"
                scipy.sparse.save_npz(path, matrix.asformat(layout), compressed=compressed)
                check(f".npz of {layout}, {dtype.__name__}, compressed {compressed}", path, narrow(matrix))
        # The newer classes write their coordinates in another way.
        scipy.sparse.save_npz(path, scipy.sparse.coo_array(matrix))
        check(f".npz of coo_array, {dtype.__name__}", path, narrow(matrix))
    wide = csr(random_matrix(generator, 13, 29, np.float32))
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    scipy.sparse.save_npz(path, wide)
    check(".npz with 64-bit indices", path, wide)
    # Twice at one position: the entries are summed.
    twice = scipy.sparse.coo_matrix((np.float32([1.5, 2.25, -1.0]), ([0, 0, 1], [2, 2, 0])), shape=(2, 3))
    scipy.sparse.save_npz(path, twice)
    check(".npz with repeated entries", path, twice)
    checked(".npz of scipy.sparse.save_npz: csr, csc, coo, coo_array; float32, float64; compressed or not; 64-bit indices")

    path = folder / "matrix.mtx"
    general = random_matrix(generator, 17, 11, np.float64)
    symmetric = random_matrix(generator, 12, 12, np.float64).tocsr()
    symmetric = scipy.sparse.tril(symmetric) + scipy.sparse.tril(symmetric, -1).T
    skew = scipy.sparse.tril(random_matrix(generator, 12, 12, np.float64), -1)
    skew = skew - skew.T
    integer = (general * 0 + scipy.sparse.random(17, 11, 0.5, rng=generator) * 100).astype(np.int64)
    integer.eliminate_zeros()
    array = generator.standard_normal((5, 7))
    for what, matrix, symmetry in [
        ("general", general, "general"),
        ("general float32", general.astype(np.float32), "general"),
        ("symmetric", symmetric, "symmetric"),
        ("skew-symmetric", skew, "skew-symmetric"),
        ("integer", integer, "general"),
        ("array", array, "general"),
        ("symmetric array", array[:, :5] + array[:, :5].T, "symmetric"),
        ("float32 array", array.astype(np.float32), "general"),
    ]:
        scipy.io.mmwrite(path, matrix, symmetry=symmetry)
        check(f".mtx, {what}", path, narrow(matrix))
    scipy.io.mmwrite(path, general, field="pattern", symmetry="general")
    got = rigl.import_and_export(path)["fc1.weight"]
    if not np.array_equal(got.toarray() != 0, read_mtx(path).toarray() != 0):
        fail(".mtx, pattern: the entries differ")
    checked(".mtx of scipy.io.mmwrite: general, symmetric, skew-symmetric, integer, pattern, array")

    path = folder / "matrix.npy"
    for dtype in [np.float32, np.float64, np.float16, ">f4", np.int8]:
        for order in "CF":
            matrix = (100 * generator.standard_normal((6, 9))).astype(dtype)
            np.save(path, np.asarray(matrix, order=order))
            check(f".npy, {np.dtype(dtype)}, order {order}", path, narrow(matrix))
    checked(".npy of numpy.save: float32, float64, float16, big-endian, int8; both orders")

    weights = [random_matrix(generator, 8, 20, np.float32), random_matrix(generator, 5, 8, np.float32)]
    scipy.sparse.save_npz(folder / "a.npz", weights[0])
    scipy.io.mmwrite(folder / "b.mtx", weights[1])
    np.save(folder / "c.npy", array[:, :5].astype(np.float32))
    model = rigl.import_and_export("a.npz", "b.mtx", "c.npy")
    for layer, weight in zip(LAYERS, [*weights, array[:, :5].astype(np.float32)]):
        expect_equal(f"{layer} of three files", model[f"{layer}.weight"], weight)
        expect_equal(f"{layer}'s bias", model[f"{layer}.bias"], np.zeros(weight.shape[0], np.float32))
    checked("three files of three formats as one model")


def check_state_dict_imports(rigl):
    """Files of safetensors.numpy.save_file: dense state dicts and CSR tensors."""
    folder, generator = rigl.folder, np.random.default_rng(2)
    path = folder / "state_dict.safetensors"
    # Layer 10 follows layer 2, though not in the alphabet.
    shapes = {"0": (30, 40), "2": (20, 30), "10": (10, 20)}
    for dtype in [np.float32, np.float64, np.float16]:
        tensors = {f"{name}.weight": generator.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
        tensors |= {f"{name}.bias": generator.standard_normal(shape[0]).astype(dtype) for name, shape in shapes.items()}
        safetensors.numpy.save_file(tensors, path)
        model = rigl.import_and_export(path)
        for layer, name in zip(LAYERS, shapes):
            for part in ["weight", "bias"]:
                what = f"state dict of {dtype.__name__}, {name}.{part}"
                expect_equal(what, model[f"{layer}.{part}"], tensors[f"{name}.{part}"].astype(np.float32))
    checked("safetensors.numpy.save_file: dense state dict of a Sequential; float32, float64, float16")

    for index in [np.int32, np.int64, np.uint32]:
        tensors, metadata, weights = {}, {}, {}
        for name, shape in shapes.items():
            weight = weights[name] = csr(random_matrix(generator, *shape, np.float32))
            tensors[f"{name}.weight.crow_indices"] = weight.indptr.astype(index)
            tensors[f"{name}.weight.col_indices"] = weight.indices.astype(index)
            tensors[f"{name}.weight.values"] = weight.data
            metadata[f"{name}.weight.shape"] = json.dumps(shape)
        # Only the first shape has to be told: the next layer reads what this one writes.
        for told in [metadata, {"0.weight.shape": metadata["0.weight.shape"]}]:
            safetensors.numpy.save_file(tensors, path, metadata=told)
            model = rigl.import_and_export(path)
            for layer, name in zip(LAYERS, shapes):
                expect_equal(f"CSR with {index.__name__}, {name}", model[f"{layer}.weight"], weights[name])
    checked("safetensors.numpy.save_file: CSR tensors; int32, int64 and uint32 indices; shapes told or following")


def check_pruning(rigl):
    """Of a dense state dict the largest weights stay, in each layer as many as planned."""
    folder, generator = rigl.folder, np.random.default_rng(3)
    shapes = {"0": (300, 784), "2": (100, 300), "4": (10, 100)}
    tensors = {f"{name}.weight": generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    safetensors.numpy.save_file(tensors, folder / "dense.safetensors")
    record = rigl("import", "dense.safetensors", "--density", 0.1, "--out", "pruned.safetensors")
    rigl("export", "pruned.safetensors", "--out", "exported.safetensors")
    model = read_state_dict(folder / "exported.safetensors")
    for told, (layer, name) in zip(record["layers"], zip(LAYERS, shapes)):
        weight, kept = tensors[f"{name}.weight"], dense(model[f"{layer}.weight"])
        # No two magnitudes are equal here, so the threshold decides.
        threshold = np.sort(np.abs(weight), axis=None)[-told["nnz"]]
        expect_equal(f"pruned {layer}", kept, np.where(np.abs(weight) >= threshold, weight, np.float32(0)))
    checked(f"pruning to density 0.1 keeps the largest: {[layer['nnz'] for layer in record['layers']]}")


def check_metadata(rigl):
    """What an exported file says of itself is enough to use the network: the accuracy is that of `rigl eval`."""
    data = Path(__file__).resolve().parent.parent / "crates/trainer/data/fashion-mnist-mini"
    pixels = gzip.decompress((data / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((data / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    x = np.frombuffer(pixels, np.uint8).reshape(len(labels), -1) / np.float32(255)
    rigl("train", "--steps", 100, "--out", "described")
    rigl("export", "described", "--out", "described.safetensors", "--dense")
    rigl("export", "described", "--out", "described-npz", "--format", "npz")
    with safe_open(rigl.folder / "described.safetensors", framework="numpy") as file:
        told = json.loads(file.metadata()["model"])
    if told != json.loads((rigl.folder / "described-npz/model.json").read_text()):
        fail("the folder's model.json differs from the safetensors file's metadata")
    normalization = told["input"]["normalization"]
    x = (x - np.float32(normalization["mean"])) / np.float32(normalization["deviation"])
    model = safetensors.numpy.load_file(rigl.folder / "described.safetensors")
    for layer in LAYERS:
        x = x @ model[f"{layer}.weight"].T + model[f"{layer}.bias"]
        x = x if layer == LAYERS[-1] else np.maximum(x, 0)
    accuracy = (x.argmax(1) == np.frombuffer(labels, np.uint8)).mean()
    expected = rigl("eval", "described")["accuracy"]
    # Rounding may turn a sample whose two largest logits are equal but for it.
    if abs(accuracy - expected) > 1.5 / len(labels):
        fail(f"accuracy {accuracy} from the exported file alone, expected {expected}")
    for source in ["described.safetensors", "described-npz"]:
        rigl("import", source, "--out", "back.safetensors")
        if rigl("eval", "back.safetensors")["accuracy"] != expected:
            fail(f"{source} imported again has another accuracy")
    checked(f"metadata: normalisation from the file gives the accuracy of rigl eval, {expected}")


def write_png(path, picture):
    """A picture `[height, width, 3]` of bytes."""
    height, width, _ = picture.shape
    rows = b"".join(b"\0" + row.tobytes() for row in picture)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


CLASSES = ["blue sky", "grass", "sunset"]


def write_pictures(folder, generator, size):
    """An image folder of three classes, each with a colour, and the pictures of its test set with their classes. What rigl
    sees of a picture of 256 × 256 is the inner 224 × 224."""
    held = []
    for split, count in [("train", 16), ("test", 4)]:
        for label, name in enumerate(CLASSES):
            to = folder / split / name
            to.mkdir(parents=True)
            for i in range(count):
                picture = generator.integers(0, 128, (size, size, 3))
                picture[..., label] += 100
                write_png(to / f"{i}.png", picture.astype(np.uint8))
                if split == "test":
                    held.append((label, picture.astype(np.uint8).transpose(2, 0, 1)))
    inner = slice(16, 240) if size == 256 else slice(None)
    return np.array([label for label, _ in held]), np.stack([picture[:, inner, inner] for _, picture in held])


def expect_close(what, got, expected):
    """Within 1e-4 of the largest logit."""
    difference = np.abs(got - expected).max() / np.abs(expected).max()
    if got.shape != expected.shape or not difference < 1e-4:
        fail(f"{what}: shapes {got.shape} and {expected.shape}, relative difference {difference}")
    return difference


def check_onnx(rigl):
    """Every family of networks in onnxruntime, on brightnesses from 0 to 1: the logits are those of our forward pass."""
    folder, generator = rigl.folder, np.random.default_rng(5)
    held = {size: write_pictures(folder / f"pictures{size}", generator, size) for size in [32, 96, 256]}
    held[224] = held.pop(256)
    (folder / "pictures256").rename(folder / "pictures224")
    small = generator.integers(0, 256, (8, 784)).astype(np.uint8)
    networks = [
        ("lenet-300-100", None, []),
        ("lenet-300-100", None, ["--method", "dense", "--normalize", "per-image"]),
        ("784-64-48-10", None, ["--format", "bsr8x8", "--normalize", "none"]),
        ("lenet-5", None, ["--normalize", "channels"]),
        ("wrn-10-1", 32, []),
        ("wrn-10-1", 32, ["--normalize", "per-image", "--format", "bsr8x8"]),
        ("resnet-18", 32, ["--width", 0.25]),
        ("resnet-34", 96, ["--width", 0.125]),
        ("resnet-50", 96, ["--width", 0.125]),
        ("mobilenet-v1", 32, ["--width", 0.25, "--normalize", "none"]),
        ("mobilenet-v2", 96, ["--width", 0.25]),
        ("mobilenet-v2-relu6", 96, ["--width", 0.25]),
        ("vgg-16", 32, ["--width", 0.125]),
        ("vgg-16", 224, ["--width", 0.03]),
    ]
    worst = 0
    for number, (network, size, options) in enumerate(networks):
        data = ["--data", "image-folder", "--data-dir", f"pictures{size}", "--image-size", size] if size else []
        train = ["--steps", 6, "--batch-size", 8, "--lr", 0.02, "--init", "dense-fan-in"]
        if "dense" not in options:
            train = [*train, "--density", 0.5]
        else:
            train = train[:-2]
        run, path = f"onnx-{number}", f"{number}.onnx"
        rigl("train", "--model", network, *data, *train, *options, "--out", run)
        rigl("export", run, "--out", path)
        onnx.checker.check_model(onnx.load(folder / path), full_check=True)
        session = onnxruntime.InferenceSession(folder / path)
        told = json.loads(session.get_modelmeta().custom_metadata_map["model"])
        if told["name"] != network or size and told["input"]["class_names"] != CLASSES:
            fail(f"{path}: the metadata is {told}")
        labels, pictures = held[size] if size else (None, small)
        if network == "lenet-5":
            pictures = small.reshape(-1, 1, 28, 28)
        expected = rigl.logits(run, pictures)
        inputs = pictures.astype(np.float32) / np.float32(255)
        worst = max(worst, expect_close(f"{network}, ONNX", session.run(["logits"], {"input": inputs})[0], expected))
        one = session.run(["logits"], {"input": inputs[:1]})[0]
        expect_close(f"{network}, ONNX, one sample", one, expected[:1])
        # The same network by way of PyTorch's names.
        rigl("export", run, "--out", "back.safetensors")
        rigl("import", "back.safetensors", "--out", "imported.safetensors")
        expect_close(f"{network}, exported and imported", rigl.logits("imported.safetensors", pictures), expected)
        if size == 224:
            # What the run's own evaluation says, from the file alone.
            accuracy = rigl("eval", run)["accuracy"]
            got = (session.run(["logits"], {"input": inputs})[0].argmax(1) == labels).mean()
            if abs(got - accuracy) > 1e-9:
                fail(f"{network}, ONNX: accuracy {got}, expected {accuracy}")
    # A pretrained network on other pictures and classes: its convolutions fit, GMP prunes them.
    rigl("export", "onnx-6", "--out", "pretrained.safetensors", "--dense")
    record = rigl("import", "pretrained.safetensors", "--classes", 3, "--density", 1, "--out", "pretrained-3.safetensors")
    data = ["--data", "image-folder", "--data-dir", "pictures96", "--image-size", 96, "--batch-size", 8]
    prune = ["--method", "gmp", "--density", 0.2, "--update-interval", 1, "--begin-step", 0, "--end-step", 2]
    done = rigl("train", "--init-from", "pretrained-3.safetensors", *data, *prune, "--steps", 6, "--out", "fine-tuned")
    if record["density"] != 1 or abs(done["density"] - 0.2) > 0.01:
        fail(f"densities {record['density']} and {done['density']}, expected 1 and 0.2")
    checked("a network trained on 32 × 32 imported dense, pruned and trained on 96 × 96")
    checked(f"ONNX: onnx.checker, and logits of {len(networks)} networks in onnxruntime, at most {worst:.1e} off")
    checked("the same networks exported as safetensors and imported again: the same logits")


def check_table(rigl):
    """A regression on a table with missing numbers: the file scales inputs and outputs as `rigl predict` does."""
    folder, generator = rigl.folder, np.random.default_rng(6)
    x = (generator.standard_normal((200, 4)) * [1, 10, 100, 0.1] + [0, 5, -50, 3]).astype(np.float32)
    y = 1000 + 20 * x[:, 0] - 3 * x[:, 1] + x[:, 2]
    x[generator.random(x.shape) < 0.1] = np.nan
    cells = [["" if np.isnan(value) else repr(float(value)) for value in row] for row in x]
    lines = [",".join([*row, repr(float(target))]) for row, target in zip(cells, y)]
    (folder / "numbers.csv").write_text("\n".join(["a,b,c,d,y", *lines]) + "\n")
    data = ["--data", "table", "--table", "numbers.csv", "--target", "y", "--missing", "mean", "--loss", "mse"]
    rigl("train", *data, "--steps", 50, "--density", 0.5, "--out", "numbers")
    rigl("export", "numbers", "--out", "numbers.onnx")
    onnx.checker.check_model(onnx.load(folder / "numbers.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(folder / "numbers.onnx")
    got = session.run(["predictions"], {"input": x})[0][:, 0]
    result = subprocess.run([rigl.command, "predict", "numbers", "numbers.csv", "--json"], cwd=folder, capture_output=True, text=True)
    expected = [json.loads(line)["numbers"]["y"] for line in result.stdout.splitlines()]
    worst = expect_close("regression, ONNX", got, np.array(expected))
    checked(f"ONNX: predictions of a regression with missing numbers, at most {worst:.1e} off")


def check_torch(rigl):
    """PyTorch builds its own CSR tensors of our names, and a dense module loads our dense form; and the reverse."""
    folder = rigl.folder
    rigl("export", "run", "--out", "model.safetensors")
    rigl("export", "run", "--out", "dense.safetensors", "--dense")
    model = safetensors.torch.load_file(folder / "model.safetensors")
    whole = safetensors.torch.load_file(folder / "dense.safetensors")
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
    for layer in LAYERS[:2]:
        name = f"{layer}.weight"
        parts = [model[f"{name}.{part}"] for part in ["crow_indices", "col_indices", "values"]]
        weight = torch.sparse_csr_tensor(*parts, size=json.loads(metadata[f"{name}.shape"]), check_invariants=True)
        if not torch.equal(weight.to_dense(), whole[name]):
            fail(f"torch.sparse_csr_tensor, {layer}: the content differs")
    checked("torch.sparse_csr_tensor of the CSR names, with its invariants checked")

    linear, relu = torch.nn.Linear, torch.nn.ReLU
    module = torch.nn.Sequential(linear(784, 300), relu(), linear(300, 100), relu(), linear(100, 10))
    places = dict(zip(LAYERS, ["0", "2", "4"]))
    module.load_state_dict({f"{places[name[:3]]}{name[3:]}": tensor for name, tensor in whole.items()})
    safetensors.torch.save_file(module.state_dict(), folder / "state_dict.safetensors")
    back = rigl.import_and_export("state_dict.safetensors")
    for name, tensor in whole.items():
        expect_equal(f"the state dict of the module, {name}", back[name], tensor.numpy())
    checked("load_state_dict of the dense form; its state dict imported again")

    brain = {"weight": torch.randn(7, 5).to(torch.bfloat16)}
    safetensors.torch.save_file(brain, folder / "brain.safetensors")
    got = rigl.import_and_export("brain.safetensors")["fc1.weight"]
    expect_equal("bfloat16", got, brain["weight"].float().numpy())
    checked("safetensors.torch.save_file of bfloat16")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rigl", required=True, type=Path, help="the command to test")
    command = parser.parse_args().rigl.resolve()
    if not command.is_file():
        parser.error(f"--rigl: there is no file {command}")
    print(f"numpy {np.__version__}, scipy {scipy.__version__}, safetensors {safetensors.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        rigl = Rigl(command, Path(folder))
        check_exports(rigl)
        check_blocks(rigl)
        check_matrix_imports(rigl)
        check_state_dict_imports(rigl)
        check_pruning(rigl)
        check_metadata(rigl)
        check_onnx(rigl)
        check_table(rigl)
        if torch:
            check_torch(rigl)
        else:
            print("not run: torch (it is not installed)")
    print("all equal")


if __name__ == "__main__":
    main()
