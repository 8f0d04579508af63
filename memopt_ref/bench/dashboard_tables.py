"""The tables of the dashboard, and the names under which asv keeps what they show."""

from __future__ import annotations

from collections.abc import Sequence

from ..page import Sheet
from .history import Commit, History
from .tracks import RULES

LIMIT = "ratios.AgainstLimit.track_ratio"
NUMPY = "ratios.AgainstNumpy.track_ratio"
BACKENDS = "ratios.Backends.track_ratio"
PEERS = "ratios.AgainstPeers.track_ratio"
STATE = "values.State.track_state_bytes_per_parameter"
MOVED = "values.State.track_least_bytes_moved"
BORROWED = "values.Borrowed.track_borrowed_bytes"
TIGHT = "values.Tightness.track_tightness"
REGRET = "values.Regret.track_regret"
TIME = "times.Step.time_step"
REGISTERS = "values.Cuda.track_registers"
SPILLED = "values.Cuda.track_spilled_bytes"
CODE = "values.Cuda.track_code_bytes"
SIZES = (2**12, 2**16, 2**20)
LARGE = SIZES[-1]
#: Bytes an entry of the limit, ``w -= lr * g``.
LIMIT_BYTES = 12

#: Benchmarks that are shown as they are: title, name, what the figure is a multiple of or its unit.
OTHERS = (
    ("Two hundred small tensors", "ratios.SmallTensors.track_ratio", "x one tensor of all"),
    ("A table with 1 % active rows", "ratios.Rows.track_ratio", "x the reference"),
    ("CountSketchAdam, 2 % active rows", "ratios.RowsAgainstPeers.track_ratio", "x torch's SparseAdam"),
    ("Layouts", "ratios.Layouts.track_ratio", "x row by row"),
    ("First step of a process, kernels cached", "times.StartUp.track_first_step_from_the_cache", "s"),
    ("First step of a process, kernels cached", "times.FirstStep.track_first_step_from_the_cache", "s"),
    ("Smallest step", "times.StartUp.track_dispatch", "s"),
    ("import memopt_ref", "times.StartUp.timeraw_import", "s"),
    ("import memopt_ref and its Numba kernels", "times.StartUp.timeraw_import_of_kernels", "s"),
    ("The tuner's look-up, in the process", "times.LookUp.track_in_the_process", "s"),
    ("The tuner's look-up, on the disk", "times.LookUp.track_on_the_disk", "s"),
)


def now(history: History) -> Sheet:
    """A line a rule: the newest figure of each kind, whichever commit it is of."""
    rows = []
    for name in RULES:
        if not history.series(STATE, name):
            continue
        limit = history.series(LIMIT, name)
        figures = (_last(history, benchmark, name) for benchmark in (STATE, MOVED, BORROWED))
        share = bandwidth(history, name)
        rows.append(
            (
                name,
                *map(shown, figures, (4, 1, 2)),
                shown(limit[-1][1] if limit else None, 2),
                percent(share[-1][1] if share else None),
                shown(_last(history, NUMPY, name, LARGE), 3),
                shown(_last(history, REGRET, name), 3),
                change(limit),
            )
        )
    columns = (
        *("rule", ">state B/entry", ">least moved B/entry", ">borrowed B/entry", ">x limit"),
        *(">share of its bandwidth", ">x NumPy", ">regret / bound", ">x limit, since the first commit"),
    )
    note = (
        "State and moved: of a 512 x 128 float32 tensor. Borrowed: the peak of what a step allocates, 2^20 "
        "entries. FullMatrixAdaGrad: 8 x 8; Shampoo and GGT borrow for 2^16. The share counts the bytes that "
        "have to be moved at least, so a rule that reads twice has less of it. Regret: the largest of the "
        "suite of games."
    )
    return Sheet("Now", columns, tuple(rows), note)


def bandwidth(history: History, name: str) -> tuple[tuple[float, float], ...]:
    """The share of the limit's bandwidth that a rule has, by commit."""
    moved = dict(history.series(MOVED, name))
    limit = history.series(LIMIT, name)
    return tuple((k, 100 * moved[k] / LIMIT_BYTES / ratio) for k, ratio in limit if k in moved)


def of_rule(history: History, name: str) -> Sheet:
    """A line a commit, the newest first."""
    share = dict(bandwidth(history, name))
    columns = (
        *("commit", ">state B/entry", ">borrowed B/entry", ">x limit", ">bandwidth"),
        *(">x NumPy, 2^12 entries", ">2^16", ">2^20", ">regret / bound"),
    )
    rows = tuple(
        (
            _name(number, commit),
            shown(commit.value(STATE, name), 4),
            shown(commit.value(BORROWED, name), 2),
            shown(commit.value(LIMIT, name), 2),
            percent(share.get(float(number))),
            *(shown(commit.value(NUMPY, name, entries), 3) for entries in SIZES),
            shown(commit.value(REGRET, name), 3),
        )
        for number, commit in _newest_first(history)
    )
    return Sheet("", columns, rows)


def peers(history: History) -> Sheet:
    """A line a rule: its step as a multiple of other libraries'."""
    libraries = list(dict.fromkeys(parameters[0] for parameters in history.parameters(PEERS)))
    rows = tuple(
        (name, *(shown(_last(history, PEERS, library, name), 2) for library in libraries))
        for name in RULES
        if any(_last(history, PEERS, library, name) is not None for library in libraries)
    )
    note = "2^22 float32 entries; where a library has no such optimizer there is nothing."
    return Sheet("Against other libraries", ("rule", *(f">x {name}" for name in libraries)), rows, note)


def kernels(history: History, backend: str) -> Sheet:
    """A line a rule: the kernels of a named backend as a multiple of the reference, by size."""
    rows = tuple(
        (name, *(shown(value, 3) for value in values), *(_seconds(t) for t in times))
        for name in RULES
        if any(values := [_last(history, BACKENDS, backend, name, n) for n in SIZES])
        for times in [[_last(history, TIME, backend, name, n) for n in SIZES]]
    )
    columns = ("rule", ">x NumPy, 2^12 entries", ">2^16", ">2^20", ">step of 2^12", ">2^16", ">2^20")
    note = "The kernels themselves, also where they are not chosen because a tensor is small."
    return Sheet("", columns, rows, note)


def cuda(history: History) -> Sheet:
    """A line a CUDA kernel: what it costs, and how that has changed."""
    rows = []
    for (name,) in sorted(history.parameters(REGISTERS)):
        registers, code = history.series(REGISTERS, name), history.series(CODE, name)
        spilled = _last(history, SPILLED, name)
        rows.append(
            (
                name,
                f"{registers[-1][1]:.0f}",
                "" if spilled is None else f"{spilled:.0f}",
                f"{code[-1][1]:,.0f}" if code else "",
                change(registers),
                change(code),
            )
        )
    columns = ("kernel", ">registers", ">spilled B", ">code B", ">change of registers", ">change of code")
    note = (
        "In float32, the most of three devices (sm_80, sm_90, sm_100), from the table that is committed with "
        "the kernels and held against NVRTC."
    )
    return Sheet("", columns, tuple(rows), note)


def others(history: History) -> Sheet:
    """What is neither a rule's nor a kernel's own."""
    rows = []
    for title, benchmark, unit in OTHERS:
        for parameters in history.parameters(benchmark):
            points = history.series(benchmark, *parameters)
            what = f"{title}: {', '.join(parameters)}" if parameters else title
            value = _seconds(points[-1][1]) if unit == "s" else f"{points[-1][1]:.3g} {unit}"
            rows.append((what, value, change(points)))
    return Sheet("Beside the plain tensor", ("what", ">newest", ">since the first commit"), tuple(rows))


def commits(history: History) -> Sheet:
    """A line a commit, the newest first."""
    rows = tuple(
        (_name(number, c), f"{c.date:%Y-%m-%d %H:%M}", str(len(c.values)), c.environment)
        for number, c in _newest_first(history)
    )
    return Sheet("Commits", ("commit", "date (UTC)", ">figures", "environment"), rows)


def shown(value: float | None, digits: int) -> str:
    """A number, or nothing."""
    return "" if value is None else "0" if value == 0 else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A whole number of percent, or nothing."""
    return "" if value is None else f"{value:.0f} %"


def change(points: Sequence[tuple[float, float]]) -> str:
    """From the first point to the last, in percent."""
    if len(points) < 2 or not points[0][1]:
        return ""
    return f"{100 * (points[-1][1] / points[0][1] - 1):+.0f} %"


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    unit, factor = ("s", 1.0) if value >= 1 else ("ms", 1e3) if value >= 1e-3 else ("µs", 1e6)
    return f"{value * factor:.3g} {unit}"


def _last(history: History, benchmark: str, *parameters: object) -> float | None:
    points = history.series(benchmark, *parameters)
    return points[-1][1] if points else None


def _newest_first(history: History) -> list[tuple[int, Commit]]:
    return [*enumerate(history.commits, 1)][::-1]


def _name(number: int, commit: Commit) -> str:
    return f"{number}: {commit.hash[:8]}"
