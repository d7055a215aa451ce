#!/usr/bin/env python3
"""Compares text models with PyTorch's: logits, and the gradients of the mean loss, of the exported weights.

  sequence_parity.py RIGL TEXT_GRADIENTS   the binary and the example of that name; needs torch, numpy and safetensors

Trains a few steps of each network (so that no bias is zero any more), exports it with whole matrices, loads the file into plain
PyTorch modules and compares its logits and gradients on random tokens with theirs.
"""
import subprocess, sys, tempfile
from pathlib import Path

import numpy, torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file

RIGL = sys.argv[1]
SYMBOLS, LENGTH = 256, 24


class Recurrent(nn.Module):
    """Embedding, `torch.nn.GRU` or `torch.nn.LSTM`, readout."""

    def __init__(self, kind, hidden, layers, embedding, readout):
        super().__init__()
        self.embedding = nn.Embedding(SYMBOLS, embedding)
        cell = {"gru": nn.GRU, "lstm": nn.LSTM}[kind](embedding, hidden, layers, batch_first=True)
        self.kind = kind
        setattr(self, kind, cell)
        widths = [hidden, *readout, SYMBOLS]
        self.readout = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:]))

    def forward(self, tokens):
        x, _ = getattr(self, self.kind)(self.embedding(tokens))
        for layer in self.readout[:-1]:
            x = F.relu(layer(x))
        return self.readout[-1](x)


class Attention(nn.Module):
    def __init__(self, heads, width):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x, turn):
        batch, length, width = x.shape
        q, k, v = (f(x).view(batch, length, self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        if turn:
            q, k = rotated(q), rotated(k)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(y.transpose(1, 2).reshape(batch, length, width))


def rotated(x, base=10000.0):
    """Rotary positions by halves, as GPT-NeoX and LLaMA have them."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2])[:, None] * base ** (-torch.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, heads, width, norm):
        super().__init__()
        self.norm1, self.attn, self.norm2, self.ff = norm(), Attention(heads, width), norm(), FeedForward(width)

    def forward(self, x, turn):
        x = x + self.attn(self.norm1(x), turn)
        return x + self.ff(self.norm2(x))


class Gpt(nn.Module):
    def __init__(self, layers, heads, width, rotary, rms):
        super().__init__()
        norm = lambda: nn.RMSNorm(width, eps=1e-5) if rms else nn.LayerNorm(width)
        self.turn = rotary
        self.token_embedding = nn.Embedding(SYMBOLS, width)
        if not rotary:
            self.position_embedding = nn.Embedding(LENGTH, width)
        self.blocks = nn.ModuleList(Block(heads, width, norm) for _ in range(layers))
        self.norm, self.head = norm(), nn.Linear(width, SYMBOLS)

    def forward(self, tokens):
        x = self.token_embedding(tokens)
        if not self.turn:
            x = x + self.position_embedding.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, self.turn)
        return self.head(self.norm(x))


def rigl(*arguments):
    return subprocess.run([RIGL, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def difference(got, expected, least=0.0):
    """The largest difference, relative to the largest number, or to `least`."""
    return float((got - expected).abs().max() / max(expected.abs().max(), least))


def ours(name):
    """The file of a parameter's gradient, by its name in PyTorch."""
    for kind in ("gru", "lstm"):
        if name.startswith(kind + "."):
            what, part, layer = name[len(kind) + 1 :].split("_")
            part = {"ih": "input", "hh": "state"}[part]
            return f"{kind}.{layer}.{part}.{what}"
    return name


def compare(folder, example, model, module, options):
    text = folder / "text.txt"
    text.write_bytes(bytes(numpy.random.default_rng(0).integers(0, 256, 4000, dtype=numpy.uint8)))
    run = folder / "run"
    rigl("train", "--data", "text", "--text", text, "--model", model, "--sequence-length", LENGTH, "--batch-size", 8, "--steps", 20,
         "--method", "static", "--density", 0.5, "--lr", 0.01, "--out", run, *options)
    rigl("export", run, "--dense", "--out", folder / "dense.safetensors")
    rigl("import", folder / "dense.safetensors", "--density", 1, "--out", folder / "dense-model.safetensors")
    module.load_state_dict(load_file(folder / "dense.safetensors"))
    tokens = torch.from_numpy(numpy.random.default_rng(1).integers(0, SYMBOLS, (3, LENGTH + 1)))
    numpy.save(folder / "tokens.npy", tokens.numpy().astype(numpy.float32))
    logits = module(tokens[:, :-1])
    F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    worst = {}
    for source in (run, folder / "dense-model.safetensors"):
        out = folder / "out"
        out.mkdir(exist_ok=True)
        subprocess.run([example, source, folder / "tokens.npy", out], check=True)
        got = torch.from_numpy(numpy.load(out / "logits.npy"))
        worst["logits"] = max(worst.get("logits", 0), difference(got, logits.detach().flatten(0, 1)))
    read = lambda name: numpy.load(out / f"{name}.npy").flatten()
    # The gradient of a key's bias is zero but for roundings: softmax does not see it.
    least = 1e-3 * max(parameter.grad.abs().max() for parameter in module.parameters())
    for name, parameter in module.named_parameters():
        base = name.rsplit(".", 1)[0]
        if (out / f"{base}.affine.npy").exists():
            half = parameter.numel()
            affine = read(f"{base}.affine")
            got = affine[:half] if name.endswith("weight") else affine[half:]
        else:
            got = read(ours(name))
        worst[name] = difference(torch.from_numpy(got.copy()), parameter.grad.flatten(), least)
    name = max(worst, key=worst.get)
    print(f"{model} {' '.join(map(str, options))}: logits {worst['logits']:.1e}, gradients at most {worst[name]:.1e} ({name})")
    if worst[name] > 1e-4:
        sys.exit(f"{model}: {name} differs by {worst[name]:.1e}")


EXAMPLE = sys.argv[2]
torch.set_default_dtype(torch.float32)
for model, module, options in [
    ("gru-40", Recurrent("gru", 40, 1, 12, [20]), ["--embedding", 12, "--readout", 20]),
    ("lstm-40", Recurrent("lstm", 40, 1, 12, [20]), ["--embedding", 12, "--readout", 20]),
    ("gpt-2-3-24", Gpt(2, 3, 24, False, False), []),
    ("gpt-2-2-36", Gpt(2, 2, 36, True, True), ["--positions", "rotary", "--norm", "rms"]),
]:
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), EXAMPLE, model, module, options)
