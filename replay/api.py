"""`tbench.replay(...)`: the typed way in for programs, as `tbench.analysis.api` is for comparisons."""

from collections.abc import Callable
from inspect import Signature, signature
from typing import get_type_hints

from tbench.replay.job import resolve
from tbench.replay.options import ReplayOptions
from tbench.replay.runfile import Run
from tbench.replay.runner import run_replay


def _takes[**Options](options: Callable[Options, ReplayOptions]) -> Callable[Options, Run]:
    """`replay`, with the arguments of its options: their names, types and defaults stand there alone."""

    def replay(*arguments: Options.args, **given: Options.kwargs) -> Run:
        """Send a trace again and measure it; returns the run, which is also in its file (`run.path`).

        Takes a trace and the options of `tbench replay --help` (replay.options.ReplayOptions): `-` becomes
        `_`, and `headers`, `map_model` and `set` are mappings. `watch` is an async function that gets the
        live figures and is cancelled at the end. Without a pacing, recorded times are kept.

        Raises InputError before anything is sent. Failed requests are samples, not exceptions: look at
        `replay.totals.numbers(run)`.
        """
        chosen = options(*arguments, **given)
        return run_replay(resolve(chosen), chosen.watch)

    hints = get_type_hints(options)  # the bare types: the rows say more than a signature should
    shown = signature(options)
    typed = [field.replace(annotation=hints[name]) for name, field in shown.parameters.items()]
    vars(replay)["__signature__"] = Signature(typed, return_annotation=Run)
    return replay


replay = _takes(ReplayOptions)
