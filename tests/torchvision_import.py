#!/usr/bin/env python3
"""torchvision's networks imported: the logits are PyTorch's.

  torchvision_import.py --rigl PATH_OF_THE_COMMAND [NETWORK@SIZE ...]

Needs numpy, safetensors, onnxruntime, torch and torchvision from PyPI (some 5 GB with their CUDA libraries, which is why no gate runs this),
and the example `logits` beside the command (cargo build --release --example logits). Weights are random, and so are the running
moments of normalisations, scales and shifts: nothing needs to be downloaded. Logits are compared within 1e-4 of the largest.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import safetensors.torch
import torch
import torch.nn.utils.prune
import torchvision

TORCHVISION = {
    "resnet-18": torchvision.models.resnet18,
    "resnet-34": torchvision.models.resnet34,
    "resnet-50": torchvision.models.resnet50,
    "mobilenet-v2-relu6": torchvision.models.mobilenet_v2,
    "vgg-16": torchvision.models.vgg16_bn,
}
DEFAULT = ["resnet-18@224", "resnet-18@32", "resnet-34@96", "resnet-50@96", "mobilenet-v2-relu6@224", "mobilenet-v2-relu6@32", "vgg-16@224"]
PICTURES = 4


def fail(message):
    sys.exit(f"FAILED: {message}")


def run(folder, command, *arguments):
    result = subprocess.run([str(part) for part in [command, *arguments]], cwd=folder, capture_output=True, text=True)
    if result.returncode != 0:
        fail(f"{command} {' '.join(map(str, arguments))}: exit code {result.returncode}: {result.stderr}")
    return result


def random_network(name):
    """A network whose every parameter and moment is random, such that activations neither vanish nor explode."""
    torch.manual_seed(7)
    network = TORCHVISION[name]()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
            if name == "mobilenet-v2-relu6":
                # Far enough that some outputs reach 6.
                torch.nn.init.normal_(module.bias, 2, 3)
            torch.nn.init.normal_(module.running_mean, 0, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
        elif isinstance(module, torch.nn.Conv2d) and module.bias is not None:
            torch.nn.init.normal_(module.bias, 0, 0.3)
    return network.eval()


def check(rigl, name, size, folder):
    network = random_network(name)
    state = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    safetensors.torch.save_file(state, folder / "torchvision.safetensors")
    run(folder, rigl, "import", "torchvision.safetensors", "--image-size", size, "--out", "imported.safetensors")
    pictures = np.random.default_rng(8).integers(0, 256, (PICTURES, 3, size, size)).astype(np.uint8)
    np.save(folder / "pictures.npy", pictures.reshape(PICTURES, -1))
    run(folder, rigl.parent / "examples" / "logits", "imported.safetensors", "pictures.npy", "logits.npy")
    got = np.load(folder / "logits.npy")
    ends = []
    for module in network.modules():
        if isinstance(module, torch.nn.ReLU6):
            module.register_forward_hook(lambda _, inputs, output: ends.append((output == 6).float().mean().item()))
    with torch.no_grad():
        expected = network(torch.from_numpy(pictures) / 255).numpy()
    if ends and np.mean(ends) < 0.01:
        fail(f"{name}: too few outputs reach the end of ReLU6 for a comparison: {np.mean(ends)}")
    difference = np.abs(got - expected).max() / np.abs(expected).max()
    if got.shape != expected.shape or not difference < 1e-4:
        fail(f"{name} on {size} × {size}: shapes {got.shape} and {expected.shape}, relative difference {difference}")
    print(f"ok      {name} on {size} × {size}: logits up to {np.abs(expected).max():.3g}, at most {difference:.1e} of that off", flush=True)
    run(folder, rigl, "export", "imported.safetensors", "--out", "exported.onnx")
    session = onnxruntime.InferenceSession(folder / "exported.onnx")
    got = session.run(["logits"], {"input": pictures.astype(np.float32) / np.float32(255)})[0]
    difference = np.abs(got - expected).max() / np.abs(expected).max()
    if not difference < 1e-4:
        fail(f"{name}: exported to ONNX, relative difference {difference}")
    print(f"ok      {name}: ONNX, at most {difference:.1e} off", flush=True)
    # Back: a dense export loads into the module, and gives the same logits there.
    run(folder, rigl, "export", "imported.safetensors", "--out", "exported.safetensors", "--dense")
    back = TORCHVISION[name]()
    exported = safetensors.torch.load_file(folder / "exported.safetensors")
    missing = back.load_state_dict(exported, strict=False)
    # Biases that stand before normalisations are in the running means.
    missing = [key for key in missing.missing_keys if "num_batches" not in key and not (name == "vgg-16" and key.startswith("features"))]
    if missing:
        fail(f"{name}: the export lacks {missing}")
    for module in back.modules() if name == "vgg-16" else []:
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.zeros_(module.bias)
    with torch.no_grad():
        again = back.eval()(torch.from_numpy(pictures) / 255).numpy()
    difference = np.abs(again - expected).max() / np.abs(expected).max()
    if not difference < 1e-4:
        fail(f"{name}: exported to PyTorch again, relative difference {difference}")
    print(f"ok      {name}: load_state_dict of the dense export, at most {difference:.1e} off", flush=True)


def check_pruned(rigl, folder):
    """`torch.nn.utils.prune`: the masks are the pattern; a network of ten classes has a new last layer."""
    network = random_network("resnet-18")
    torch.nn.utils.prune.l1_unstructured(network.layer1[0].conv1, "weight", amount=0.9)
    state = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    safetensors.torch.save_file(state, folder / "masked.safetensors")
    record = run(folder, rigl, "import", "masked.safetensors", "--classes", 10, "--out", "masked-10.safetensors", "--json")
    layers = {layer["name"]: layer for layer in json.loads(record.stdout.splitlines()[-1])["layers"]}
    expected = int(network.layer1[0].conv1.weight_mask.sum())
    if layers["layer1.0.conv1"]["nnz"] != expected or layers["fc"]["shape"] != [10, 512]:
        fail(f"masked ResNet-18: {layers['layer1.0.conv1']} and {layers['fc']}, expected {expected} weights and 10 classes")
    if "new" not in record.stderr:
        fail(f"masked ResNet-18: nothing is said of the new layer: {record.stderr}")
    print(f"ok      masks of torch.nn.utils.prune: {expected} weights; a new last layer of 10 classes")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rigl", required=True, type=Path, help="the command to test")
    parser.add_argument("networks", nargs="*", default=DEFAULT, help=f"NETWORK@SIZE, of {', '.join(TORCHVISION)}")
    arguments = parser.parse_args()
    rigl = arguments.rigl.resolve()
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        for network in arguments.networks:
            name, size = network.split("@")
            check(rigl, name, int(size), Path(folder))
        check_pruned(rigl, Path(folder))
    print("all equal")


if __name__ == "__main__":
    main()
