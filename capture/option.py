"""Options: one row each, from which flags, keyword arguments, plan files, --help and checks follow.

A row is a field of a dataclass. Its name, type and default are those of the option; the rest stands in an
`Option`:

    rate: Annotated[float | None, Option(help="Mean arrival rate.", unit="REQ/S", above=0)] = None

The command line is made from rows by tbench/flags.py, the keys of a plan file are read by `made`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, cast, get_args, get_origin, get_type_hints

from tbench.capture.errors import InputError
from tbench.capture.remote import as_path


@dataclass(frozen=True, kw_only=True)
class Option:
    """What an option is besides its name, type and default.

    `help` says in imperative English what it does, `unit` stands for its value in --help (SECONDS, USD),
    `group` is its heading there. `flag` is how it is written where that is not its name with hyphens,
    `short` its one-letter flag. `default` says in words what holds without it. Numbers are above `above`, or
    from `least` to `most`. `read` makes the value from the word, or words, of a command line.
    One that is `late` takes long to load: a settings file is held to it by the verbs that have the option.
    `clauses` say what a run is like with a value of it. An `argument` has a place instead of a flag. Of
    options with the same `rival` one is given. A `common` one is in the first level of --help, too, where a
    verb has more options than a page takes. A target of the settings file may hold one `of_target`, as it may
    all that say where a replay goes.
    """

    help: str
    group: str | None = None
    unit: str | None = None
    flag: str | None = None
    short: str | None = None
    default: str | None = None
    above: float | None = None
    least: float | None = None
    most: float | None = None
    read: Callable[[Any], Any] | None = None
    late: bool = False
    clauses: Mapping[Any, str] = field(default_factory=dict)
    argument: bool = False
    rival: str | None = None
    common: bool = False
    of_target: bool = False


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Marks a field whose own fields are options: `without` some, others with new `defaults` or `rows`.

    `common` names those that are common here, too; None: as they are.
    """

    without: frozenset[str] = frozenset()
    common: frozenset[str] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


REQUIRED: Final = MISSING
"""The default of an option that has to be given."""
LARGEST: Final = 2**63 - 1
"""The largest whole number that files hold."""
WIDEST, NARROWEST = 1e12, 1e-9
"""Other numbers lie between these, or are 0: beyond them times overflow (1e12 s are 30,000 years)."""
_WORDS: Final[Mapping[type, str]] = {int: "a whole number", float: "a number"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """An option: `name` is its field's, `kinds` are the types of its value, None apart."""

    name: str
    kinds: tuple[Any, ...]
    default: Any
    option: Option

    @property
    def flag(self) -> str:
        """`--max-cost`."""
        return self.option.flag or "--" + self.name.replace("_", "-")

    @property
    def key(self) -> str:
        """Its name in a plan file: that of its flag, with underscores."""
        return self.flag.partition("/")[0].removeprefix("--").replace("-", "_")

    @property
    def choices(self) -> tuple[str, ...]:
        """The only words that it takes; empty where there are more."""
        if all(get_origin(kind) is Literal for kind in self.kinds):
            return tuple(word for kind in self.kinds for word in get_args(kind))
        return ()

    @property
    def repeatable(self) -> bool:
        """Whether its value is a collection, which a command line gives word by word."""
        return any(isinstance(get_origin(kind), type) for kind in self.kinds)

    @property
    def element(self) -> type:
        """What a collection holds."""
        kind: type = get_args(self.kinds[0])[0]
        return kind

    def of_words(self, given: Any) -> Any:
        """The value of the word or words of a command line; a value that is one already stays."""
        if self.option.read is not None:
            return self.option.read(given)
        if self.repeatable:
            return [self._of_word(word, {self.element}) for word in given]
        return self._of_word(given, set(self.kinds))

    def _of_word(self, word: Any, kinds: set[Any]) -> Any:
        if not isinstance(word, str):
            return word
        if Path in kinds:
            return as_path(word)
        for kind in _WORDS.keys() & kinds:
            try:
                return kind(word)
            except ValueError:
                raise InputError(f"{self.flag} {word}: give {_WORDS[kind]}") from None
        self.check(word)
        return word

    def of_plan(self, value: Any) -> Any:
        """The value of a plan file's. Raises InputError for another type."""
        types: list[type] = []
        for kind in self.kinds:
            origin = get_origin(kind)
            if kind is float:
                types += [int, float]
            elif kind is Path or origin is Literal:
                types.append(str)
            elif origin is Mapping:
                types.append(dict)
            else:
                types.append(kind if origin is None else list)
        right = isinstance(value, tuple(types)) and (bool in types or not isinstance(value, bool))
        if not right:
            wanted = " or ".join(dict.fromkeys(kind.__name__ for kind in types))
            raise InputError(f"plan: {self.key} is {value!r}; it must be {wanted}")
        if self.kinds and list in types and not self.option.read:
            if not all(isinstance(word, str) for word in value):
                raise InputError(f"plan: {self.key} is {value!r}; it must be a list of texts")
            return tuple(value)
        if dict in types:
            return self.of_words([f"{name}={text}" for name, text in value.items()])
        return self.of_words(value) if isinstance(value, str) else value

    def check(self, value: Any) -> None:
        """Raise InputError for a number out of its bounds, or a word that is no choice."""
        option = self.option
        if self.choices and value not in self.choices:
            raise InputError(f"{self.flag} {value}: choose one of {', '.join(self.choices)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        largest = int(WIDEST) if float in self.kinds else LARGEST
        if option.above is not None and not value > option.above:
            bound = f"more than {option.above:g}"
        elif option.least is not None and not value >= option.least:
            bound = f"at least {option.least:g}"
        elif option.most is not None and not value <= option.most:
            bound = f"at most {option.most:,}"
        elif not value <= largest:
            bound = f"at most {largest:,}"
        elif 0 < value < NARROWEST:
            bound = f"at least {NARROWEST:g}"
        else:
            return
        number = f"{value:,}" if isinstance(value, int) else f"{value:g}"
        raise InputError(f"{self.flag} {number}: must be {bound}")


def parameter_row(name: str, annotation: Any, default: Any) -> Row | None:
    """The row of a field or a parameter; None where its annotation has no Option."""
    if get_origin(annotation) is not Annotated:
        return None
    kind, *extras = get_args(annotation)
    options = [extra for extra in extras if isinstance(extra, Option)]
    members = get_args(kind) if get_origin(kind) in {Union, UnionType} else (kind,)
    kinds = tuple(member for member in members if member is not NoneType)
    return Row(name=name, kinds=kinds, default=default, option=options[0]) if options else None


def rows(options: type) -> Mapping[str, Row]:
    """The options of a dataclass by their names, in order; those of its shared fields among them."""
    if options in _ROWS:
        return _ROWS[options]
    hints = get_type_hints(options, include_extras=True)
    table: dict[str, Row] = {}
    for member in fields(options):
        default = member.default
        if default is MISSING and member.default_factory is not MISSING:
            default = member.default_factory()
        if shared := _shared(hints[member.name]):
            table |= {option.name: option for option in _shared_rows(*shared)}
        elif option := parameter_row(member.name, hints[member.name], default):
            table[member.name] = option
    _ROWS[options] = table
    return table


_ROWS: Final[dict[type, Mapping[str, Row]]] = {}


def _shared(annotation: Any) -> tuple[type, Shared] | None:
    if get_origin(annotation) is not Annotated:
        return None
    kind, *extras = get_args(annotation)
    how = next((extra for extra in extras if isinstance(extra, Shared)), None)
    return (kind, how) if how and is_dataclass(kind) and isinstance(kind, type) else None


def _shared_rows(options: type, how: Shared) -> Iterator[Row]:
    for name, row in rows(options).items():
        if name not in how.without:
            option = replace(row.option, **how.rows.get(name, {}))
            if how.common is not None:
                option = replace(option, common=name in how.common)
            yield replace(row, default=how.defaults.get(name, row.default), option=option)


def check(options: Any) -> None:
    """Check every option of a dataclass by its own row. Raises InputError for the first that is wrong."""
    for name, row in rows(type(options)).items():
        if hasattr(options, name) and (value := getattr(options, name)) is not None:
            row.check(value)


def values(options: Any) -> dict[str, Any]:
    """Every option of a dataclass by its key, those of its shared fields among them."""
    hints = get_type_hints(type(options), include_extras=True)
    table: dict[str, Any] = {}
    for name, row in rows(type(options)).items():
        if hasattr(options, name):
            table[row.key] = getattr(options, name)
    for member in fields(options):
        if shared := _shared(hints[member.name]):
            for row in _shared_rows(*shared):
                table[row.key] = getattr(getattr(options, member.name), row.name)
    return table


def made[T](options: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass of options with these values, by the names of its rows; the rest is at its default."""
    hints = get_type_hints(options, include_extras=True)
    arguments: dict[str, Any] = {}
    for member in fields(cast("Any", options)):
        if shared := _shared(hints[member.name]):
            kind, how = shared
            names = rows(kind).keys() - how.without
            given = {name: value for name, value in values.items() if name in names}
            defaults = {
                name: value for name, value in how.defaults.items() if value is not REQUIRED
            }
            arguments[member.name] = made(kind, {**defaults, **given})
        elif member.name in values:
            arguments[member.name] = values[member.name]
    return options(**arguments)
