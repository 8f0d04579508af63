"""What machine code costs, from the compiler's log and the code itself: registers, spills, instructions."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from .nvrtc import Compiled

_USED = re.compile(r"Used (\d+) registers")
_SPILLED = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_SHARED = re.compile(r"(\d+) bytes smem")
_COSTS = re.compile(r"ptxas info\s*:.*|(ptxas\s+\.)?\s*\d+ bytes stack frame, .*|")


class Cost(NamedTuple):
    """Of one kernel: registers a thread, bytes of stack, of spills and of static shared memory, of code."""

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int
    code: int


def cost(compiled: Compiled, name: str) -> Cost:
    """The cost of a kernel that was compiled alone.

    Examples
    --------
    >>> log = '''ptxas info    : Compiling entry function 'f' for 'sm_90'
    ... ptxas info    : Function properties for f
    ...     8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
    ... ptxas info    : Used 32 registers, used 0 barriers, 8 bytes stack
    ... '''
    >>> cost(Compiled(b"", log), "f")[:4]
    (32, 8, 4, 4)
    """
    used, spilled = _USED.findall(compiled.log), _SPILLED.search(compiled.log)
    assert len(used) == 1, compiled.log
    assert spilled is not None, compiled.log
    shared = _SHARED.search(compiled.log)
    stack, stores, loads = (int(n) for n in spilled.groups())
    code = sections(compiled.cubin).get(f".text.{name}", 0)
    return Cost(int(used[0]), stack, stores, loads, int(shared[1]) if shared else 0, code)


def complaints(log: str) -> str:
    r"""What a log says besides costs: warnings.

    Examples
    --------
    >>> complaints("adam.cu(3): warning: variable is never used\nptxas info    : 0 bytes gmem")
    'adam.cu(3): warning: variable is never used'
    """
    return "\n".join(line for line in log.splitlines() if not _COSTS.fullmatch(line))


def sections(cubin: bytes) -> dict[str, int]:
    """The sections of an ELF file of 64 bits, each with its size in bytes."""
    if not cubin:
        return {}
    assert cubin[:5] == b"\x7fELF\x02", cubin[:5]
    (start,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", cubin, start + k * size) for k in range(count)]
    base = headers[names][4]
    return {cubin[base + h[0] : cubin.index(b"\0", base + h[0])].decode(): h[5] for h in headers}
