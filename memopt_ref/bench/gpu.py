"""A GPU's table: our steps against the bandwidth of a copy and against torch's fused optimizers.

``python -m memopt_ref.bench.gpu --output FILE`` first holds every kernel that it will time against the
reference on the device, then times; ``make gpu-check`` runs the kernels' tests there before that. The file
says which device, driver and versions it is of, and names no host and no path, so that it can be committed.
Where there is no GPU it says so and what it takes. No GPU has run this yet.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from .. import __version__, backends
from ..backends import select
from ..backends.timing import interleaved
from ..backends.tuning import measure as tuning
from ..backends.tuning.candidates import Candidate
from ..backends.tuning.key import key_of
from ..backends.tuning.where import on_device
from ..errors import BackendError, MemoptError
from ..optimizer import Optimizer
from . import peers, tracks
from .gpu_rows import ENTRIES, TARGETS, bytes_of, entries_of, fitting, gpu_rows
from .limit import Step
from .rows import Row

OURS, COPY, TORCH = "memopt", "copy", "torch"
#: Seconds that a sample lasts, so that the host's part of a step hides behind the device's.
SAMPLE, MOST = 0.05, 1000
#: Numbers that are drawn; a large tensor repeats them.
DRAWN = 2**20


class Machine(Protocol):
    """The device that is measured."""

    about: dict[str, Any]

    def clock(self) -> float:
        """Seconds, once everything launched before is done."""

    def free(self) -> int:
        """Bytes of memory that are free."""

    def array(self, shape: tuple[int, ...], seed: int, scale: float = 1.0) -> Any:
        """float32 numbers there, the same for the same seed."""

    def copy(self, entries: int) -> Step:
        """A copy of so many float32 entries from one array to another."""

    def torch(self, name: str, shapes: Iterable[tuple[int, ...]]) -> Step | None:
        """A step of torch's fused optimizer on as many tensors of its own; None if there is no torch."""


class CuPyMachine:
    """CuPy's current GPU."""

    def __init__(self) -> None:
        from ..backends.cupy_gpu.cupy_device import on

        self._cupy = import_module("cupy")
        self._device = on(int(self._cupy.cuda.runtime.getDevice()))
        self.about = {"device": self._device.about, "processors": self._device.processors}
        self.clock = self._device.clock

    def free(self) -> int:
        """As the driver tells, with what CuPy's pool can give back."""
        self._cupy.get_default_memory_pool().free_all_blocks()
        return int(self._cupy.cuda.runtime.memGetInfo()[0])

    def array(self, shape: tuple[int, ...], seed: int, scale: float = 1.0) -> Any:
        """Drawn on the host, repeated on the device."""
        made = self._cupy.empty(shape, np.float32)
        flat = made.reshape(-1)
        drawn = self._cupy.asarray(tracks.normal((min(flat.size, DRAWN),), seed, scale))
        for start in range(0, flat.size, DRAWN):
            part = flat[start : start + DRAWN]
            part[...] = drawn[: part.size]
        return made

    def copy(self, entries: int) -> Step:
        """By the driver, device to device."""
        a, b = self._cupy.zeros(entries, np.float32), self._cupy.empty(entries, np.float32)
        return lambda: b.data.copy_from_device_async(a.data, b.nbytes)

    def torch(self, name: str, shapes: Iterable[tuple[int, ...]]) -> Step | None:
        """On the same device, and on the default stream as we are."""
        if find_spec("torch") is None:
            return None
        torch = import_module("torch")
        if not torch.cuda.is_available():
            return None
        parameters = []
        for shape in shapes:
            p = torch.nn.Parameter(torch.randn(shape, device="cuda"))
            p.grad = 1e-2 * torch.randn(shape, device="cuda")
            parameters.append(p)
        kind, arguments = peers.TORCH[name]
        optimizer = getattr(torch.optim, kind)(parameters, **arguments)
        self.about.setdefault("torch", str(torch.__version__))
        return lambda: optimizer.step()


class Result(NamedTuple):
    """What a row came to: least seconds of a step of ours, of torch's, and of a copy of as many entries.

    ``said`` is what ``explain()`` says of the first tensor: its kernel, and how its knobs were set.
    """

    row: Row
    said: str
    seconds: float
    torch: float | None
    copy: float

    @property
    def fraction(self) -> float:
        """Of the copy's bandwidth, which moves eight bytes an entry."""
        return bytes_of(self.row) / 8 * self.copy / self.seconds

    @property
    def of_torch(self) -> float | None:
        """Our time as a multiple of torch's."""
        return None if self.torch is None else self.seconds / self.torch

    @property
    def verdict(self) -> str:
        """``goal``, ``bar`` or ``under``; ``-`` where torch, which the row is held against, is not there."""
        target = TARGETS[self.row.name]
        held = self.fraction, self.of_torch
        if (target.torch_bar is not None and held[1] is None) or target.bar is target.torch_bar is None:
            return "-"
        for name, least, most in (
            ("goal", target.goal, target.torch_goal or target.torch_bar),
            ("bar", target.bar, target.torch_bar),
        ):
            fast = least is None or held[0] >= least
            if fast and (most is None or held[1] is None or held[1] <= most):
                return name
        return "under"

    def as_record(self) -> dict[str, Any]:
        """For the file."""
        target = TARGETS[self.row.name]
        return {
            "name": self.row.name,
            "rule": repr(self.row.rule),
            "tensors": len(self.row.shapes),
            "entries": entries_of(self.row),
            "kernel": self.said,
            "bytes_per_entry": bytes_of(self.row),
            "seconds": self.seconds,
            "fraction_of_copy": self.fraction,
            "bar": target.bar,
            "goal": target.goal,
            "torch": target.peer,
            "torch_seconds": self.torch,
            "of_torch": self.of_torch,
            "torch_bar": target.torch_bar,
            "torch_goal": target.torch_goal,
            "reaches": self.verdict,
        }


def served(row: Row) -> bool:
    """Whether this release has a kernel for the row."""
    kernels = backends.registry.known("cupy", "bench.gpu").variants()
    return any(kernel.supports(row.rule, row.shapes[0], np.dtype(np.float32))[0] for kernel in kernels)


def check(machine: Machine, row: Row) -> None:
    """Hold the kernel that steps a row against the reference, on the device.

    Raises
    ------
    BackendError
        Its bits are not the reference's.
    """
    w = machine.array((1,), 0)
    where = on_device(w)
    if where is None:
        raise BackendError("bench.gpu", "a device without a clock", "a GPU", "Measure on a GPU.")
    shape, dtype = row.shapes[0], np.dtype(np.float32)
    choice = select(row.rule, shape, dtype, "cupy")
    key = key_of(row.rule, shape, dtype, "c", [choice.variant.name], 0, where)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # said below, as an error
        tuning.compare(row.rule, dtype, key, [Candidate(choice.variant, {})], machine.clock, where)


def ours(machine: Machine, row: Row) -> Optimizer:
    """Our Optimizer on arrays of the device, without the check for NaN, as torch's is."""
    params = {str(k): machine.array(shape, k) for k, shape in enumerate(row.shapes)}
    return Optimizer(params, row.rule, nonfinite="propagate")


def measure(machine: Machine, row: Row, rounds: int = 15) -> Result:
    """Check a row's kernel, then time it: ours, torch's and the copy in turn."""
    check(machine, row)
    opt = ours(machine, row)
    grads = {str(k): machine.array(shape, k + 1, 1e-2) for k, shape in enumerate(row.shapes)}
    steps: dict[str, Step] = {COPY: machine.copy(entries_of(row)), OURS: lambda: opt.step(grads)}
    if (other := machine.torch(TARGETS[row.name].peer, row.shapes)) is not None:
        steps[TORCH] = other
    times = {name: _times(step, machine.clock) for name, step in steps.items()}
    samples = {name: _repeated(step, times[name]) for name, step in steps.items()}
    found = interleaved(samples, COPY, rounds, machine.clock)
    least = {name: timing.seconds / times[name] for name, timing in found.items()}
    said = opt.explain().splitlines()[0]
    return Result(row, said, least[OURS], least.get(TORCH), least[COPY])


def _times(step: Step, clock: Callable[[], float]) -> int:
    """How often a step is made in one sample."""
    step()
    begin = clock()
    step()
    return max(1, min(MOST, round(SAMPLE / max(clock() - begin, 1e-7))))


def _repeated(step: Step, times: int) -> Step:
    def sample() -> None:
        for _ in range(times):
            step()

    return sample


def report(
    machine: Machine, entries: int | None = None, rounds: int = 15, tell: Any = None
) -> dict[str, Any]:
    """The whole table as what the file holds.

    Parameters
    ----------
    machine : Machine
    entries : int, optional
        Of a dense tensor; without it 2^28, or as many as there is memory for.
    rounds : int
    tell : function of Result, optional
        Called after each row.

    Raises
    ------
    BackendError
        A kernel has not the bits of the reference: no figure is made.
    """
    size = fitting(machine.free()) if entries is None else entries
    results = []
    for row in filter(served, gpu_rows(size)):
        results.append(measure(machine, row, rounds))
        if tell is not None:
            tell(results[-1])
    bandwidth = max(8 * entries_of(r.row) / r.copy for r in results)
    return {
        "memopt_ref": __version__,
        **machine.about,
        "numpy": np.__version__,
        "entries": size,
        "copy_bytes_per_second": bandwidth,
        "bits": "every kernel above had the reference's bits on this device before it was timed",
        "rows": [result.as_record() for result in results],
    }


def line(result: Result) -> str:
    """A row for a reader."""
    target, of_torch = TARGETS[result.row.name], result.of_torch
    beside = "-" if of_torch is None else f"{of_torch:.2f} of torch's {target.peer}"
    return f"{result.row.name:<20}{result.fraction:>7.2f} of a copy   {beside:<26}{result.verdict}"


def main(arguments: list[str] | None = None, machine: Callable[[], Machine] = CuPyMachine) -> int:
    """Measure and write the file; 2 and a sentence where that cannot be."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m memopt_ref.bench.gpu", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="the file [default: gpu.json]")
    parser.add_argument("--entries", type=int, help=f"of a dense tensor [default: {ENTRIES}, or what fits]")
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args(arguments)
    try:
        backends.registry.ready("cupy", "bench.gpu")
        found = report(machine(), asked.entries, asked.rounds, lambda result: print(line(result), flush=True))
    except MemoptError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    asked.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"Written: {asked.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
