"""A sparse layer in PyTorch, forward and backward, beside what it is measured by. One line of JSON for each shape and density.

    python benchmarks/linear.py --rigl ../target/release/rigl [--threads 1] [--sparselab]

`kernels_ms` is the time of the three products as `rigl bench kernel` measures them; `conversions_ms` what it takes to copy, at the speed
of a copy of that size, every operand that is converted: x and y in the forward pass, x, dy and dx in the backward pass; y and dx into new
tensors. `overhead` is the layer's time by both together.
"""

import argparse
import json
import subprocess
import sys
import time

import rigl
import torch
from torch import nn

SHAPES = [(512, 512, 256), (1024, 1024, 256), (2560, 640, 1024)]
OPS = ["spmm", "spmm_t", "sddmm"]
DENSITIES = [0.2, 0.1, 0.05, 0.01]


def best(function, seconds=0.6, least=5):
    function()
    times, start = [], time.perf_counter()
    while len(times) < least or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        function()
        times.append(time.perf_counter() - before)
    return min(times) * 1e3


def passes(layer, parameters, x, dy):
    """Milliseconds of the forward pass, which records a graph, and of the backward pass for all gradients."""
    forward = best(lambda: layer(x))
    parameters = list(parameters)
    y = layer(x)
    backward = best(lambda: torch.autograd.grad(y, (x, *parameters), dy, retain_graph=True))
    return forward, backward


class TorchSparse(nn.Module):
    """The product that `torch.sparse` has: W in CSR times the transposed input."""

    def __init__(self, layer):
        super().__init__()
        self.weight = nn.Parameter(rigl.to_dense(layer).weight.detach().to_sparse_csr())
        self.bias = nn.Parameter(layer.bias.detach().clone())

    def forward(self, x):
        return (self.weight @ x.t()).t() + self.bias


def kernels(command, shape, density, threads):
    shape = "x".join(map(str, shape))
    arguments = ["bench", "kernel", "--shape", shape, "--density", str(density), "--threads", str(threads), "--json"]
    total = 0.0
    for op in OPS:
        done = subprocess.run([command, *arguments, "--op", op], capture_output=True, text=True, check=True)
        total += json.loads(done.stdout.splitlines()[0])["time_ns"] / 1e6
    return total


def copies(outputs, inputs, samples):
    def copy(features):
        """Into memory that is there, as the kernels' own, and into a new tensor, as a result is."""
        source, target = torch.randn(samples, features), torch.empty(samples, features)
        return best(lambda: target.copy_(source), 0.1), best(lambda: source.clone(), 0.1)

    (x, dx), (dy, y) = copy(inputs), copy(outputs)
    return x + y + x + dy + dx


def sparselab_alone(outputs, inputs, samples, density, threads):
    import sparselab

    torch.set_num_threads(int(threads))
    x, dy = torch.randn(int(samples), int(inputs), requires_grad=True), torch.randn(int(samples), int(outputs))
    layer = sparselab.SparseLinear(int(inputs), int(outputs), sparsity=1 - float(density))

    def step():
        layer.zero_grad()
        x.grad = None
        layer(x).backward(dy)

    print(best(step))


def main():
    if sys.argv[1:2] == ["--sparselab-alone"]:
        return sparselab_alone(*sys.argv[2:])
    parser = argparse.ArgumentParser()
    parser.add_argument("--rigl", help="the command, for the kernels alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--format", default="csr")
    parser.add_argument("--sparselab", action="store_true", help="measure SparseLab too")
    parser.add_argument("--no-torch-sparse", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for outputs, inputs, samples in SHAPES:
        x, dy = torch.randn(samples, inputs, requires_grad=True), torch.randn(samples, outputs)
        dense = nn.Linear(inputs, outputs)
        dense_times = passes(dense, dense.parameters(), x, dy)
        for density in DENSITIES:
            layer = rigl.SparseLinear(inputs, outputs, density, arguments.format)
            times = passes(layer, layer.parameters(), x, dy)
            record = {
                "shape": [outputs, inputs, samples],
                "density": density,
                "format": arguments.format,
                "threads": arguments.threads,
                "forward_ms": times[0],
                "backward_ms": times[1],
                "dense_forward_ms": dense_times[0],
                "dense_backward_ms": dense_times[1],
                "of_dense": sum(times) / sum(dense_times),
            }
            if arguments.rigl:
                record["kernels_ms"] = kernels(arguments.rigl, (outputs, inputs, samples), density, arguments.threads)
                record["conversions_ms"] = copies(outputs, inputs, samples)
                record["overhead"] = sum(times) / (record["kernels_ms"] + record["conversions_ms"])
            if not arguments.no_torch_sparse:
                other = TorchSparse(layer)
                record["torch_sparse_ms"] = sum(passes(other, other.parameters(), x, dy))
                record["times_torch_sparse"] = record["torch_sparse_ms"] / sum(times)
            if arguments.sparselab:
                # In a process of its own: what SparseLab 0.2.2 keeps of one layer gets into the way of the next.
                case = [str(number) for number in (outputs, inputs, samples, density, arguments.threads)]
                command = [sys.executable, __file__, "--sparselab-alone", *case]
                record["sparselab_ms"] = float(subprocess.run(command, capture_output=True, check=True).stdout)
                record["times_sparselab"] = record["sparselab_ms"] / sum(times)
            print(
                json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in record.items()}), flush=True
            )


if __name__ == "__main__":
    main()
