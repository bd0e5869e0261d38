"""tbench power: how many requests and runs a comparison takes, from a pilot."""

from typing import Annotated

import typer

from tbench.capture.option import Option
from tbench.commands.output import Json, held_to
from tbench.flags import verb
from tbench.settings import announce


@verb
def power(
    pilot: Annotated[
        list[str],
        Option(
            help="Run or trace; better a folder or quoted glob of repeated runs of one arm; or several.",
            argument=True,
        ),
    ],
    effect: Annotated[str, Option(help="Slowdown that must not be missed.", unit="SHARE")] = "5%",
    metric: Annotated[
        list[str] | None,
        Option(
            help="Plan for this quantile (ttft:p95). Repeatable.",
            unit="METRIC:Q",
            default="ttft and e2e at p50 and p95",
        ),
    ] = None,
    margin: Annotated[
        str,
        Option(
            help="Margin that equal arms must pass (compare --margin).",
            unit="SHARE",
            read=held_to("tbench.analysis.gate", "parse_margin"),
            late=True,
            of_target=True,
        ),
    ] = "5%",
    power: Annotated[
        float, Option(help="How often the plan must succeed, between 0.5 and 0.99.", unit="SHARE")
    ] = 0.8,
    as_json: Json = False,
) -> int:
    """Plan how many requests and how many runs it takes to find an effect or to pass a margin.

    One pair of runs: requests, from the width of the pilot's interval. Repeated runs: how many of each arm
    pass all gates together, from how much the pilot's runs differ, at the upper 80 % limit of their sd
    (for a pilot of one run 3 % is assumed). A warning names a plan that will often not decide. Exit
    code 4 where a pilot run is INVALID.
    """
    from tbench.analysis.planning import PowerGoal, load_pilot, parse_asked, parse_share, plan
    from tbench.analysis.report.machine import dump
    from tbench.analysis.report.planning import plan_json, plan_text
    from tbench.capture.errors import InputError

    announce()
    if not 0.5 <= power <= 0.99:
        raise InputError(f"--power {power:g}: give a share between 0.5 and 0.99, such as 0.8")
    aim = PowerGoal(
        effect=parse_share("--effect", effect),
        margin=parse_share("--margin", margin),
        power=power,
        asked=tuple(parse_asked(text) for text in metric or ()),
    )
    result = plan(load_pilot(pilot), aim)
    typer.echo(dump(plan_json(result)) if as_json else "\n".join(plan_text(result)))
    return 4 if any(caution.code == "INVALID_RUN" for caution in result.warnings) else 0
