"""A training step of a wide perceptron at density 0.01 beside the dense one, both with PyTorch's SGD: best of three seconds, one thread.

python benchmarks/step.py
"""

import time

import rigl
import torch
from torch import nn


def milliseconds(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x, y = torch.randn(32, 784), torch.randint(10, (32,))
    times, start = [], time.perf_counter()
    while time.perf_counter() - start < 3:
        before = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        times.append(time.perf_counter() - before)
    return min(times) * 1e3


def network():
    sizes = [784, 1568, 1568, 1568, 10]
    layers = [part for pair in zip(sizes, sizes[1:]) for part in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


torch.set_num_threads(1)
dense, sparse = milliseconds(network()), milliseconds(rigl.sparsify(network(), 0.01))
print(f"dense {dense:.2f} ms, sparse {sparse:.2f} ms, ratio {sparse / dense:.3f}")
