"""Settings: what stands in tbench.toml and in variables, which of it counts, and where it says it is from."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tbench.abtest.command import settings_of
from tbench.abtest.plan import experiment
from tbench.capture.errors import InputError
from tbench.capture.records import TraceHeader
from tbench.capture.trace_writer import TraceWriter
from tbench.cli import app
from tbench.replay.cost import Price
from tbench.replay.options import ReplayOptions
from tbench.replay.target import find_key, host_variable
from tbench.settings import UNCOUNTED, mistyped, settings_file, settle, sources, told
from tests.conftest import Done, Server
from tests.recorded import chat_request

FILE = """
[defaults]
rate = 5
max_cost = 2.5
slo = "ttft<500ms"

[targets.prod]
base_url = "https://api.openai.com/v1"
api_key_env = "PROD_KEY"
model = "big"
cache_by = "cache_salt"
[targets.prod.map_model]
"old=er" = "new"
[targets.prod.set]
max_tokens = 64
[targets.prod.header]
x-team = "search"
[targets.prod.price]
big = "1.5/6/0.1"

[targets.here]
base_url = "http://127.0.0.1:9"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a settings file, and a folder in it from which tbench is called."""
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    (tmp_path / "tbench.toml").write_text(FILE)
    monkeypatch.chdir(below)
    for name in [name for name in os.environ if name.startswith("TBENCH_")]:
        monkeypatch.delenv(name)
    return tmp_path


def rows_of(*verb: str) -> Any:
    from typer.main import get_command

    command: Any = get_command(app())
    for name in verb:
        command = command.commands[name]
    return command.rows


REPLAY, BENCHMARK = rows_of("replay"), rows_of("benchmark")


def test_a_file_above_sets_defaults_and_says_so(folder: Path) -> None:
    """Of a verb, those that it has; the others are another verb's."""
    settled = settle(REPLAY, {})

    assert settled == {"rate": 5, "max_cost": 2.5}
    assert sources == dict.fromkeys(settled, f"{folder / 'tbench.toml'} [defaults]")
    assert told(sources) == [f"rate, max_cost from {folder / 'tbench.toml'} [defaults]"]


def test_the_order_is_flag_variable_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of rivals, such as two pacings, only the strongest counts."""
    monkeypatch.setenv("TBENCH_MAX_COST", "7")
    monkeypatch.setenv("TBENCH_SEED", "3")
    monkeypatch.setenv("TBENCH_SET", 'a=1\nb="x y"')
    settled = settle(REPLAY, {"concurrency": "4", "seed": "9"})

    assert settled == {"max_cost": "7", "set": ["a=1", 'b="x y"']}
    assert sources == {"max_cost": "TBENCH_MAX_COST", "set": "TBENCH_SET"}


def test_a_target_stands_where_it_was_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the flags, above variables where a flag names it: a key never goes to another's host."""
    monkeypatch.setenv("TBENCH_MODEL", "from-the-variable")
    monkeypatch.setenv("TBENCH_BASE_URL", "https://other.example")
    settled = settle(REPLAY, {"target": "prod", "rate": "1"})

    assert settled == {
        "base_url": "https://api.openai.com/v1",
        "api_key_env": "PROD_KEY",
        "model": "big",
        "cache_by": "cache_salt",
        "map_model": ["old=er=new"],
        "set": ["max_tokens=64"],
        "header": ["x-team: search"],
        "price": ["big=1.5/6/0.1"],
        "max_cost": 2.5,
    }
    assert sources["model"] == f"{folder / 'tbench.toml'} [targets.prod]"


def test_a_server_given_by_hand_leaves_a_weaker_target_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all that belongs to it; both at once are refused."""
    monkeypatch.setenv("TBENCH_TARGET", "prod")

    assert settle(REPLAY, {"base_url": "http://x", "rate": "1"}) == {"max_cost": 2.5}
    with pytest.raises(InputError, match="--base-url and --target prod are two; give one"):
        settle(REPLAY, {"base_url": "http://x", "target": "prod"})


@pytest.mark.parametrize(
    ("server", "table"),
    [
        ({"base_url": "http://other.example"}, REPLAY),
        ({"target": "here"}, REPLAY),
        ({"api_base": "http://other.example"}, BENCHMARK),
        ({"target": "here"}, BENCHMARK),
    ],
)
@pytest.mark.parametrize("weaker", ['base_url = "https://prod.example"', 'target = "prod"'])
def test_a_key_goes_to_the_server_that_it_was_named_for(
    folder: Path, server: dict[str, str], table: Any, weaker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a stronger server says or does not say of a key; and so do headers."""
    text = FILE.replace(
        "rate = 5", f'api_key_env = "PROD_KEY"\nheader = {{x-account = "7"}}\n{weaker}'
    )
    (folder / "tbench.toml").write_text(text)
    monkeypatch.setenv("TBENCH_BASE_URL", "https://prod.example")
    monkeypatch.setenv("TBENCH_API_BASE", "https://prod.example")
    monkeypatch.setenv("TBENCH_API_KEY", "k")
    monkeypatch.setenv("TBENCH_HEADER", "x-account: 7")

    settled = settle(table, server)

    assert not settled.keys() & {"api_key", "api_key_env", "header"}
    assert "prod" not in str(settled)


def test_a_target_s_key_is_stronger_than_a_variable_s(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though one holds it and the other names it."""
    monkeypatch.setenv("TBENCH_API_KEY", "another's")

    assert settle(BENCHMARK, {"target": "prod"})["api_key_env"] == "PROD_KEY"
    assert "api_key" not in settle(BENCHMARK, {"target": "prod"})


def test_a_mistyped_variable_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what was probably meant; neither another verb's nor another program's is."""
    for name in ("TBENCH_MAXCOST", "TBENCH_PORT", "TBENCH_RESULTS_BUCKET", "TBENCH_MODEL"):
        monkeypatch.setenv(name, "5")

    assert list(mistyped(REPLAY)) == [
        "TBENCH_MAXCOST: no option's variable; did you mean TBENCH_MAX_COST?"
    ]


def test_benchmark_has_its_own_names(folder: Path) -> None:
    """What genai-bench calls --api-base and --api-model-name; its --rate is a list, and its own."""
    settled = settle(BENCHMARK, {"target": "prod"})

    assert settled == {
        "api_base": "https://api.openai.com/v1",
        "api_model_name": "big",
        "api_key_env": "PROD_KEY",
        "slo": "ttft<500ms",
        "max_cost": 2.5,
    }


JUDGED = """
[defaults]
slo = "ttft<500ms"
margin = "5%"

[targets.prod]
base_url = "https://api.openai.com/v1"
slo = "ttft<200ms"
margin = "2%"

[targets.twin]
base_url = "https://twin.example"
slo = "ttft<200ms"
margin = "2%"

[targets.next]
base_url = "https://next.example"
slo = "e2e<3s"
margin = "3%"

[targets.plain]
base_url = "https://plain.example"
"""


@pytest.fixture
def judged(folder: Path) -> str:
    """A settings file whose targets say what is good, and how the place of one is named."""
    (folder / "tbench.toml").write_text(JUDGED)
    return f"{folder / 'tbench.toml'} [targets.{{}}]"


@pytest.mark.parametrize(
    ("verb", "keys"),
    [
        ("replay", set()),
        ("benchmark", {"slo"}),
        ("report", {"slo"}),
        ("compare", {"slo", "margin"}),
        ("power", {"margin"}),
    ],
)
def test_a_target_says_what_is_good_of_it(judged: str, verb: str, keys: set[str]) -> None:
    """Its SLO and its margin, to each verb that has such an option; before those for all."""
    settled = settle(rows_of(verb), {"target": "prod"})
    place = judged.format("prod")

    assert {key: settled[key] for key in keys} == {
        key: value for key, value in (("slo", "ttft<200ms"), ("margin", "2%")) if key in keys
    }
    assert {key: sources[key] for key in keys} == dict.fromkeys(keys, place)
    assert settled.keys() & {"slo", "margin"} == keys


def test_an_slo_has_the_order_of_all_options(
    judged: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flag, a flag's target, variable, the target of [defaults], [defaults]."""
    report = rows_of("report")
    (folder / "tbench.toml").write_text(JUDGED.replace("[defaults]", '[defaults]\ntarget = "prod"'))

    assert settle(report, {"slo": "e2e<9s", "target": "next"}) == {}
    assert settle(report, {})["slo"] == "ttft<200ms"
    assert settle(report, {"target": "plain"})["slo"] == "ttft<500ms"
    monkeypatch.setenv("TBENCH_SLO", "e2e<1s")
    assert settle(report, {})["slo"] == "e2e<1s"
    assert settle(report, {"target": "next"})["slo"] == "e2e<3s"


def plan_of(*targets: str, sources: dict[str, str] | None = None, **words: Any) -> Any:
    """The experiment of arms at these targets, the baseline first."""
    arms = [{"name": f"arm{place}", "target": name} for place, name in enumerate(targets)]
    return experiment({"trace": "t.msgpack", "arm": arms, **words}, sources or {})


COUNTED = {"gate": ["goodput:1pp"]}


def test_the_gates_of_an_experiment_are_its_candidates(judged: str) -> None:
    """Whatever the baseline's target says, which is not judged; the plan that is written down has them."""
    plan = plan_of("prod", "next", **COUNTED)

    assert {gate.text for gate in plan.gates} >= {"ttft:p50:3%", "e2e:p95:3%", "goodput:1pp"}
    assert [gate.slo[0].text for gate in plan.gates if gate.slo] == ["e2e<3s"]
    assert plan.order.sources == dict.fromkeys(("slo", "margin"), judged.format("next"))
    assert (plan.written["slo"], plan.written["margin"]) == ("e2e<3s", "3%")
    assert "ttft:p50:5%" in {gate.text for gate in plan_of("next", "plain").gates}


@pytest.mark.parametrize(
    ("source", "margin"),
    [(None, "9%"), ("TBENCH_MARGIN", "9%"), ("/home/x/tbench.toml [defaults]", "3%")],
)
def test_a_target_s_margin_is_weaker_than_what_is_said_of_the_experiment(
    judged: str, source: str | None, margin: str
) -> None:
    """By a flag, the plan file or a variable; what stands in [defaults] is for whatever has none."""
    origins = {} if source is None else {"margin": source}
    plan = plan_of("prod", "next", margin="9%", sources=origins)

    assert f"ttft:p50:{margin}" in {gate.text for gate in plan.gates}
    assert plan.order.sources.get("margin") == (judged.format("next") if margin == "3%" else source)


def test_candidates_that_want_different_things_are_named(judged: str) -> None:
    """With what decides between them; equal ones, and one that says nothing, are no conflict."""
    with pytest.raises(InputError) as caught:
        plan_of("prod", "twin", "plain", "next")
    shown = str(caught.value)

    assert shown == (
        f"arms arm1 and arm3: margin is 2% by {judged.format('twin')}, 3% by {judged.format('next')}; "
        "one holds for all candidates: give --margin"
    )
    assert plan_of("next", "prod", "twin", "plain").order.sources["margin"] == judged.format("prod")
    assert plan_of("prod", "twin", "next", margin="4%").gates
    with pytest.raises(InputError, match=r"arms arm1 and arm2: slo is .*: give --slo"):
        plan_of("prod", "twin", "next", margin="4%", **COUNTED)


def test_an_slo_waits_for_a_gate_that_counts_it(judged: str) -> None:
    """One of the settings: it is said, nothing is refused, and the plan that is gone on with has none."""
    plan = plan_of("prod", "next")

    assert not any(gate.slo for gate in plan.gates)
    assert "slo" not in plan.written
    assert f"settings  slo: {UNCOUNTED}" in settings_of(plan)
    assert f"settings  slo: {UNCOUNTED}" not in settings_of(plan_of("prod", "next", **COUNTED))
    with pytest.raises(InputError, match="--slo needs a gate"):
        plan_of("prod", "next", slo="e2e<3s")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('slo = "fast"', "slo: --slo fast: write it as"),
        ('slo = "ttft<5"', "slo: --slo ttft<5: a limit in s is written"),
        ("slo = 5", "slo: slo is 5; it must be str"),
        ('margin = "0.05"', "margin: --margin 0.05: write it as 5%"),
    ],
)
def test_an_slo_that_is_none_is_named_with_its_place(
    folder: Path, judged: str, line: str, message: str
) -> None:
    """By the verbs that have it, an experiment's arm as well."""
    (folder / "tbench.toml").write_text(f"[targets.x]\n{line}\n")
    place = judged.format("x")

    with pytest.raises(InputError) as caught:
        settle(rows_of("compare"), {"target": "x"})
    with pytest.raises(InputError) as of_arm:
        plan_of("x", "x")
    for error in (caught, of_arm):
        assert str(error.value).startswith(f"{place} {message}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("http://me:secret@h:9", "target http://***@h:9: is no name of a settings file"),
        ("her", "{file}: no target her; did you mean here? there are here, prod"),
        ("none", "no target none, as there is no tbench.toml here or above (docs/settings.md)"),
    ],
)
def test_a_name_of_no_target_is_told_what_takes_an_address(
    folder: Path, name: str, message: str
) -> None:
    """And of no file that is not there."""
    file = folder / "tbench.toml"
    if name == "none":
        file.unlink()
    with pytest.raises(InputError) as caught:
        settle(REPLAY, {"target": name})
    with pytest.raises(InputError) as of_arm:
        experiment({"trace": "t.msgpack", "arm": [{"name": "a", "target": name}, {"name": "b"}]})

    assert str(caught.value) == message.format(file=file) + "; give an address by --base-url"
    assert str(of_arm.value) == message.format(file=file) + "; give an address by base_url=URL"


def test_an_slo_is_read_by_who_has_the_option(folder: Path) -> None:
    """Its reader loads the statistics, which would cost any other command half a second."""
    (folder / "tbench.toml").write_text('[targets.x]\nslo = "fast"\n')

    assert settle(REPLAY, {"target": "x"}) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[defaults]\nrat = 5", "[defaults] rat: no such key; did you mean rate? there are"),
        ("[defaults]\nrate = 'fast'", "[defaults] rate: rate is 'fast'; it must be int or float"),
        ("[defaults]\nrate = -1", "[defaults] rate: --rate -1: must be more than 0"),
        ("[defaults]\nseed = true", "[defaults] seed: seed is True; it must be int"),
        ("[default]\nrate = 1", "default: no such key; did you mean defaults? there are"),
        ("targets = [1]", "[targets]: must be a table"),
        ("[targets.x.set]\na = {b = 2026-01-01}", "[targets.x] set: a: JSON has no dates"),
        ("[targets]\nx = 1", "[targets.x]: must be a table"),
        ("[targets.x]\nbaseurl = 'h'", "[targets.x] baseurl: no such key; did you mean base_url?"),
        ("[targets.x]\nrate = 1", "[targets.x] rate: no such key"),
        ("[targets.x.price]\nm = 'dear'", "[targets.x] price: --price 'm=dear': write it as"),
        ("rate = ", "no TOML"),
        ("[targets.x]\napi_key = 'sk-abcdef0123456789'", "[targets.x] api_key: a key does not"),
        ("[targets.x]\napi_key_env = 'sk-abcdef0123456789'", "api_key_env: holds what may be a"),
        ("[targets.x]\nbase_url = 'http://me:pw123456@h'", "base_url: holds what may be a"),
        ("[targets.x.header]\nauthorization = 'Bearer abc'", "header: holds what may be a"),
        ("[defaults]\napi_key = 'sk-abcdef0123456789'", "[defaults] api_key: a key does not"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder: Path, text: str, message: str) -> None:
    """The file, the place, what is allowed; never the secret."""
    (folder / "tbench.toml").write_text(text)
    with pytest.raises(InputError) as caught:
        settings_file()

    shown = str(caught.value)
    assert shown.startswith(f"{folder / 'tbench.toml'}")
    assert message in shown
    assert "\n" not in shown
    assert not any(secret in shown for secret in ("sk-abcdef", "pw123456", "Bearer abc"))


def test_the_search_ends_at_a_repository(folder: Path) -> None:
    """A file further up is another project's."""
    (folder / "a" / ".git").mkdir()

    assert settle(REPLAY, {}) == {}


def test_an_arm_takes_a_target(folder: Path) -> None:
    """And may differ from it; the plan that is written down holds what it said."""
    words = {
        "trace": "t.msgpack",
        "arm": [{"name": "now", "target": "prod", "model": "small"}, {"name": "next"}],
    }
    plan = experiment(words)
    (now, _) = plan.treatments
    place = f"{folder / 'tbench.toml'} [targets.prod]"

    assert now.changes["base_url"] == "https://api.openai.com/v1"
    assert now.changes["model"] == "small"
    assert now.changes["price"] == {"big": Price(1.5, 6, 0.1)}
    assert now.written["price"] == {"big": "1.5/6/0.1"}
    assert now.order(plan.order).sources["set"] == place
    assert "model" not in now.sources
    assert [line.partition(":")[0] for line in settings_of(plan)] == ["settings  arm now"]
    with pytest.raises(InputError, match="no target prd; did you mean prod"):
        experiment({**words, "arm": [{"name": "now", "target": "prd"}, {"name": "next"}]})


@pytest.mark.parametrize(
    ("base_url", "variable"),
    [
        ("https://api.together.xyz", "TOGETHER_API_KEY"),
        ("https://api.openai.com/v1", "OPENAI_API_KEY"),
        ("https://API.anthropic.com", "ANTHROPIC_API_KEY"),
        ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
        ("https://api.openai.com.evil.example", "TOGETHER_API_KEY"),
    ],
)
def test_a_key_is_its_makers(base_url: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together's goes to nobody who has a variable of his own."""
    for name in ("TOGETHER_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENROUTER_API_KEY"):
        monkeypatch.setenv(name, f"key-of-{name}")

    assert host_variable(base_url) == variable
    assert find_key(None, base_url, ()) == f"key-of-{variable}"
    monkeypatch.delenv(variable)
    with pytest.raises(InputError, match=f"{variable} is not set"):
        find_key(None, base_url, ())


def one_request(path: Path) -> None:
    body = {"model": "m", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]}
    with TraceWriter(path, TraceHeader(wall_ns=0, mono_ns=0)) as writer:
        for seq, url in enumerate(("/v1/chat/completions", "/v1/messages")):
            writer.request(chat_request(seq, 0, json.dumps(body).encode(), path=url))


def test_the_command_line_takes_all_of_it(
    tmp_path: Path, tbench: Callable[..., Done], simulator: Server
) -> None:
    """A dry run says where its options are from, the run's file as well; a cold cache by cache_salt."""
    one_request(tmp_path / "trace.msgpack")
    (tmp_path / "own.toml").write_text(
        f'[defaults]\ncache = "cold"\n[targets.sim]\nbase_url = "{simulator.url}"\n'
        'cache_by = "cache_salt"\nmodel = "meta-llama/Llama-3.3-70B-Instruct-Turbo"\n'
    )
    words = ("replay", "trace.msgpack", "--settings", "own.toml", "--target", "sim")
    dry = tbench(*words, "--dry-run", TBENCH_SPEED="50")
    done = tbench(*words, "-o", "a.run", "--json", TBENCH_SPEED="50")
    wrong = tbench(*words, TBENCH_SPEED="fast")
    from tbench.replay.runfile import read_run

    header = read_run(tmp_path / "a.run").header
    place = "own.toml [targets.sim]"
    assert dry.code == 0, dry.err
    assert "settings    base_url, cache_by, model from own.toml [targets.sim]" in dry.out
    assert "settings    speed from TBENCH_SPEED" in dry.out
    assert header["settings"] == {
        "base_url": place,
        "cache_by": place,
        "model": place,
        "speed": "TBENCH_SPEED",
        "cache": "own.toml [defaults]",
    }
    assert header["cache"]["by"] == "cache_salt"
    assert done.ended, done.err
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert "TBENCH_SPEED: --speed fast: give a number" in wrong.err


def test_cache_salt_leaves_the_prompt_alone(tmp_path: Path) -> None:
    """Where the API has the field; elsewhere the request is left out, and counted."""
    from tbench.replay.job import resolve

    one_request(tmp_path / "trace.msgpack")
    options = ReplayOptions(
        tmp_path / "trace.msgpack",
        base_url="http://127.0.0.1:9",
        cache="structure",
        cache_by="cache_salt",
    )
    job = resolve(options, send=False)
    plan = job.plan()
    (chat,) = (json.loads(job.target.call(planned).body) for planned in plan)

    assert chat["cache_salt"] == job.target.salt
    assert chat["messages"] == [{"role": "user", "content": "hi"}]
    assert plan.skipped == {"unsalted": 1}, "Messages has no such field"


def test_runs_are_judged_by_their_target(
    tmp_path: Path, tbench: Callable[..., Done], experiment: Callable[..., Any]
) -> None:
    """One pair is compared as ever, repeated runs are held to the margin; each says where it is from."""
    experiment(tmp_path, {"A": 1.0, "B": 1.0}, 3)
    (tmp_path / "own.toml").write_text('[targets.prod]\nslo = "e2e<1.2s"\nmargin = "30%"\n')
    words = ("--target", "prod", "--settings", "own.toml")
    one = tbench("report", "A-0.run", *words)
    pair = tbench("compare", "A-0.run", "B-0.run", *words)
    patterns = tbench("compare", "A-0*", "B-0*", *words)
    for name in "AB":
        (tmp_path / name).mkdir()
        shutil.copy(tmp_path / f"{name}-0.run", tmp_path / name / "0.run")
    folders = tbench("compare", "A", "B", *words)
    arms = tbench("compare", "A-*.run", "B-*.run", *words)
    noise = tbench("compare", "--self-check", "A-*.run", *words)
    plan = tbench("power", "A-*.run", *words)

    assert "(e2e<1.2s)" in one.out
    assert "settings: slo from own.toml [targets.prod]" in one.err
    assert (pair.code, "advisory" in pair.out) == (0, True), pair.err
    assert "settings: margin: one pair of runs gets no verdict" in pair.err
    assert (patterns.code, "advisory" in patterns.out) == (0, True), (
        "a pattern of one run is one run"
    )
    assert (folders.code, "INCONCLUSIVE" in folders.out) == (3, True), "a folder is repeated runs"
    assert (arms.code, "margin 30%" in arms.out) == (0, True), arms.err
    assert f"settings: slo: {UNCOUNTED}" in arms.err
    assert noise.code == 0, noise.err
    assert "gates of 30 %" in plan.out
    assert "settings: margin from own.toml [targets.prod]" in plan.err
