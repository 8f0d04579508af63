"""Sizes in bytes as people write them: ``"24GiB"``, ``"80 GB"``, ``"512"``."""

from __future__ import annotations

import re
from decimal import Decimal

from .errors import HyperparameterError

_PREFIXES = "kmgtp"
_SIZE = re.compile(r"\s*(\d[\d_]*(?:\.\d+)?)\s*(?:([kmgtp])(i)?)?(b)?\s*", re.IGNORECASE)


def parse_size(text: int | str, where: str = "size") -> int:
    """Bytes of a size: ``GiB`` is 2^30, ``GB`` is 10^9, a bare number is bytes.

    A prefix without its ``B`` (``24G``) is refused, since half of its readers mean the other thing.

    Parameters
    ----------
    text : str or int
        A non-negative number, alone or with a unit from kB to PB or from KiB to PiB.
    where : str
        What the error message names.

    Returns
    -------
    int
        Whole bytes, rounded down.

    Raises
    ------
    HyperparameterError
        Not a size.

    Examples
    --------
    >>> parse_size("24GiB"), parse_size("1.5 kB"), parse_size(512)
    (25769803776, 1500, 512)
    """
    found = _SIZE.fullmatch(str(text)) if not isinstance(text, bool) else None
    if found is None or (found[2] and not found[4]):
        advice = "Write the unit out: GiB is 2^30 bytes, GB is 10^9."
        raise HyperparameterError(where, repr(text), "a size such as 24GiB, 80GB or 512", advice)
    base = 1024 if found[3] else 1000
    power = _PREFIXES.index(found[2].lower()) + 1 if found[2] else 0
    return int(Decimal(found[1].replace("_", "")) * base**power)


def format_size(nbytes: int) -> str:
    """A size with a binary unit and four digits at most; exact below 1 KiB.

    Examples
    --------
    >>> format_size(1000), format_size(995518464), format_size(25769803776)
    ('1000 B', '949.4 MiB', '24.00 GiB')
    """
    size, unit = Decimal(nbytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 1024 or unit == "PiB":
            break
        size /= 1024
    if unit == "B":
        return f"{nbytes} B"
    return f"{size:.{2 if size < 99.995 else 1 if size < 999.95 else 0}f} {unit}"
