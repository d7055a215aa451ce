"""Times of PyTorch on the same operations: cuSPARSE and cuBLAS in f32, and a dense WRN-22-2 training step; see gpu.sh."""

import argparse
import json
import sys
import time

import torch
from torch import nn
import torch.nn.functional as F


def best_ns(call, synchronize, budget=1.0, least=5):
    """Best time of a call, over rounds of several calls between two synchronisations."""
    call()
    synchronize()
    start = time.perf_counter()
    call()
    synchronize()
    once = time.perf_counter() - start
    turn = max(1, min(50, int(0.05 / max(once, 1e-6))))
    best, turns, begin = float("inf"), 0, time.perf_counter()
    while turns < least or time.perf_counter() - begin < budget:
        start = time.perf_counter()
        for _ in range(turn):
            call()
        synchronize()
        best = min(best, (time.perf_counter() - start) / turn)
        turns += 1
    return round(best * 1e9)


def record(**fields):
    print(json.dumps({"event": "torch", **fields}), flush=True)


class Block(nn.Module):
    """A pre-activation block of a wide residual network."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x):
        y = F.relu(self.norm1(x))
        skip = x if self.skip is None else self.skip(y)
        return skip + self.conv2(F.relu(self.norm2(self.conv1(y))))


def wrn_22_2():
    layers, inputs = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)], 16
    for outputs, stride in [(32, 1), (64, 2), (128, 2)]:
        for i in range(3):
            layers.append(Block(inputs, outputs, stride if i == 0 else 1))
            inputs = outputs
    return nn.Sequential(*layers, nn.BatchNorm2d(128), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shapes", required=True)
    parser.add_argument("--densities", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    has_cuda = torch.cuda.is_available()
    device = "cuda" if has_cuda else "cpu"
    synchronize = torch.cuda.synchronize if has_cuda else lambda: None
    name = torch.cuda.get_device_name() if has_cuda else "cpu"
    common = {"device": name, "version": torch.__version__}
    record(available=True, cuda=has_cuda, **common)
    for shape in args.shapes.split():
        m, k, n = map(int, shape.split("x"))
        w, x, dy = torch.randn(m, k, device=device), torch.randn(k, n, device=device), torch.randn(m, n, device=device)
        record(op="dense_forward", shape=shape, time_ns=best_ns(lambda: w @ x, synchronize), **common)
        record(op="dense_weight_grad", shape=shape, time_ns=best_ns(lambda: dy @ x.T, synchronize), **common)
        for density in map(float, args.densities.split(",")):
            pattern = torch.rand(m, k, device=device) < density
            sparse = (w * pattern).to_sparse_csr()
            fields = {"shape": shape, "density": density, "nnz": sparse.values().numel(), **common}
            for op, call in [
                ("spmm", lambda: sparse @ x),
                ("sddmm", lambda: torch.sparse.sampled_addmm(sparse, dy, x.T, beta=0.0)),
            ]:
                try:
                    record(op=op, time_ns=best_ns(call, synchronize), **fields)
                except RuntimeError as error:
                    record(op=op, time_ns=None, error=str(error).splitlines()[0], **fields)
    network = wrn_22_2().to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9, nesterov=True, weight_decay=1e-4)
    images = torch.randn(args.batch_size, 3, 32, 32, device=device)
    labels = torch.randint(10, (args.batch_size,), device=device)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        network, batch = network.to(memory_format=memory_format), images.to(memory_format=memory_format)

        def step():
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(network(batch), labels).backward()
            optimizer.step()

        layout = "nchw" if memory_format == torch.contiguous_format else "nhwc"
        record(op="wrn-22-2 step", batch_size=args.batch_size, layout=layout, time_ns=best_ns(step, synchronize), **common)


if __name__ == "__main__":
    sys.exit(main())
