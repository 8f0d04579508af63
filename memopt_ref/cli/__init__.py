"""The command line: ``memopt COMMAND``. A command's module is imported when that command runs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from .. import __version__
from ..errors import MemoptError

#: Name of a command (and of its module and of the click command in it) and its line in ``--help``.
COMMANDS = {
    "compare": "Train one language model on real text with every optimizer: quality against bytes.",
    "plan": "Exact bytes of optimizer state for a model, without allocating it, and what fits.",
    "checkpoint": "What a saved optimizer holds, and whether every byte of it is whole.",
    "verify": "Regret bounds held against the rules: verdicts, broken links, worst loss sequences.",
    "bench": "Time the kernels against the memory's limit and other libraries.",
    "backends": "Which kernels can run here, which rule has one, and where they are kept.",
    "tune": "Measure which kernel is the fastest for the shapes of a model, and keep it.",
    "dashboard": "The benchmark history as one page that works from disk.",
    "dialects": "Conventions of other libraries' optimizers side by side, with their differences.",
}


class Failure(click.ClickException):
    """An error made by the input: one line on stderr, no traceback, exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Print ``error: ...``."""
        from .output import printable

        click.echo(f"error: {printable(self.format_message())}", err=True, file=file)


class LazyGroup(click.Group):
    """A group whose commands are loaded on demand from the fixed table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the one command that was asked for."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f".{cmd_name}", __name__), cmd_name)
        assert isinstance(command, click.Command), cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; the library's own errors become one line."""
        try:
            return super().invoke(ctx)
        except MemoptError as error:
            raise Failure(str(error)) from error


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="memopt")
def main() -> None:
    """Memory-efficient optimizers: compare them, plan their memory, translate other libraries' calls.

    Exit codes: 0 what was checked holds; 1 it does not; 2 the input is wrong. NO_COLOR is respected.
    """
