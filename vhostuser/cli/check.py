"""`vhostuser check`: what was typed, handed to `vhostuser.frontend.check`; its status and its output."""

from __future__ import annotations

import json
import shutil
import sys

import click

from vhostuser.errors import PeerError, UsageError

_PEER_FAILED = PeerError.exit_status


@click.command("check")
@click.option("--socket-path", "--socket", "-s", "path", metavar="PATH", help="Where the back-end listens.")
@click.option(
    "--expect",
    "expected",
    type=click.Choice(["none", "echo"]),
    help="What comes back of the frames that are sent.  [default: found out with one]",
)
@click.option("--only", metavar="GROUP_OR_NAME", multiple=True, help="Run only these checks. Repeatable.")
@click.option("--list", "listed", is_flag=True, help="List the checks and where their rules stand.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object when all is done.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.5, 3600),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a check may take; a single reply or frame may take a fifth of it.",
)
@click.option(
    "--restart-within",
    type=click.FloatRange(0, 3600),
    default=0.0,
    metavar="SECONDS",
    help="Go on with a back-end that ended, if somebody starts it again within so long.",
)
def check(
    path: str | None,
    expected: str | None,
    only: tuple[str, ...],
    listed: bool,
    as_json: bool,
    timeout: float,
    restart_within: float,
) -> None:
    """Play every front-end, good and bad, to the vhost-user network back-end that listens at PATH.

    Any back-end: this one, DPDK's, your own. It must serve nobody else meanwhile, and be doing whatever it
    does with frames: testpmd, say, needs its "start". Some checks send what no front-end should, so do not
    point it at a back-end that others depend on.

    \b
    vhostuser check --socket-path /run/vm1.sock
    vhostuser check -s /run/vm1.sock --only ring-states --only reply-header
    vhostuser check --list

    Exit status: 0 every must passed, 4 one did not or the back-end ended, 3 nothing to connect to.
    """
    from vhostuser.frontend.check import catalogue, report
    from vhostuser.frontend.check.model import Result
    from vhostuser.frontend.check.runner import Expect, Runner, survey

    chosen = catalogue.select(only)
    width = shutil.get_terminal_size((110, 0)).columns
    names = {group.name: f"{group.name}: {group.about}" for group in catalogue.GROUPS}
    shown = ""

    def head_group(name: str) -> None:
        nonlocal shown
        if name != shown:
            click.echo(f"\n{names[name]}")
            shown = name

    if listed:
        for one in chosen:
            head_group(one.group)
            click.echo("\n".join(report.list_check(one, width)))
        return
    if path is None:
        raise UsageError("--socket-path is missing: where does the back-end listen?")
    runner = Expect(expected) if expected else Expect.FIND_OUT
    offer = survey(path, runner, timeout / 5)
    if not as_json:
        click.echo(f"{len(chosen)} checks of the back-end at {path}, process {offer.pid}")
        click.echo("\n".join(report.describe_offer(offer, width)))
    results: list[Result] = []
    for result in Runner(path, offer, timeout=timeout, restart_within=restart_within).run(chosen):
        results.append(result)
        if not as_json:
            head_group(result.check.group)
            click.echo("\n".join(report.describe(result, width)))
    if as_json:
        click.echo(json.dumps(report.as_json(path, offer, results), indent=2))
    else:
        click.echo(f"\n{report.summarize(results)}")
    sys.exit(_PEER_FAILED if any(result.is_counted_against for result in results) else 0)
