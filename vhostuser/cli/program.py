"""What every program of ours has: its exit status, `--print-capabilities`, commands that load when called.

Not here: any command. The exit status is decided in `run_to_status` and nowhere else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from vhostuser.errors import VhostUserError
from vhostuser.options import near_match

CAPABILITIES = '{"type": "net"}'
"""What management software wants to read of a net back-end; the schema has no further keys."""

INTERRUPTED = 130
OUR_BUG = 5


def run_to_status(program: str, run: Callable[[], object]) -> int:
    """Runs a command; the process's exit status: 0 fine, 2 usage, 3 environment, 4 peer, 5 our bug."""
    try:
        status = run()
    except VhostUserError as error:
        click.echo(f"{program}: {error}", err=True)
        return error.exit_status
    except click.ClickException as error:
        error.show()
        return 2
    except click.Abort:
        return INTERRUPTED
    except Exception:
        import traceback

        click.echo(
            f"{traceback.format_exc()}{program}: the lines above are a bug of ours: please report them",
            err=True,
        )
        return OUR_BUG
    return status if isinstance(status, int) else 0


class Program(click.Command):
    """A command that can be a program of its own."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.params.append(
            click.Option(
                ["--print-capabilities"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                help=f"Print {CAPABILITIES} and end, whatever else is given.",
            )
        )

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        # Before anything is parsed: it has to be answered also beside options that are wrong or not ours.
        if "--print-capabilities" in words:
            click.echo(CAPABILITIES)
            sys.exit(0)
        program = prog_name or os.path.basename(sys.argv[0])
        run = super().main
        sys.exit(
            run_to_status(program, lambda: run(words, program, complete_var, standalone_mode=False, **extra))
        )


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command that is imported when it is called: `help` is all that the list of commands needs."""

    module: str
    name: str
    help: str

    def load(self) -> click.Command:
        import importlib

        command: click.Command = getattr(importlib.import_module(self.module), self.name)
        return command


class LazyGroup(Program, click.Group):
    """A program whose commands load when called."""

    def __init__(self, *arguments: Any, lazy: Mapping[str, Lazy], **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = self._lazy.get(cmd_name)
        return command.load() if command else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if word not in self._lazy and not word.startswith("-") and not ctx.resilient_parsing:
            hint = near_match(word, self._lazy) or f": it may be {', '.join(self._lazy)}"
            ctx.fail(f"there is no command '{word}'{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in self._lazy.items()])
