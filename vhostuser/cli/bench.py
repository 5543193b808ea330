"""`vhostuser bench`: what was typed, handed to `vhostuser.frontend.bench`; its table and its files."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vhostuser.errors import UsageError

if TYPE_CHECKING:
    from vhostuser.frontend.bench.model import Series

_FILE = click.Path(exists=False, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_LINES_UP = "\x1b[{}A\x1b[J"


def _numbers(ctx: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    """ "64,1500" as numbers."""
    words = text.split(",")
    if not all(word.isascii() and word.isdecimal() and len(word) < 10 for word in words):
        raise click.BadParameter(f"'{text}' is no list of numbers, such as 64,1500")
    return list(dict.fromkeys(map(int, words)))


def _one_of(*known: str) -> Any:
    def parse(ctx: click.Context, parameter: click.Parameter, text: str | None) -> list[str]:
        from vhostuser.options import near_match

        words = list(dict.fromkeys(text.split(","))) if text else []
        for word in words:
            if word not in known:
                hint = near_match(word, known) or f": it may be {', '.join(known)}"
                raise click.BadParameter(f"there is no '{word}'{hint}")
        return words

    return parse


@click.group("bench", invoke_without_command=True)
@click.option(
    "--socket-path",
    "--socket",
    "-s",
    "sockets",
    metavar="PATH",
    multiple=True,
    help="A back-end that listens; twice for a pair.  [default: a server of our own]",
)
@click.option(
    "--work",
    "works",
    metavar="LIST",
    callback=_one_of("sink", "source", "echo", "pair", "latency", "ndr"),
    help="sink, source, echo, pair, latency, ndr.  [default: sink,echo,latency; with -s echo]",
)
@click.option(
    "--size", "sizes", metavar="LIST", default="64,1500", show_default=True, callback=_numbers, help="Bytes."
)
@click.option(
    "--ring", "rings", metavar="LIST", default="1024", show_default=True, callback=_numbers, help="Entries."
)
@click.option("--queues", metavar="LIST", default="1", show_default=True, callback=_numbers, help="Pairs.")
@click.option(
    "--format",
    "formats",
    metavar="LIST",
    default="split",
    show_default=True,
    callback=_one_of("split", "packed"),
    help="Of the rings: split, packed.",
)
@click.option(
    "--poll",
    "polls",
    metavar="LIST",
    callback=_one_of("loop", "event", "adaptive", "busy"),
    help="How our server waits: loop, event, adaptive, busy.  [default: loop,busy]",
)
@click.option("--feature", "features", metavar="NAME", multiple=True, help="To acknowledge, too. Repeatable.")
@click.option("--disable-feature", "disabled", metavar="NAME", multiple=True, help="Do not. Repeatable.")
@click.option("--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Of our server.")
@click.option("--backend-cpus", metavar="LIST", help="CPUs of our server.  [default: the first of two]")
@click.option("--cpu", type=click.IntRange(0, 4095), help="CPU of the driver.  [default: the last]")
@click.option("--seconds", type=click.FloatRange(0.01, 3600), default=0.5, show_default=True, help="Of each.")
@click.option("--runs", type=click.IntRange(1, 1000), default=3, show_default=True, help="Round all cases.")
@click.option(
    "--loss",
    type=click.FloatRange(0, 100),
    default=0.0,
    show_default=True,
    metavar="PERCENT",
    help="What ndr lets pass.",
)
@click.option("--json", "json_file", type=_FILE, metavar="FILE", help="Keep the results for compare, report.")
@click.pass_context
def bench(ctx: click.Context, /, **typed: Any) -> None:
    """Measure a vhost-user network back-end with the built-in driver: rates, round trips, CPU time.

    \b
    vhostuser bench
    vhostuser bench --work echo,latency --poll event,adaptive,busy --format split,packed --json ours.json
    vhostuser bench -s /tmp/vm1.sock --work sink --json theirs.json
    vhostuser bench compare theirs.json ours.json
    vhostuser bench report ours.json --to report/

    Lists are combined, and measured in turns. Works: sink, frames are taken; source, they are made; echo,
    they come back; pair, they come to a second guest; latency, one at a time comes back; ndr, the greatest
    rate at which none is lost, by halving. A back-end of yours has to be doing the work: testpmd, say, needs
    its "start". It must serve nobody else meanwhile.
    """
    if ctx.invoked_subcommand is None:
        _run(**typed)


def _run(**typed: Any) -> None:
    from vhostuser.frontend.bench import model, plan, table
    from vhostuser.frontend.bench.run import Bench, Method

    json_file: Path | None = typed["json_file"]
    cases = plan.cases(
        plan.Choice(
            sockets=typed["sockets"],
            works=[model.Work(work) for work in typed["works"]],
            **{name: typed[name] for name in ("sizes", "rings", "queues", "formats", "polls")},
            features=typed["features"],
            disabled=typed["disabled"],
        )
    )
    cpus = _place(typed["cpu"], typed["backend_cpus"], bool(typed["sockets"]), typed["workers"])
    method = Method(
        sockets=typed["sockets"],
        seconds=typed["seconds"],
        runs=typed["runs"],
        loss=typed["loss"] / 100,
        workers=typed["workers"],
        cpus=cpus,
    )
    made = Bench(cases, method)
    if json_file:
        _touch(json_file)
    is_live = sys.stdout.isatty()
    lines = 0

    def show(series: Series | None) -> None:
        nonlocal is_live, lines
        text = table.table(made.series)
        is_live = is_live and _fits(text)
        if is_live:
            click.echo((_LINES_UP.format(lines) if lines else "") + text)
            lines = text.count("\n") + 1
        elif series is not None:
            value = table.short(series.values()[-1])
            click.echo(f"run {len(series.samples)}: {series.case.name}: {value} {series.case.unit}", err=True)

    try:
        show(None)
        made.run(show)
    finally:
        # What was found before something went wrong, or before Ctrl-C, is not thrown away.
        document = made.document()
        if document.series:
            if not is_live:
                click.echo(table.table(made.series))
            if json_file:
                json_file.write_bytes(model.encode(document))


def _fits(text: str) -> bool:
    """Whether the terminal shows all of it, without a line cut in two: only then it can be written over."""
    size, lines = shutil.get_terminal_size(), text.splitlines()
    return len(lines) < size.lines and max(map(len, lines), default=0) <= size.columns


def _touch(path: Path) -> None:
    """Say before everything is measured that the file cannot be written."""
    try:
        path.touch()
    except OSError as error:
        raise UsageError(f"--json {path}: {error.strerror or error}") from error


def _place(cpu: int | None, backend: str | None, is_theirs: bool, workers: int) -> set[int] | None:
    """Put this process on its CPU; the CPUs of a server of our own, None for any.

    Without a word the driver is on the last one and our server on the first, or with several workers on all
    the others; somebody else's back-end may be anywhere, so that we stay where we are.
    """
    from vhostuser.config import CpuList

    allowed = sorted(os.sched_getaffinity(0))
    if backend and is_theirs:
        raise UsageError("--backend-cpus is for a server of our own")
    try:
        chosen = set(CpuList.parse(backend)) if backend else None
    except ValueError as error:
        raise UsageError(f"--backend-cpus {backend}: {error}") from error
    for number in {*(chosen or ()), *(() if cpu is None else (cpu,))}:
        if number not in allowed:
            raise UsageError(f"CPU {number} is not among those that this process may use")
    if is_theirs or len(allowed) == 1:
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})
        return chosen
    mine = allowed[-1] if cpu is None else cpu
    os.sched_setaffinity(0, {mine})
    if chosen:
        return chosen
    others = [number for number in allowed if number != mine]
    return set(others if workers > 1 else others[:1])


@bench.command("compare")
@click.argument("before", type=_FILE)
@click.argument("after", type=_FILE)
def compare(before: Path, after: Path) -> None:
    """Two results of --json side by side: BEFORE and AFTER, case by case.

    A difference is called one only where all measurements of one side are above all of the other. The status
    is 0 whatever they say: a machine that others use differs from itself.
    """
    from vhostuser.frontend.bench import compare as logic
    from vhostuser.frontend.bench.model import load

    documents = load(before), load(after)
    differences = logic.compare(*documents)
    for name, document in zip(("before", "after"), documents, strict=True):
        click.echo(f"{name}: {document.backend}, {document.started}, {document.machine}")
    if documents[0].machine != documents[1].machine:
        click.echo("The machines differ, so these figures say nothing about the programs.")
    click.echo(logic.describe(differences))


@bench.command("report")
@click.argument("result", type=_FILE)
@click.option("--to", "folder", type=_FOLDER, default=".", show_default=True, help="Folder; made if need be.")
@click.option("--no-plots", is_flag=True, help="Only the tables; matplotlib is then not needed.")
def report(result: Path, folder: Path, no_plots: bool) -> None:
    """Write report.md, and plots as SVG and PNG beside it, from a RESULT of --json."""
    from vhostuser.frontend.bench import plots
    from vhostuser.frontend.bench import report as logic
    from vhostuser.frontend.bench.model import load

    document = load(result)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = {} if no_plots else plots.draw(document.series, folder)
        click.echo(logic.write(document, folder, pictures))
    except OSError as error:
        raise UsageError(f"--to {folder}: {error.strerror or error}") from error
