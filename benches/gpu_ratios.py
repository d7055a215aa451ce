"""Ratios from a file that gpu.sh wrote: ours compared with cuSPARSE, cuBLAS and PyTorch's dense step."""

import json
import sys


def main(path):
    with open(path, encoding="utf-8") as file:
        records = [json.loads(line) for line in file if line.strip()]
    torch = [r for r in records if r["event"] == "torch" and r.get("time_ns")]
    on_card = any(r.get("cuda") for r in records if r["event"] == "torch")

    def theirs(op, shape, density=None):
        near = [r for r in torch if r["op"] == op and r.get("shape") == shape]
        near = [r for r in near if density is None or abs(r["density"] - density) < 0.15 * density]
        return min((r["time_ns"] for r in near), default=None)

    def ratio(their, our):
        return "–" if their is None or our is None else f"{their / our:.2f}"

    print(f"PyTorch ran on {'the card' if on_card else 'the processor, or not at all: its ratios mean nothing'}")
    print(f"{'op':16} {'kind':16} {'shape':>22} {'density':>8} {'ms':>9} {'× our dense':>12} {'× cuSPARSE':>11} {'× cuBLAS':>9}")
    break_even = {}
    for r in records:
        if r["event"] != "kernel":
            continue
        # How it differs from csr in f32 with every feature of the device.
        kind = r["format"] if r["dtype"] == "f32" else f"{r['format']} {r['dtype']}"
        if kind == "csr" and "subgroups" not in r["isa"]:
            kind = "csr portable"
        sparse = theirs({"spmm_t": "spmm"}.get(r["op"], r["op"]), r["shape"], r["density"])
        dense = theirs("dense_weight_grad" if r["op"] == "sddmm" else "dense_forward", r["shape"])
        ours = r["time_ns"]
        if ours is None:
            print(f"{r['op']:16} {kind:16} {r['shape']:>22} {r['density']:8.3f}    failed")
            continue
        best = min(t for t in (dense, r["dense_time_ns"]) if t is not None)
        if ours <= best and r["format"] == "csr" and r["dtype"] == "f32":
            key = (r["op"], r["shape"])
            break_even[key] = max(break_even.get(key, 0.0), r["density"])
        cells = [ratio(r["dense_time_ns"], ours), ratio(sparse, ours), ratio(dense, ours)]
        print(f"{r['op']:16} {kind:16} {r['shape']:>22} {r['density']:8.3f} {ours / 1e6:9.3f} {cells[0]:>12} {cells[1]:>11} {cells[2]:>9}")
    for (op, shape), density in break_even.items():
        print(f"{op} {shape}: faster than the fastest dense up to density {density:.2f} of those measured")
    step = min((r["time_ns"] for r in torch if r["op"] == "wrn-22-2 step"), default=None)
    for r in records:
        if r["event"] == "step":
            print(
                f"{r['model']} step, density {r['density']:.3f}: {r['time_ns'] / 1e6:.2f} ms, "
                f"× our dense {ratio(r['dense_time_ns'], r['time_ns'])}, × PyTorch's {ratio(step, r['time_ns'])}"
            )


if __name__ == "__main__":
    main(sys.argv[1])
