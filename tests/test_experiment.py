"""The plan of an experiment: arms, words, schedule, and the folder that remembers it."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from io import StringIO
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from tbench.abtest import runner
from tbench.abtest.board import AbBoard, latencies
from tbench.abtest.command import _performed, beyond_budget
from tbench.abtest.plan import (
    AbPlan,
    ArmSpec,
    Slot,
    experiment,
    parse_arm,
    read_plan,
    run_name,
    slots,
)
from tbench.abtest.runner import RunResult, opened, perform
from tbench.abtest.verdict import Stopped, so_far, spreads
from tbench.analysis.arms import interleaved
from tbench.analysis.gate import parse_gates
from tbench.analysis.gate_results import evaluate_gates
from tbench.capture.errors import InputError, InvalidRunError
from tbench.replay.cost import Price
from tbench.replay.runfile import Run
from tbench.replay.totals import numbers
from tbench.replay.workers.counters import SharedCounters
from tbench.run_store import Kind, RunStore
from tests.recorded import Columns

ARMS: list[dict[str, Any]] = [{"name": "A"}, {"name": "B", "model": "m/two"}]


def plan(**words: Any) -> AbPlan:
    return experiment({"trace": "t.msgpack", "arm": ARMS, **words})


def test_an_arm_is_what_the_words_say() -> None:
    text = (
        'name=B,model=meta/x,base_url=http://h:1/v1,set.stop=["a","b"],set.max_tokens=64,'
        "map_model.old/one=new,header.X-Team=a,b,api_key_env=KEY"
    )

    assert parse_arm(text) == {
        "name": "B",
        "model": "meta/x",
        "base_url": "http://h:1/v1",
        "set": {"stop": ["a", "b"], "max_tokens": 64},
        "map_model": {"old/one": "new"},
        "header": {"X-Team": "a,b"},
        "api_key_env": "KEY",
    }


@pytest.mark.parametrize("word", ["model=a", "set.top_k=1", "map_model.x=y", "header.x=y"])
def test_an_arm_says_a_thing_once(word: str) -> None:
    """The second would have hidden the first."""
    name, _, value = word.partition("=")
    with pytest.raises(InputError, match=f"--arm: {name} is given twice"):
        parse_arm(f"name=B,{word},cache_by=salt,{name}={value}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"arm": [{"name": "A"}]}, "two arms or more"),
        ({"arm": [{"name": "A"}, {"name": "a"}]}, "the same name"),
        ({"arm": [{"name": "A"}, {"model": "m"}]}, "an arm has no name; write it as 'name=A,"),
        ({"arm": [{"name": "A"}, {"name": "../B"}]}, "needs a name"),
        ({"arm": [{"name": "A"}, {"name": "B", "speed": 2}]}, "no such key speed"),
        ({"arm": [{"name": "A"}, {"name": "B", "model": 2}]}, "model must be a text"),
        ({"arm": [{"name": "A"}, {"name": "B,modle=x"}]}, "no such key modle; there are name"),
        ({"arm": [{"name": "A"}, {"name": "B", "header": {"x": "***"}}]}, "not written down"),
        ({"arm": ["name=A", {"name": "B"}]}, "every arm is a table"),
        ({"repeats": 0}, "--repeats 0: must be at least 1"),
        ({"repeats": 3_000_000}, "--repeats 3,000,000: must be at most 10,000"),
        ({"repeats": 101, "monitor": True}, "take --repeats 100 or fewer"),
        ({"repeats": "5"}, "repeats is '5'; it must be int"),
        ({"repeats": True}, "repeats is True"),
        ({"schedule": "aabb"}, "--schedule aabb: choose one of random, abba, duet"),
        ({"cache": "warm"}, "--cache warm"),
        ({"pause": -1}, "--pause -1"),
        ({"seeds": 1}, "no such key seeds"),
        ({"speed": 2, "rate": 3}, "two pacings"),
        (
            {"schedule": "duet", "max_in_flight": 4},
            "--max-in-flight: the arms of a duet would share",
        ),
        (
            {"schedule": "duet", "concurrency": 4, "gate": ["ttft:p50:5%", "requests_per_s:5%"]},
            "--gate requests_per_s:5%: the arms of a duet share the places",
        ),
        ({"schedule": "duet", "arm": [{"name": f"A{i}"} for i in range(40)]}, "at most"),
    ],
)
def test_a_plan_that_makes_no_sense_says_which_word(words: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said.replace("*", r"\*")):
        plan(**words)


def test_arms_share_the_order_and_have_their_own_target() -> None:
    first, second = (
        arm.order(plan(speed=2, base_url="http://h").order) for arm in plan().treatments
    )

    assert first.speed == second.speed == 2
    assert first.cache == "structure", "an experiment's prompts are new to every cache"
    assert (first.model, second.model) == (None, "m/two")
    assert first.base_url == second.base_url == "http://h"


def test_prices_are_for_all_arms_and_an_arms_own_go_before(tmp_path: Path) -> None:
    """From flags as the command line reads them, from a plan file, and from the plan that a folder keeps."""
    arms = [{"name": "a"}, {"name": "b", "price": {"m": "9/9"}}]
    file = tmp_path / "p.toml"
    file.write_text('trace = "t"\n[price]\nm = "1/2"\nn = "3/4/0.1"\n')
    table = {"m": Price(1, 2), "n": Price(3, 4, 0.1)}
    for words in ({"price": table}, read_plan(file)):
        made = plan(arm=arms, price=words["price"])
        first, second = (arm.order(made.order).price for arm in made.treatments)
        assert first == table
        assert second == {"m": Price(9, 9), "n": Price(3, 4, 0.1)}
        assert json.loads(json.dumps(made.written))["price"] == {"m": "1/2", "n": "3/4/0.1"}


def test_nothing_that_may_be_a_credential_is_written() -> None:
    arms = [
        {"name": "A", "header": {"authorization": "Bearer sk-12345678"}},
        {"name": "B", "set": {"api_key": "sk-87654321", "max_tokens": 4}},
    ]
    text = json.dumps(plan(arm=arms, proxy="http://u:pass@h:1").written)

    assert "sk-" not in text
    assert "pass" not in text
    assert '"max_tokens": 4' in text


@given(
    arms=st.integers(2, 6),
    repeats=st.integers(1, 9),
    kind=st.sampled_from(["random", "abba"]),
    seed=st.integers(0, 2**32),
)
def test_every_two_arms_take_turns(arms: int, repeats: int, kind: Any, seed: int) -> None:
    """By the rule that the gate itself demands, whichever two are compared."""
    order = slots(arms, repeats, kind, seed)
    at = [[i for i, slot in enumerate(order) if slot.arms == (arm,)] for arm in range(arms)]

    assert Counter(len(one) for one in at) == {repeats: arms}
    assert all(interleaved(at[0], at[other]) for other in range(1, arms))
    assert order == slots(arms, repeats, kind, seed)


def test_the_board_ranks_a_timeout_behind_every_answer(repeats: Any) -> None:
    """As the table of a replay does: a fifth of timeouts moves the median, and hides the p95."""
    columns = repeats.columns(100, seed=1)
    columns["outcome"][:20] = "timeout"
    run = repeats.run(columns, 0).run
    arm = ArmSpec(name="A", changes={})
    made = RunResult(slot=Slot(1, (0,)), arm=arm, run=run, numbers=numbers(run), ended="done")
    ttft = np.sort((columns["first_token"] - columns["due"])[20:])

    assert latencies(made)[:2] == [ttft[49], None]


def test_the_board_counts_the_runs_that_were_left() -> None:
    """One that goes on has some already, which are no part of its figures."""
    begun = plan(repeats=3)
    file = StringIO()
    Console(file=file, width=100).print(AbBoard(begun, begun.slots[2:])._drawn(Text("")))

    assert [line.split()[:2] for line in file.getvalue().splitlines()[1:3]] == [
        ["A", "0/2"],
        ["B", "0/2"],
    ]


def test_a_duet_has_every_arm_in_every_slot() -> None:
    assert [slot.arms for slot in slots(3, 2, "duet", 0)] == [(0, 1, 2), (0, 1, 2)]


@given(arms=st.integers(2, 6), repeats=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_after_any_round_no_arm_went_before_another_oftener(
    arms: int, repeats: int, seed: int
) -> None:
    """By more than one round, whichever two are compared; and of any two rounds each has an odd place."""
    order = [slot.arms[0] for slot in slots(arms, repeats, "random", seed)]
    rounds = [order[arms * k : arms * (k + 1)] for k in range(repeats)]

    for seen in range(1, repeats + 1):
        for one, other in combinations(range(arms), 2):
            before = sum(line.index(one) < line.index(other) for line in rounds[:seen])
            assert abs(2 * before - seen) <= 1
    for at in range(0, arms * 2 * (repeats // 2), 2 * arms):
        assert sorted(order[at : at + 2 * arms : 2]) == list(range(arms))


def test_the_order_of_two_rounds_is_drawn() -> None:
    """AB BA or BA AB, each as likely: a rule would let a disturbance keep step with it."""
    firsts = Counter(slot.arms for slot in slots(2, 800, "random", 1)[::4])

    assert sorted(firsts) == [(0,), (1,)]
    assert all(150 < count < 250 for count in firsts.values())


def test_a_plan_file_is_the_words(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(
        'trace = "t.msgpack"\nrepeats = 3\n[[arm]]\nname = "A"\n[[arm]]\nname = "B"\nset = {max_tokens = 5}\n'
    )
    found = experiment(read_plan(tmp_path / "p.toml"))

    assert found.order.trace == tmp_path / "t.msgpack", "beside the plan"
    assert found.repeats == 3
    assert found.treatments[1].changes == {"set": {"max_tokens": 5}}


@pytest.mark.parametrize("text", ["not toml", "= 3", '{"a": 1}'])
def test_a_file_that_is_no_plan_says_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(InputError, match=r"p\.toml: no plan"):
        read_plan(tmp_path / "p.toml")


def test_a_folder_remembers_what_was_made(tmp_path: Path) -> None:
    folder = tmp_path / "ab"
    ledger = opened(folder, plan())
    ledger.write()
    ledger.path("A.1").write_bytes(b"run")
    ledger.note("A.1", "done", 0.5, arm="A", round=1)
    ledger.path("B.1").write_bytes(b"run")
    ledger.note("B.1", "interrupt", 0.25, arm="B", round=1)
    again = opened(folder, plan())

    assert again.done("A.1")
    assert not again.done("B.1")
    assert again.spent == 0.75, "what was set aside was paid for, too"
    assert (folder / "set-aside" / "B.1.run.1").read_bytes() == b"run"
    assert not again.path("B.1").exists()
    assert (folder / "plan.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("begun", "ledger", "expected"),
    [
        ({}, False, ["A.1.run.part"]),
        ({}, True, []),
        ({"max_cost": 2.0}, False, []),
    ],
)
def test_a_run_that_was_killed_without_a_budget_is_named(
    tmp_path: Path, begun: dict[str, float], ledger: bool, expected: list[str]
) -> None:
    """What it cost is known nowhere; once it is set aside, too, and also in a budget that is set later."""
    store = opened(tmp_path / "ab", plan(**begun))
    store.write()
    path = store.path("A.1")
    path.with_name("A.1.run.part").write_bytes(b"what a kill left")
    if ledger:
        store.ledger(path).write_bytes(bytes(64))
    before = opened(tmp_path / "ab", plan(max_cost=5.0))
    lines = beyond_budget(plan(max_cost=5.0), before)

    assert before.uncharged == expected
    assert [
        line.partition(" was killed when there was no --max-cost")[0] for line in lines
    ] == expected
    assert not beyond_budget(plan(), before)
    before.clear(path)
    assert before.uncharged == ["set-aside/A.1.run.part.1"] * len(expected)


def test_a_run_that_nobody_noted_is_set_aside(tmp_path: Path) -> None:
    """A kill between the end of a run and its entry: nothing is lost, nothing counted twice."""
    ledger = opened(tmp_path / "ab", plan())
    ledger.path("A.1").write_bytes(b"one")
    ledger.path("A.1").with_name("A.1.run.part").write_bytes(b"two")
    ledger.clear(ledger.path("A.1"))

    kept = sorted(path.name for path in (tmp_path / "ab" / "set-aside").iterdir())
    assert kept == ["A.1.run.1", "A.1.run.part.1"]
    names = [(entry["run"], entry["ended"]) for entry in opened(tmp_path / "ab", plan()).entries]
    assert names == [(f"set-aside/{name}", "killed") for name in kept]


@pytest.mark.parametrize(
    ("ended", "left"), [("done", "A.1.run"), ("disk", "A.1.run.part"), ("done", None)]
)
def test_an_entry_goes_aside_with_its_run(tmp_path: Path, ended: str, left: str | None) -> None:
    """Of a duet that lost its other run, of a full disk, of a file that is gone: no name of the next run."""
    store = opened(tmp_path / "ab", plan())
    if left:
        (tmp_path / "ab" / left).write_bytes(b"one")
    store.note("A.1", ended, 0.5)
    store.clear(store.path("A.1"))
    store.path("A.1").write_bytes(b"two")
    store.note("A.1", "done", 0.25)
    again = opened(tmp_path / "ab", plan())

    aside, counted = again.entries
    assert (aside["run"], aside["ended"]) == (
        f"set-aside/{left}.1" if left else "set-aside/A.1.run",
        ended,
    )
    assert counted["run"] == "A.1.run"
    assert [again.counts(entry) for entry in (aside, counted)] == [False, True]
    assert again.spent == 0.75


def test_a_kill_before_a_run_began_is_not_the_run_that_comes_next(tmp_path: Path) -> None:
    """In the two requests that go before it: they count, and have no file."""
    store = opened(tmp_path / "ab", plan())
    with SharedCounters.made(1, store.ledger(store.path("A.1")), before=0.25):
        pass
    assert store.spent == 0.25
    store.clear(store.path("A.1"))
    store.path("A.1").write_bytes(b"run")

    assert not store.done("A.1")
    assert not [entry for entry in store.entries if (store.folder / entry["run"]).exists()]
    assert opened(tmp_path / "ab", plan()).spent == 0.25


def test_what_a_benchmark_keeps_beside_its_runs_outlives_each_of_them(tmp_path: Path) -> None:
    """The id of an upload, and the lengths that a server was asked for."""
    kind = Kind(file="b.json", key="options", runs="runs")
    store = RunStore(folder=tmp_path, kind=kind, plan={"seed": 1}, more={"id": "x"})
    store.write()
    store.more["chars_per_token"] = 4.0
    store.path("p").parent.mkdir()
    store.path("p").write_bytes(b"run")
    store.note("p", "done", None)
    again = RunStore.opened(tmp_path, kind, {"seed": 1})

    assert (again.more, again.done("p")) == ({"id": "x", "chars_per_token": 4.0}, True)
    assert json.loads((tmp_path / "b.json").read_text())["options"] == {"seed": 1}


@pytest.mark.parametrize(
    ("words", "said"),
    [({"repeats": 4}, "repeats"), ({"gate": ["ttft:p50:9%"]}, "gate"), ({"seed": 8}, "seed")],
)
def test_a_plan_cannot_change_once_it_began(
    tmp_path: Path, words: dict[str, Any], said: str
) -> None:
    opened(tmp_path / "ab", plan()).write()
    with pytest.raises(InputError, match=f"was begun with {said} "):
        opened(tmp_path / "ab", plan(**words))


def test_what_may_be_spent_can_change(tmp_path: Path) -> None:
    opened(tmp_path / "ab", plan(max_cost=1)).write()

    assert not opened(tmp_path / "ab", plan(max_cost=2)).entries


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"holds files already \(thesis\.tex\)"):
        opened(tmp_path, plan())


Attempt = tuple[tuple[str, str | None], ...]
"""How the runs of a slot end, and why they do not count."""


@pytest.fixture
def performed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[RunStore, Stopped | None, list[str]]]:
    """Perform a plan whose slots end as scripted: its store, what stopped it, what was told of each run."""

    def make(ours: AbPlan, script: Iterable[Attempt]) -> tuple[RunStore, Stopped | None, list[str]]:
        store, attempts = opened(tmp_path / "ab", ours), iter(script)

        def attempt(_plan: object, _store: object, slot: Slot, *_: object) -> list[RunResult]:
            made = []
            for place, (ended, why) in zip(slot.arms, next(attempts), strict=True):
                arm = ours.treatments[place]
                path = store.path(f"{arm.name}.{slot.round}")
                path.write_bytes(b"run")
                totals = {"ended_by": "plan", "cost": {"usd": 0.25}}
                run = Run(path, {}, {}, totals, complete=True)
                figures = {"completed": 9, "failed": 0, "invalid_because": why}
                made.append(RunResult(slot=slot, arm=arm, run=run, numbers=figures, ended=ended))
            return made

        monkeypatch.setattr(runner, "_perform", attempt)
        told: list[str] = []
        stopped = perform(ours, store, lambda _: None, lambda made: told.append(made.ended))
        return store, stopped, told

    return make


@pytest.mark.parametrize("spoilt", [0, 1])
def test_a_duet_of_which_one_arm_is_invalid_counts_for_neither(
    tmp_path: Path, performed: Any, spoilt: int
) -> None:
    """Whichever it is: done again as often as said, set aside, and its cause is what is told."""
    ends: list[tuple[str, str | None]] = [("done", None), ("done", None)]
    ends[spoilt] = ("invalid", "the client was late")
    ours = plan(schedule="duet", repeats=1, redo_invalid=2)
    store, stopped, told = performed(ours, [tuple(ends)] * 3)

    assert told == ["invalid"] * 6, "two arms, three times"
    assert stopped == Stopped(ended="invalid", missing=1, why="the client was late")
    assert store.spent == 1.5
    assert len(list((tmp_path / "ab" / "set-aside").iterdir())) == 6


def test_what_ends_an_experiment_is_not_explained_by_a_run_that_was_done_again(
    performed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the pause is before that one, too."""
    pauses: list[float] = []
    monkeypatch.setattr(runner.time, "sleep", pauses.append)
    script = [(("invalid", "the client was late"),), (("done", None),), (("interrupt", None),)]
    _, stopped, told = performed(plan(repeats=1, redo_invalid=1, pause=5), script)

    assert told == ["invalid", "done", "interrupt"]
    assert stopped == Stopped(ended="interrupt", missing=1, why=None)
    assert [seconds for seconds in pauses if seconds] == [5, 5]


def test_what_ends_an_experiment_is_told_where_only_a_killed_run_was_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill left is set aside, and then no run can be made: an end, and no defect."""
    store = opened(tmp_path / "ab", plan())
    store.write()
    (tmp_path / "ab" / f"{run_name('A', 1)}.run.part").write_bytes(b"run")
    (tmp_path / "ab" / f"{run_name('B', 1)}.run.part").write_bytes(b"run")

    def fail(*_: object, **__: object) -> None:
        raise InvalidRunError("no room")

    monkeypatch.setattr(runner, "resolve", lambda *_, **__: SimpleNamespace(target=None))
    monkeypatch.setattr(runner, "run_duet", fail)
    stopped = _performed(plan(), store)

    assert stopped is not None
    assert (stopped.ended, stopped.why) == ("error", "no room")
    assert so_far(plan(), store, stopped).warnings[0].code == "ENDED_EARLY"


def test_all_runs_of_a_duet_are_told_of_before_the_look_that_stops_it(
    performed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of its last round was made, and counts."""
    monkeypatch.setattr(runner, "early", lambda _, store: store.done("B.3") or None)
    ours = plan(schedule="duet", repeats=4, monitor=True)
    _, stopped, told = performed(ours, [(("done", None),) * 2] * 3)

    assert stopped is None
    assert told == ["done"] * 6


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "no JSON"),
        ("[]", "not a JSON object"),
        ("{}", "it has no plan"),
        ('{"plan": null}', "it has no plan"),
        ('{"plan": 7}', "it.plan is 7"),
        ('{"plan": {}, "runs": null}', "it has no runs"),
        ('{"plan": {}, "runs": [null]}', "it.runs holds null"),
        ('{"plan": {}, "runs": [{"run": "a.run"}]}', r"it.runs\[0\] has no ended"),
        ('{"plan": {}, "runs": [{"run": null, "ended": "done"}]}', r"it.runs\[0\] has no run"),
        (
            '{"plan": {}, "runs": [{"run": "a", "ended": "done", "usd": "1"}]}',
            r"runs\[0\].usd is '1'",
        ),
    ],
)
def test_a_store_that_is_none_is_named_with_what_is_wrong(
    tmp_path: Path, content: str, fault: str
) -> None:
    """Before anything is sent."""
    (tmp_path / "plan.json").write_text(content)

    with pytest.raises(InputError, match=fault + ".*; move it away"):
        RunStore.opened(tmp_path, Kind(file="plan.json", key="plan"), {})


def test_the_spread_beside_the_gates_is_that_of_the_figures_that_they_show(repeats: Any) -> None:
    """Where a run of a closed loop warmed up longer, all are judged without what it has dropped."""

    def warm(columns: Columns) -> None:
        columns["warmup"][:60] = True

    judgement = evaluate_gates(repeats.arms(spoil=warm), parse_gates(None, ["ttft:p50:5%"]))
    (row,), (spread,) = judgement.rows, spreads(judgement)
    logs = [np.log(figures) for figures in (row.baseline_runs, row.candidate_runs)]

    assert spread.n == 440
    assert spread.sd == pytest.approx(np.sqrt(sum(y.var(ddof=1) for y in logs) / 2))


@pytest.mark.parametrize("price", [{"m": 5}, {"m": None}, {"m": ["1/2"]}, 5, "1/2"])
def test_a_price_that_is_no_text_is_bad_input(price: object) -> None:
    """One line that names it."""
    with pytest.raises(InputError, match="price"):
        plan(arm=[{"name": "a"}, {"name": "b"}], price=price)
