"""The extension. Addresses come with the number of elements; tensors and arrays are contiguous, on the CPU, of float32 or int32."""

from typing import Dict, List, Optional, Sequence, Tuple

_At = Tuple[int, int]

__version__: str

class Weight:
    nnz: int
    entries: int
    grows: bool
    size: int
    @staticmethod
    def linear(rows: int, columns: int, format: str, offsets: _At, entries: _At) -> Weight: ...
    @staticmethod
    def conv(
        channels: Tuple[int, int],
        kernel: Tuple[int, int],
        stride: Tuple[int, int],
        padding: Tuple[int, int],
        dilation: Tuple[int, int],
        groups: int,
        format: str,
        offsets: _At,
        entries: _At,
    ) -> Weight: ...
    @staticmethod
    def random_pattern(
        size: Tuple[int, int], format: str, nnz: int, seed: int, name: str
    ) -> Tuple[List[int], List[int]]: ...
    def indices(self) -> Tuple[List[int], List[int]]: ...
    def positions(self) -> List[int]: ...
    def forward(self, threads: int, x: Tuple[int, Sequence[int]], values: _At, bias: _At, y: _At) -> None: ...
    def backward(
        self, threads: int, dy: _At, x: Tuple[int, Sequence[int]], values: _At, dx: int, dvalues: int, dbias: int
    ) -> None: ...
    def product(self, threads: int, transpose: bool, lanes: int, values: _At, x: _At, y: _At) -> None: ...
    def sampled(self, threads: int, lanes: int, dy: _At, x: _At, values: _At) -> None: ...
    def dense_gradient(self, to: _At) -> None: ...
    def set_dense_gradient(self, from_: _At) -> None: ...

class Update:
    layer: int
    weight: Weight
    def map(self) -> bytearray: ...

class Scheduler:
    def __init__(
        self,
        method: str,
        layers: List[Tuple[str, Weight, int]],
        begin_step: int,
        end_step: Optional[int],
        update_interval: int,
        drop_fraction: float,
        drop_schedule: str,
        drop_exponent: float,
        seed: int,
        parameters: Dict[str, str],
    ) -> None: ...
    def before(self, step: int, values: List[_At], adds_up: bool) -> bool: ...
    def after(self, step: int, values: List[_At], learning_rate: float, steps: bool) -> List[Update]: ...
    def state(self) -> str: ...
    def restore(self, state: str) -> None: ...

def solve(
    layers: Sequence[Tuple[str, Sequence[int]]], density: float, distribution: str, power: float
) -> List[int]: ...
def after_fork() -> None: ...
def instruction_set() -> str: ...
