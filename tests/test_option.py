"""One row per option: what it says is what flags, plan files, checks and --help have."""

import math
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from tbench.__main__ import run
from tbench.capture.errors import InputError
from tbench.capture.option import REQUIRED, Option, Shared, check, made, rows
from tbench.cli import app
from tbench.flags import MANY, Given, Verb, verb
from tbench.replay.options import PACING, ReplayOptions
from tbench.replay.pacing import PacingOption

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Kitchen:
    eggs: Annotated[int, Option(help="Eggs to boil.", unit="N", group="Food", least=1, most=9)] = 2
    minutes: Annotated[float, Option(help="Time to boil.", unit="MINUTES", above=0)] = 4.5
    salt: Annotated[bool, Option(help="Add salt.")] = False

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Breakfast:
    guests: Annotated[tuple[str, ...], Option(help="Who comes.", flag="--guest", short="-g")] = ()
    kitchen: Annotated[Kitchen, Shared(without=frozenset({"salt"}), defaults={"minutes": 6.0})]


def called(options: type, words: list[str], *, given: bool = False) -> Any:
    """What a verb with these options gets for the words of a command line, or what its help shows."""
    seen: list[Any] = []

    def eat(given_options: Any) -> None:
        seen.append(given_options)

    hint = Annotated[Mapping[str, Any], Given(options)] if given else options
    eat.__annotations__ = {"given_options": hint, "return": None}
    app = typer.Typer(rich_markup_mode=None)
    app.command(cls=Verb)(verb(eat))
    result = CliRunner().invoke(app, words)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return seen[0] if seen else result.output


def test_a_whole_number_that_no_file_holds_is_refused() -> None:
    with pytest.raises(InputError, match=r"--allow-lost 9,2.*,808: must be at most 9,2.*,807"):
        ReplayOptions(trace="t.msgpack", allow_lost=2**63)


def test_a_number_with_no_upper_bound_of_its_own_is_finite() -> None:
    with pytest.raises(InputError, match=r"--max-idle inf: must be at most 1,000,000,000,000"):
        ReplayOptions(trace="t.msgpack", max_idle=math.inf)


def test_flags_make_the_dataclass_and_what_is_left_out_is_at_its_default() -> None:
    assert called(Kitchen, ["--eggs", "3"]) == Kitchen(eggs=3)
    assert called(Kitchen, ["--minutes", "1e1", "--salt"]) == Kitchen(minutes=10.0, salt=True)


def test_shared_options_have_their_new_defaults_and_some_are_not_there() -> None:
    breakfast = called(Breakfast, ["-g", "Ada", "--guest", "Bo", "--eggs", "9"])

    assert breakfast == Breakfast(guests=["Ada", "Bo"], kitchen=Kitchen(eggs=9, minutes=6.0))  # type: ignore[arg-type]
    assert "salt" not in rows(Breakfast)


def test_an_option_of_the_verb_itself_is_at_its_own_default() -> None:
    seen = []

    def eat(
        cups: Annotated[tuple[str, ...], Option(help="What to drink.")] = (),
        sugar: Annotated[int | None, Option(help="Lumps of sugar.")] = None,
    ) -> None:
        seen.append((cups, sugar))

    app = typer.Typer()
    app.command(cls=Verb)(verb(eat))
    CliRunner().invoke(app, [])

    assert seen == [((), None)]


def test_what_was_given_comes_without_defaults() -> None:
    assert called(Breakfast, ["--minutes", "3"], given=True) == {"minutes": 3.0}


def test_help_shows_groups_units_and_defaults() -> None:
    shown = called(Breakfast, ["--help"])

    assert "Food:\n  --eggs N" in shown
    assert "Eggs to boil. [default: 2]" in shown
    assert "Time to boil. [default: 6]" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--eggs", "0"], "--eggs 0: must be at least 1"),
        (["--eggs", "10"], "--eggs 10: must be at most 9"),
        (["--eggs", "1.5"], "--eggs 1.5: give a whole number"),
        (["--minutes", "soft"], "--minutes soft: give a number"),
        (["--minutes", "nan"], "--minutes nan: must be more than 0"),
        (["--minutes", "inf"], "--minutes inf: must be at most 1,000,000,000,000"),
        (["--minutes", "1e300"], r"--minutes 1e\+300: must be at most 1,000,000,000,000"),
        (["--minutes", "1e-300"], "--minutes 1e-300: must be at least 1e-09"),
    ],
)
def test_a_word_that_makes_no_sense_is_named_with_what_would(
    words: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        called(Kitchen, words)


def test_the_same_check_holds_for_a_program_and_for_a_plan() -> None:
    with pytest.raises(InputError, match="--eggs 0"):
        Kitchen(eggs=0)
    with pytest.raises(InputError, match="plan: eggs is '2'; it must be int"):
        rows(Breakfast)["eggs"].of_plan("2")
    with pytest.raises(InputError, match="--eggs 12"):
        made(Breakfast, {"eggs": 12})


def _bursts(offsets: Iterable[float], size: float) -> list[float]:
    return [float(index // int(size)) for index, _ in enumerate(offsets)]


@dataclass(frozen=True, kw_only=True)
class Bursty(ReplayOptions):
    """A pacing from outside: one row."""

    bursts: Annotated[
        int | None,
        PacingOption(
            help="Bursts of N, one a second.",
            unit="N",
            group=PACING,
            above=0,
            meaning="open loop: bursts of {value:g}, one a second",
            schedule=lambda pacing, _: lambda offsets: iter(_bursts(offsets, pacing.value)),
        ),
    ] = None


def test_a_pacing_is_one_row() -> None:
    """Its flag, its help, its meaning, its place among the pacings, its due times."""
    options = called(Bursty, ["t.msgpack", "--bursts", "3"])
    pacing = options.pacing()

    assert list(pacing.schedule(None)([0.0] * 7)) == [0, 0, 0, 1, 1, 1, 2]
    assert (pacing.mode, pacing.meaning) == ("bursts", "open loop: bursts of 3, one a second")
    assert "--bursts N" in called(Bursty, ["--help-all"])
    with pytest.raises(InputError, match="--speed and --bursts are two pacings"):
        Bursty("t.msgpack", speed=2, bursts=3)
    with pytest.raises(InputError, match="--bursts 0: must be more than 0"):
        Bursty("t.msgpack", bursts=0)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["replay", "--help"],
        ["trace", "info", "absent"],
        ["replay", "absent", "--speed", "2"],
    ],
)
def test_no_word_loads_pydantic(words: list[str]) -> None:
    """It takes longer to load than typer."""
    probe = f"import sys, tbench.__main__ as m; m.run({words!r}); print('pydantic' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT
    )

    assert done.stdout.splitlines()[-1] == "False"


def test_the_list_of_verbs_fits_a_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 lines of 100 columns, every summary whole."""
    monkeypatch.setenv("COLUMNS", "100")
    assert run(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()

    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100
    assert not [line for line in lines[1:] if line.endswith("...")]


@pytest.mark.parametrize("verb", ["ab", "benchmark", "capture", "compare", "replay"])
def test_help_fits_two_screens_and_help_all_has_every_option(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 lines of 100 columns, what must be given among them; the last says how to see the rest."""
    monkeypatch.setenv("COLUMNS", "100")
    options = [
        row
        for row in get_command(app([verb])).commands[verb].rows.values()
        if not row.option.argument
    ]
    flags = {row.flag.partition("/")[0] for row in options}

    assert run([verb, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 60
    assert {row.flag for row in options if row.default is REQUIRED} - shown(lines) == set()
    if len(flags) > MANY:
        assert lines[-1].split() == [
            "--help-all",
            *f"Show all {len(flags)} options and exit.".split(),
        ]
        assert run([verb, "--help-all"]) == 0
        lines = capsys.readouterr().out.splitlines()
    assert flags - shown(lines) == set()


def shown(lines: list[str]) -> set[str]:
    """The flags in the first column of a page of help."""
    return {word.strip(",") for line in lines for word in line[:34].split()}
