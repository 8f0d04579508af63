"""``memopt plan``: will it fit. Exact bytes of optimizer state from a model's shapes, nothing allocated."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click

from .. import planner
from ..errors import HyperparameterError, PatternError
from ..hf_shapes import shapes_from_hf_config
from ..planned import LeafPlan, Plan, RulePlan
from ..rules.base import Rule
from ..safetensors_shapes import shapes_from_safetensors
from ..shapes import Shapes, shapes_from_text
from ..sizes import format_size
from .output import SIZE, console, json_option, print_json, printable, table
from .rule_text import parse_rules

#: The rules that make sense for a whole model with their defaults; ``--rules`` asks for any other.
DEFAULT_RULES = (
    "SGD, SGD(momentum=0.9), AdaGradNorm, RowWiseAdaGrad, SM3, SM3(momentum=0.9), Adafactor, "
    "Adafactor(beta1=0.9), LowRankAdam, CountSketchAdaGrad, CountSketchAdam, MicroAdam, AdaGrad, RMSProp, "
    "FTRLProximal, Adam, AMSGrad, Shampoo, GGT"
)

FILE = click.Path(path_type=Path)


@click.command()
@click.option("--shapes", "text", metavar="TEXT", help='Such as "emb=50257x768,b=768:bfloat16".')
@click.option(
    "--safetensors", type=FILE, metavar="FILE", help="*.safetensors or *.safetensors.index.json; header only."
)
@click.option("--hf-config", type=FILE, metavar="FILE", help="A transformers config.json.")
@click.option("--architecture", metavar="NAME", help="With --hf-config: such as BertForPreTraining.")
@click.option("--rules", default=DEFAULT_RULES, metavar="RULES", help='Such as "Adam, SM3(momentum=0.9)".')
@click.option(
    "--group", "groups", multiple=True, metavar="GLOB=RULE", help="Another rule for the tensors that match."
)
@click.option("--dtype", metavar="NAME", help="Of the parameters and gradients, whatever the file says.")
@click.option(
    "--exclude", multiple=True, metavar="GLOB", help="Leave these tensors out (frozen, or no parameters)."
)
@click.option(
    "--budget", type=SIZE, metavar="SIZE", help="Such as 24GiB; compared with parameters + gradients + state."
)
@click.option("--per-leaf", is_flag=True, help="Bytes of every tensor too.")
@json_option
@click.pass_context
def plan(
    ctx: click.Context,
    text: str | None,
    safetensors: Path | None,
    hf_config: Path | None,
    architecture: str | None,
    rules: str,
    groups: tuple[str, ...],
    dtype: str | None,
    exclude: tuple[str, ...],
    budget: int | None,
    per_leaf: bool,
    as_json: bool,
) -> None:
    """Exact bytes of optimizer state for a model, before anything is allocated, and what fits.

    Name the model by exactly one of --shapes, --safetensors and --hf-config. State is what each optimizer
    keeps between steps: accumulators, and counters (step counts and seeds) apart. The total adds the
    parameters and one gradient for each; activations and temporaries are not counted.

    Exit code 1 if a budget is given and nothing fits it.
    """
    shapes = _shapes(text, safetensors, hf_config, architecture, dtype)
    for pattern in exclude:
        kept = {path: leaf for path, leaf in shapes.items() if not fnmatchcase(path, pattern)}
        if len(kept) == len(shapes):
            raise PatternError(
                "--exclude", repr(pattern), "a glob that matches a tensor", "Check the spelling."
            )
        shapes = kept
    made = planner.plan(shapes, parse_rules(rules), groups=[_group(text) for text in groups])
    fitting = None if budget is None else made.fits(budget)
    if as_json:
        verdict = {} if budget is None else {"budget_nbytes": budget, "fits": fitting}
        print_json(made.to_dict(per_leaf=per_leaf) | verdict)
    else:
        _show(made, budget, fitting, per_leaf)
    ctx.exit(0 if fitting is None or fitting else 1)


def _group(text: str) -> tuple[str, Rule]:
    pattern, found, rule = text.partition("=")
    parsed = list(parse_rules(rule, "--group").values()) if found else []
    if not pattern or len(parsed) != 1:
        wanted = "GLOB=RULE with one rule"
        raise HyperparameterError(
            "--group", repr(text), wanted, 'Write --group "*embedding*=SM3", for example.'
        )
    return pattern, parsed[0]


def _shapes(
    text: str | None,
    safetensors: Path | None,
    hf_config: Path | None,
    architecture: str | None,
    dtype: str | None,
) -> Shapes:
    given = [value for value in (text, safetensors, hf_config) if value is not None]
    if len(given) != 1:
        wanted = "exactly one of --shapes, --safetensors and --hf-config"
        raise HyperparameterError("plan", f"{len(given)} models", wanted, "See memopt plan --help.")
    if architecture is not None and hf_config is None:
        raise HyperparameterError(
            "--architecture", repr(architecture), "--hf-config with it", "Leave it out."
        )
    if text is not None:
        return shapes_from_text(text, dtype or "float32")
    if safetensors is not None:
        return shapes_from_safetensors(safetensors, dtype)
    assert hf_config is not None
    return shapes_from_hf_config(hf_config, dtype, architecture)


def _show(made: Plan, budget: int | None, fitting: list[str] | None, per_leaf: bool) -> None:
    out = console()
    dtypes = ", ".join(sorted({str(leaf.dtype) for leaf in made.shapes.values()}))
    out.print(f"{made.headline()} ({dtypes})\n", markup=False)
    columns = [
        "rule",
        ">accumulators",
        ">",
        ">counters",
        ">bytes/parameter",
        ">parameters + gradients + state",
    ]
    columns += [] if budget is None else [f"fits {format_size(budget)}"]
    ordered = sorted(made.rules, key=lambda r: (bool(r.refused), r.state_nbytes))
    out.print(table(columns, [_row(made, r, fitting) for r in ordered]))
    for rule in ordered:
        if rule.refused:
            more = f" (and {len(rule.refused) - 1} more)" if len(rule.refused) > 1 else ""
            out.print(printable(f"{rule.name} cannot serve {rule.refused[0].error()}{more}"), markup=False)
    if per_leaf:
        for rule in ordered:
            out.print()
            out.print(
                table(
                    [rule.name, "shape", "dtype", ">accumulators", ">counters"], map(_leaf_row, rule.leaves)
                )
            )


def _row(made: Plan, rule: RulePlan, fitting: list[str] | None) -> list[Any]:
    known = not rule.refused
    row = [
        rule.name,
        f"{rule.accumulator_nbytes:,}" if known else "-",
        format_size(rule.accumulator_nbytes) if known else "",
        f"{rule.counter_nbytes:,}" if known else "-",
        f"{rule.state_nbytes / max(made.parameter_count, 1):.4g}" if known else "-",
        format_size(made.total_nbytes(rule.name)) if known else "-",
    ]
    return row if fitting is None else [*row, "yes" if rule.name in fitting else "no"]


def _leaf_row(leaf: LeafPlan) -> list[Any]:
    shape = "x".join(map(str, leaf.shape)) or "()"
    if leaf.refusal is not None:
        return [leaf.path, shape, leaf.dtype, "refused", ""]
    return [leaf.path, shape, leaf.dtype, f"{leaf.accumulator_nbytes:,}", f"{leaf.counter_nbytes:,}"]
