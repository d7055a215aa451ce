"""Compares the event files of a run with its records: every number of every epoch, once, as TensorBoard reads them.

    pip install tensorboard
    rigl train --epochs 3 --val-fraction 0.1 --log tensorboard --out run
    rm run/checkpoint.safetensors && rigl train --resume run --log tensorboard     # the last epoch again, in a second file
    python tests/event_files.py run
"""

import json
import math
import pathlib
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

NAMES = {"train": "train", "val": "validation", "test": "test"}


def tag(key):
    samples, _, name = key.partition("_")
    return f"{name}/{NAMES[samples]}" if name and samples in NAMES else key


def main(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = {}
    for record in records:
        if record["event"] == "epoch":
            step, numbers = record["step"], {tag(key): value for key, value in record.items() if key not in ("epoch", "step")}
        else:
            step = record["steps"]
            numbers = {f"final/{key}": value for key, value in record.items() if key.startswith("test_")}
        for name, value in numbers.items():
            if isinstance(value, (int, float)):
                expected.setdefault(name, []).append((step, value))

    accumulator = EventAccumulator(str(run), size_guidance={"scalars": 0})
    accumulator.Reload()
    found = {name: [(event.step, event.value) for event in accumulator.Scalars(name)] for name in accumulator.Tags()["scalars"]}
    assert found.keys() == expected.keys(), (sorted(found), sorted(expected))
    for name, points in expected.items():
        assert [step for step, _ in points] == [step for step, _ in found[name]], (name, found[name])
        for (_, value), (_, read) in zip(points, found[name]):
            assert math.isclose(value, read, rel_tol=1e-6, abs_tol=1e-9), (name, value, read)

    # File by file too, without what TensorBoard forgets where a session starts.
    files = sorted(run.glob("*tfevents*"))
    steps = [event.step for file in files for event in LegacyEventFileLoader(str(file)).Load() if event.HasField("summary")]
    assert steps == sorted(steps) and len(steps) == len(records), steps
    print(f"{sum(map(len, found.values()))} numbers of {len(found)} scalars in {len(files)} files are those of the records")


main(pathlib.Path(sys.argv[1]))
