#!/usr/bin/env python3
"""LeNet-300-100 on Fashion-MNIST with dense tensors and a mask, in NumPy: a reference for `rigl train`.

  masked_dense.py rigl|set|static 0.02|0.1 FOLDER SEED...

FOLDER holds the four IDX files, plain or .gz. The settings are those of the first table in docs/experiments.md; the random
numbers are NumPy's. Prints a line `method density seed accuracy` per seed; a run takes about 15 s.
"""
import gzip
import math
import os
import sys

import numpy as np

method, density, folder, seeds = sys.argv[1], float(sys.argv[2]), sys.argv[3], [int(s) for s in sys.argv[4:]]


def read(name, header):
    plain = os.path.join(folder, name)
    with open(plain, "rb") if os.path.exists(plain) else gzip.open(plain + ".gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


X = read("train-images-idx3-ubyte", 16).reshape(-1, 784).astype(np.float32) / 255
Y = read("train-labels-idx1-ubyte", 8)
T = read("t10k-images-idx3-ubyte", 16).reshape(-1, 784).astype(np.float32) / 255
U = read("t10k-labels-idx1-ubyte", 8)
mean, deviation = X.mean(), X.std()
X, T = (X - mean) / deviation, (T - mean) / deviation
SHAPES = [(300, 784), (100, 300), (10, 100)]
# ERK
DENSITIES = {0.02: [1 - 0.98461, 1 - 0.95547, 1 - 0.63260], 0.1: [1 - 0.92043, 1 - 0.76981, 1.0]}[density]
STEPS, BEGIN, END, INTERVAL = 6000, 100, 4500, 100


def forward(x, W, B):
    activations = [x]
    for layer in range(3):
        x = x @ W[layer].T + B[layer]
        x = np.maximum(x, 0) if layer < 2 else x
        activations.append(x)
    return activations


for seed in seeds:
    random = np.random.default_rng(seed)
    W, M = [], []
    for (outputs, inputs), d in zip(SHAPES, DENSITIES):
        a, size = math.sqrt(6 / (outputs + inputs)), outputs * inputs
        w = random.uniform(-a, a, (outputs, inputs)).astype(np.float32)
        mask = np.zeros(size, bool)
        mask[random.permutation(size)[: size - math.floor((1 - d) * size + 1e-9)]] = True
        M.append(mask.reshape(outputs, inputs))
        W.append(w * M[-1])
    B = [np.zeros(outputs, np.float32) for outputs, _ in SHAPES]
    V, VB = [np.zeros_like(w) for w in W], [np.zeros_like(b) for b in B]
    step = 0
    for _ in range(10):
        order = random.permutation(60000)
        for batch in range(600):
            index = order[batch * 100 : batch * 100 + 100]
            activations = forward(X[index], W, B)
            z = activations[3] - activations[3].max(1, keepdims=True)
            g = np.exp(z) / np.exp(z).sum(1, keepdims=True)
            g[np.arange(100), Y[index]] -= 1
            g /= 100
            G, GB = [None] * 3, [None] * 3
            for layer in (2, 1, 0):
                G[layer], GB[layer] = g.T @ activations[layer], g.sum(0)
                if layer:
                    g = (g @ W[layer]) * (activations[layer] > 0)
            if method != "static" and BEGIN <= step < END and step % INTERVAL == 0:
                fraction = 0.15 * (1 + math.cos(math.pi * (step - BEGIN) / (END - BEGIN)))
                for layer in range(3):
                    mask, w, v = M[layer].ravel(), W[layer].ravel(), V[layer].ravel()
                    count = int(fraction * mask.sum())
                    if count == 0 or mask.all():
                        continue
                    active = np.flatnonzero(mask)
                    keep = mask.copy()
                    keep[active[np.argsort(np.abs(w[active]), kind="stable")[:count]]] = False
                    score = np.abs(G[layer].ravel()).copy() if method == "rigl" else random.random(mask.size)
                    score[keep] = -1
                    grown = np.lexsort((random.random(mask.size), -score))[:count]
                    new = keep.copy()
                    new[grown] = True
                    fresh = grown[~mask[grown]]
                    for values in (w, v):
                        values[~new] = 0
                        values[fresh] = 0
                    M[layer] = new.reshape(SHAPES[layer])
            else:
                rate = 0.05 * (1 + math.cos(math.pi * step / STEPS))
                for layer in range(3):
                    gradient = (G[layer] + 1e-4 * W[layer]) * M[layer]
                    V[layer] = 0.9 * V[layer] + gradient
                    W[layer] -= rate * (gradient + 0.9 * V[layer])
                    VB[layer] = 0.9 * VB[layer] + GB[layer]
                    B[layer] -= rate * (GB[layer] + 0.9 * VB[layer])
            step += 1
    print(method, density, seed, (forward(T, W, B)[3].argmax(1) == U).mean(), flush=True)
