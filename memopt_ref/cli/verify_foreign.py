"""``memopt verify foreign``: another library's optimizer as a black box on a box."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import click
from rich.progress import Progress

from ..errors import HyperparameterError
from ..theory import bounds as theorems
from ..theory.foreign import GAMES, Foreign, Hearing, hearings
from ..theory.verify import VIOLATED
from .output import console, json_option, print_json, table

#: How many bounds a game is shown with; --json has all.
SHOWN = 3


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("factory")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[--NAME VALUE]...")
@click.option(
    "-T", "rounds", type=click.IntRange(2, 100_000), default=500, show_default=True, help="Of each game."
)
@click.option("--claims", metavar="ID", help="A bound it claims: exit code 1 if a game violates it.")
@json_option
@click.pass_context
def foreign(
    ctx: click.Context,
    factory: str,
    options: tuple[str, ...],
    rounds: int,
    claims: str | None,
    as_json: bool,
) -> None:
    """Play another library's optimizer as a black box on a box, clipped after each step.

    FACTORY is a dotted name: torch.optim.Adam, optax.adam, or any importable class that takes a list of
    parameters (data, grad) and has step(), or function that returns init and update. Its arguments follow as
    options: --lr 0.1 --betas 0.0,0.1 --amsgrad True.

    Only the two ends of a bound can be seen: the regret, and the value from the gradients. The bounds shown
    are those whose conditions the game meets; whether the optimizer is of their class is not known here, and
    a ratio above 1 says that it is not, or that its rate is another. All games get the one rate given.
    """
    if claims is not None:
        theorems.get(claims)
    player = Foreign(factory, arguments(options))
    found = []
    with Progress(console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("playing", total=len(GAMES))
        for heard in hearings(player, rounds, lambda name: progress.update(task, description=name)):
            found.append(heard)
            progress.advance(task)
    tried = [r for heard in found for r in heard.records if r.bound == claims]
    if claims is not None and not tried:
        wanted = "a bound that speaks of one of the games"
        raise HyperparameterError("--claims", repr(claims), wanted, "See memopt verify foreign without it.")
    broken = [r for r in tried if r.verdict == VIOLATED]
    if as_json:
        print_json({"player": player.name, "T": rounds, "games": [_plain(heard) for heard in found]})
    else:
        _show(player, rounds, found, claims)
        for record in broken:
            text = (
                f"{record.bound} is violated on {record.game}: {record.measured[0]:.4g} > {record.value:.4g}"
            )
            console().print(text, markup=False, soft_wrap=True)
    ctx.exit(1 if broken else 0)


def arguments(options: Sequence[str]) -> dict[str, Any]:
    """``--lr 0.1 --betas 0.9,0.99 --nesterov`` as keyword arguments; a name without a value is True.

    Examples
    --------
    >>> arguments(["--lr", "0.1", "--betas", "0.0,0.1", "--weight-decay=-1", "--amsgrad"])
    {'lr': 0.1, 'betas': (0.0, 0.1), 'weight_decay': -1, 'amsgrad': True}
    """
    found: dict[str, Any] = {}
    name = ""
    for word in options:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            name = name.replace("-", "_")
            if not name.isidentifier():
                raise HyperparameterError("foreign", repr(word), "--NAME VALUE", "Options are its arguments.")
            found[name] = _value(value) if value else True
        elif name and found[name] is True:
            found[name] = _value(word)
        else:
            raise HyperparameterError("foreign", repr(word), "--NAME VALUE", "Options are its arguments.")
    return found


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _show(player: Foreign, rounds: int, found: Sequence[Hearing], claims: str | None) -> None:
    rows = []
    for heard in found:
        shown = [r for r in heard.records if r.bound == claims] if claims else heard.records[:SHOWN]
        first = [heard.game.name, f"{heard.regret:.4g}", f"{heard.regret / rounds:.4f}"]
        for record in shown:
            rows.append([*first, record.bound, f"{record.value:.4g}", f"{record.ratio:.3f}", record.verdict])
            first = ["", "", ""]
        if not shown:
            rows.append([*first, "none speaks of it", "", "", ""])
    out = console()
    out.print(f"{player.name}, {rounds} rounds a game, clipped to the box", markup=False, soft_wrap=True)
    out.print(table(["game", ">regret", ">a round", "bound", ">value", ">ratio", "verdict"], rows))
    hidden = sum(max(0, len(heard.records) - SHOWN) for heard in found)
    if not claims and hidden:
        text = f"The {SHOWN} largest ratios a game; {hidden} smaller ones with --json."
        out.print(
            f"\n{text} A black box has no rate of a bound's own: only R <= C is looked at.", markup=False
        )


def _plain(heard: Hearing) -> dict[str, Any]:
    trace = heard.trace
    assert trace.x is not None
    return {
        "game": heard.game.name,
        "regret": heard.regret,
        "average_regret": heard.regret / trace.T,
        "end": trace.x_end,
        "bounds": [
            {"bound": r.bound, "value": r.value, "ratio": r.ratio, "verdict": r.verdict}
            for r in heard.records
        ],
    }
