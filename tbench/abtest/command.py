"""tbench ab: one trace to several arms, several times each and in turns; then a verdict."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from tbench.abtest.options import PLAN, AbOptions
from tbench.capture.option import Option
from tbench.commands.output import OUTPUT, Charts, Json, Shared, Xlsx
from tbench.flags import Given, verb


@verb
def ab(
    given: Annotated[Mapping[str, Any], Given(AbOptions)],
    *,
    plan: Annotated[
        Path | None,
        Option(
            help="Take the plan from this TOML file (keys as the options, [[arm]] tables); options given "
            "here go before it.",
            unit="FILE",
            group=PLAN,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        Option(
            help="Folder for runs and reports. One that holds this experiment already is gone on with; "
            "then it is enough to name it.",
            unit="DIR",
            short="-o",
            group=OUTPUT,
            default="TRACE.TIME.ab",
        ),
    ] = None,
    dry_run: Annotated[
        bool, Option(help="Send nothing; print what the whole plan would send.", group=OUTPUT)
    ] = False,
    charts: Charts = None,
    xlsx: Xlsx = None,
    as_json: Json = False,
) -> int:
    """Replay one trace to two arms or more, several times each and in turns; say which is worse, how surely.

    Every run of every arm sends the same requests by the same pacing. The run is the unit: 0 is PASS,
    1 FAIL, 3 INCONCLUSIVE, 4 INVALID, 130 interrupted. The same command again goes on where it stopped.
    """
    from tbench.abtest.conducting import conducted, foretold, words_of

    experiment = words_of(given, plan, out)
    if dry_run:
        return foretold(experiment, out, as_json=as_json)
    return conducted(experiment, out, Shared(html=None, charts=charts, xlsx=xlsx), as_json=as_json)
