"""The application: its commands, and what becomes of errors: one message that names the option, and exit code 2."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

import equiv
from equiv.cli import INTERRUPTED, OK, TERMINATED, code_of_stop, fail, stopped
from equiv.cli.commands import COMMANDS
from equiv.errors import EquivError
from equiv.text import quoted

app = typer.Typer(
    name="equiv",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# typer may bring its own click: the base of its errors is found through the one that it exports.
_USAGE_ERRORS: tuple[type[Any], ...] = tuple(
    kind for kind in typer.BadParameter.__mro__ if kind.__module__.startswith(("click", "typer"))
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"equiv {equiv.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _equiv(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Is this convolution the same function as that fully connected layer? A verdict with evidence."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def run(arguments: list[str]) -> int:
    """Run one command; the exit code."""
    name = next((word for word in arguments[:1] if not word.startswith("-")), "")
    prog = f"equiv {name}" if name in COMMANDS else "equiv"
    try:
        code = app(arguments, prog_name="equiv", standalone_mode=False)
    except EquivError as error:
        return fail(f"{prog}: {error}")
    except _USAGE_ERRORS as error:
        return fail(f"{prog}: {quoted(error.format_message()).rstrip('.')}; see `{prog} --help`")
    except (typer.Abort, KeyboardInterrupt):
        return stopped(code_of_stop())
    except MemoryError:
        return fail(f"{prog}: expected enough memory, got none; ask for less at a time")
    except OSError:
        raise
    except Exception as error:
        return fail(f"{prog}: expected to come to an end, got {_place_of(error)}; please report this")
    if code in (INTERRUPTED, TERMINATED):
        return stopped(code_of_stop())
    return code if isinstance(code, int) else OK


def _place_of(error: Exception) -> str:
    """An error of no kind that is expected, and where it was raised in one line."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}: {quoted(error, 200)}"
