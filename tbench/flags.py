"""Flags: a verb's command line and its help, made from the rows of its options (tbench.capture.option)."""

import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from inspect import Parameter, Signature, signature
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from tbench.capture.errors import InputError, StoppedError
from tbench.capture.option import REQUIRED, Row, made, parameter_row, rows
from tbench.settings import SETTINGS, TARGET, mistyped, settle, sources

COLUMNS: Final = 100
"""The widest page of help, and the width of one that goes to no terminal."""
NAMES: Final = 30
"""The widest column of flags; a longer one has a line of its own."""
MANY: Final = 30
"""A verb with more options has two levels of help: --help shows the common ones, --help-all every one."""

UNITS: Final[Mapping[Any, str]] = {str: "TEXT", int: "N", float: "NUMBER", Path: "PATH"}
"""What stands in --help for the value of an option whose row says no unit."""


@dataclass(frozen=True)
class Given:
    """Marks a parameter of a verb: a mapping of those options of a dataclass that were given."""

    options: type


@dataclass(frozen=True)
class _Part:
    """What one parameter of a verb stands for: the rows of `options`, or the one row of its own."""

    rows: Mapping[str, Row]
    options: type | None = None
    given: bool = False

    def value(self, values: Mapping[str, Any]) -> Any:
        """The parameter's value, of those of all flags; None is a flag that was not given."""
        chosen: dict[str, Any] = {}
        for key, row in self.rows.items():
            if values[key] is None:
                continue
            try:
                chosen[key] = value = row.of_words(values[key])
                for member in value if row.repeatable and not row.option.read else (value,):
                    row.check(member)
            except InputError as error:
                place = sources.get(row.key)
                raise InputError(f"{place}: {error}" if place else str(error)) from None
        if self.options is None:
            return next(iter(chosen.values()), next(iter(self.rows.values())).default)
        if self.given:
            return {key: value for key, value in chosen.items() if value is not False}
        named = {self.rows[key].name: value for key, value in chosen.items()}
        return made(self.options, {**named, "sources": dict(sources)})


def verb(
    run: Callable[..., int | None], before: Callable[[list[str]], None] | None = None
) -> Callable[..., int | None]:
    """A function as typer takes it. Each of its parameters is an option, or stands for those of a dataclass.

    `x: Annotated[T, Option(...)] = default` is an option of its own. A parameter that is a dataclass of
    options is made of those that were given; `Annotated[Mapping[str, Any], Given(CLASS)]` gets them as they
    are. `before` looks at the words before options are read.
    """
    defaults = signature(run).parameters
    hints = get_type_hints(run, include_extras=True)
    parts = {name: _part(name, hints[name], defaults[name].default) for name in defaults}

    common = {"settings": SETTINGS}
    rows_here = [row for part in parts.values() if not part.given for row in part.rows.values()]
    if held := [row for row in rows_here if row.key == "api_key_env" or row.option.of_target]:
        option = replace(TARGET.option, group=held[0].option.group)
        common["target"] = replace(TARGET, option=option)

    def command(**values: Any) -> int | None:
        return run(**{name: part.value(values) for name, part in parts.items()})

    flags = [
        _parameter(key, row, given=part.given)
        for part in parts.values()
        for key, row in part.rows.items()
    ]
    flags += [_parameter(key, row, given=False) for key, row in common.items()]
    table = {key: row for part in parts.values() for key, row in part.rows.items()} | common
    options = sum(not row.option.argument for row in table.values())
    if options > MANY:
        text = f"Show all {options} options and exit."
        info = typer.Option("--help-all", help=text, is_eager=True, callback=_show_all)
        kind = Annotated[bool, info]
        flags.append(Parameter("help_all", Parameter.KEYWORD_ONLY, annotation=kind, default=False))
    command.__name__, command.__doc__ = run.__name__, run.__doc__
    vars(command).update(__signature__=Signature(flags), rows=table, before=before)
    return command


def _part(name: str, hint: Any, default: Any) -> _Part:
    if own_row := parameter_row(name, hint, REQUIRED if default is Parameter.empty else default):
        return _Part({name: own_row})
    marks = [extra for extra in get_args(hint) if isinstance(extra, Given)]
    options = marks[0].options if marks else hint
    if not (isinstance(options, type) and is_dataclass(options)):
        raise TypeError(f"{name}: neither an option nor a dataclass of options")
    return _Part({row.key: row for row in rows(options).values()}, options, bool(marks))


def _parameter(name: str, row: Row, *, given: bool) -> Parameter:
    """An option as typer reads it; where only what is `given` counts, none is required or has a default."""
    flag = row.kinds == (bool,)
    default: Any = row.default if isinstance(row.default, str | int | float | Path) else None
    if row.default is REQUIRED and not given:
        default = Parameter.empty
    elif given:
        default = False if flag else None
    option = row.option
    place: dict[str, Any] = {"help": option.help, "metavar": option.unit}
    if option.argument:
        place["metavar"] = option.unit or name.upper()
    names = [] if option.argument else list(filter(None, (row.flag, option.short)))
    info = (typer.Argument if option.argument else typer.Option)(*names, **place)
    known = _known_type(row)
    annotated: Any = Annotated
    kind = annotated[known | None if default is None else known, info]
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=kind, default=default)


def _known_type(row: Row) -> Any:
    """The type by which typer knows an option: how often it may be given, and its metavar."""
    if row.repeatable:
        return list[str if row.option.read else row.element]  # type: ignore[misc]
    if row.option.read:
        return str
    if row.choices:
        return Literal[row.choices]
    return Path if Path in row.kinds else row.kinds[0]


class Verb(TyperCommand):
    """A command whose words are read, and whose help is written, by the rows of its options."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.rows: Mapping[str, Row] = getattr(self.callback, "rows", {})
        self._before: Callable[[list[str]], None] | None = getattr(self.callback, "before", None)

    def get_params(self, ctx: Any) -> list[Any]:
        """The options, each with the reader of its row."""
        return _read_by_rows(super().get_params(ctx), self.rows)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words; what they do not say is as variables and the settings file have it."""
        if self._before:
            self._before(args)
        self._check_values(ctx, args)
        # A pass before click's own, since settings fill in what was not given. A copy: it takes words out.
        try:
            given = self.make_parser(ctx).parse_args(args=list(args))[0]
        except Exception as error:  # click's own, whose base typer does not export
            vars(error)["ctx"] = getattr(error, "ctx", None) or ctx  # whose --help is named
            raise
        if self.rows and not given.keys() & {"help", "help_all"} and not ctx.resilient_parsing:
            ctx.default_map = settle(self.rows, given)
            for line in mistyped(self.rows):
                print(f"! {line}", file=sys.stderr)
        return super().parse_args(ctx, args)

    def _check_values(self, ctx: Any, args: Sequence[str]) -> None:
        """Fail where a value was forgotten, for which click takes the option that follows it.

        `--flag=--other` is taken as it is written.
        """
        options = [each for each in self.get_params(ctx) if each.param_type_name == "option"]
        names = {name: each for each in options for name in (*each.opts, *each.secondary_opts)}
        ours = args[: args.index("--")] if "--" in args else args
        for word, after in pairwise(ours):
            valued = word in names and not names[word].is_flag
            if valued and after in names and not ctx.resilient_parsing:
                ctx.fail(f"Option '{word}' requires an argument, and {after} is an option.")

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`[OPTIONS] TRACE`: typer writes `{TRACE}` for one that is required, `{TRACE}...` for several."""
        return [re.sub("[{}]", "", piece) for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options in their groups, each whole, with its default; help's own come last."""
        levels = any(parameter.name == "help_all" for parameter in self.params)
        everything = not levels or ctx.meta.get(EVERYTHING, False)
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        helps: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            row = self.rows.get(parameter.name)
            if row is None:
                helps.append(parameter.get_help_record(ctx) or (parameter.name, ""))
            elif everything or row.option.common or row.option.argument:
                place = "Arguments" if row.option.argument else "Options"
                sections.setdefault(row.option.group or place, []).append(_record(row, parameter))
        sections.setdefault("Options", []).extend(reversed(helps))
        sections["Options"] = sections.pop("Options")
        sections = {title: records for title, records in sections.items() if records}
        names = [len(name) for records in sections.values() for name, _ in records]
        width = max(length for length in names if length <= NAMES)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in records], width)


EVERYTHING: Final = "tbench.help_all"
"""The key in click's `Context.meta` that says that help is to show the second level, too."""


def _show_all(context: typer.Context, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        context.meta[EVERYTHING] = True
        typer.echo(context.get_help())
        raise typer.Exit


def _read_by_rows(parameters: list[Any], table: Mapping[str, Row]) -> list[Any]:
    """Keep typer from reading words by pydantic, since their rows say how.

    Typer loads that even for an option that was not given: it takes longer than all else here, and says less
    of what is wrong.
    """
    for parameter in parameters:
        # Once: click and we ask for the parameters many times.
        if "process_value" not in vars(parameter):
            reader = partial(_value, table.get(parameter.name), parameter, parameter.process_value)
            vars(parameter)["process_value"] = reader
    return parameters


def _value(
    row: Row | None, parameter: Any, slowly: Callable[..., Any], context: Any, words: Any
) -> Any:
    """As click's `Parameter.process_value`: the words as they are, which `verb` reads; None for none."""
    if words in (None, ()) and not parameter.required:
        return parameter.callback and parameter.callback(context, parameter, None)
    known = row is not None and words not in (None, ()) and row.kinds != (bool,)
    return words if known else slowly(context, words)


def _record(row: Row, parameter: Any) -> tuple[str, str]:
    """The two columns of an option: how it is written, and what it does, in brackets its default."""
    option = row.option
    if option.argument:
        names = option.unit or row.name.upper()
    else:
        names = ", ".join(sorted(parameter.opts, key=len) + parameter.secondary_opts)
        if row.kinds != (bool,):
            kind = row.element if row.repeatable else row.kinds[0]
            names += " " + (option.unit or "|".join(row.choices) or UNITS[kind])
    if parameter.required:
        return names, f"{option.help} [required]"
    text = option.default
    if text is None and isinstance(row.default, str | int | float | Path) and row.kinds != (bool,):
        text = f"{row.default:g}" if isinstance(row.default, float) else str(row.default)
    return names, f"{option.help} [default: {text}]" if text else option.help


class Verbs(TyperGroup):
    """A command of commands, whose summaries are not cut off."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; an interrupt, which typer would end without a word, has a line."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise StoppedError("interrupted") from None

    def get_params(self, ctx: Any) -> list[Any]:
        """The options of no verb, which load nothing where they are not given."""
        return _read_by_rows(super().get_params(ctx), {})

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write each verb with its summary, or the first sentence of its help, whole."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, verb.short_help or _sentence(verb.help or ""))
                    for name, verb in self.commands.items()
                ]
            )


def _sentence(text: str) -> str:
    """The first one of a help."""
    summary = text.partition("\n\n")[0].replace("\n", " ")
    return summary.partition(". ")[0].rstrip(".") + "."


def settings() -> dict[str, Any]:
    """Typer's `context_settings`: pages of help as wide as the terminal, and at most COLUMNS."""
    width = shutil.get_terminal_size((COLUMNS, 24)).columns
    return {
        "help_option_names": ["-h", "--help"],
        "terminal_width": min(COLUMNS, width) - 1,
    }
