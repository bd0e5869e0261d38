"""The HTML report: whole in itself, true to the JSON, drawn by a real browser, deaf to what data says."""

import html.parser
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from tbench.analysis.arms import Arm, load_arm
from tbench.analysis.compare import CompareOptions, compare
from tbench.analysis.report.facts import about, differences, places
from tbench.analysis.report.machine import comparison_json, report_json
from tbench.analysis.report.markup import tag
from tbench.analysis.report.page import comparison_report, run_report
from tbench.capture.exchange import Outcome
from tbench.replay.runfile import RunWriter
from tbench.replay.sample import Sample
from tests.conftest import PATIENCE_S

EVIL = '<script>document.title="broken"</script></td><img src=x onerror=alert(1)>"\'&{{7*7}}'
COMMAND = "tbench compare a.run 'b & <b>.run' --html report.html"


def write_run(path: Path, seed: int, slower: float, *, n: int = 1200, evil: str = "") -> Path:
    """A run of n requests over an hour, with slow swings, a few errors and timeouts."""
    random = np.random.default_rng(seed)
    swing = 0.2 * np.sin(np.arange(n) / n * 20)
    ttft = slower * np.exp(random.normal(-1.6, 0.4, n) + swing)
    gap = slower * 0.02 * np.exp(random.normal(0, 0.1, n))
    tokens = random.integers(20, 200, n)
    header = {
        "trace": {"capture_id": "c1"},
        "pacing": {"mode": "speed", "value": 1.0, "meaning": "as recorded"},
        "target": {"base_url": "http://h", "model": evil or "m"},
        "argv": ["replay", "a b.msgpack"],
    }
    writer = RunWriter(path, header, clock=lambda: 0.0)
    failed = 0
    for i in range(n):
        due = i * 3600 / n
        sent = due + 1e-4 * float(random.random())
        first = sent + float(ttft[i])
        end = first + float(gap[i] * tokens[i])
        stamps: dict[str, Any] = {
            "first_byte": first,
            "first_token": first,
            "first_answer": first,
            "last_token": end,
            "end": end,
            "status": 200,
            "output_tokens": int(tokens[i]),
            "prompt_tokens": 100,
            "token_times": (first, end),
        }
        if i % 97 == 0:
            outcome = Outcome.TIMEOUT if i % 2 else Outcome.HTTP_ERROR
            stamps = {"end": sent + 60, "error": evil or "overloaded", "outcome": outcome}
            failed += 1
        writer.add(
            Sample(
                id=f"r{i}", index=i, endpoint="chat", model=evil or "m", stream=True, due=due,
                sent=sent, warmup=False, **stamps,
            )
        )  # fmt: skip
    return writer.close(
        {
            "planned": n,
            "completed": n - failed,
            "failed": failed,
            "cancelled": 0,
            "lost_in_flight": 0,
            "never_sent": 0,
        }
    )


@pytest.fixture(scope="module")
def arms() -> Iterator[tuple[Arm, Arm]]:
    with TemporaryDirectory() as folder:
        first = write_run(Path(folder, "base.run"), 1, 1.0, evil=EVIL)
        second = write_run(Path(folder, "cand.run"), 2, 1.3, evil=EVIL)
        yield load_arm(first), load_arm(second)


Page = Callable[[str], str]


@pytest.fixture(scope="module")
def page(arms: tuple[Arm, Arm]) -> Page:
    """The pages by name, each made once."""

    @cache
    def make(kind: str) -> str:
        if kind == "run":
            return run_report(arms[0], command=COMMAND).page()
        return comparison_report(compare(*arms), command=COMMAND).page()

    return make


class Reader(html.parser.HTMLParser):
    """The elements of a page as a browser nests them: tags, attributes, exact numbers, texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.replace("\N{NO-BREAK SPACE}", " "))

    def values(self) -> list[float]:
        return [float(a["value"] or "nan") for name, a in self.tags if name == "data"]


KINDS = pytest.mark.parametrize("kind", ["comparison", "run"])


@KINDS
def test_nothing_on_the_page_comes_from_elsewhere(page: Page, kind: str) -> None:
    """No element loads anything, and the policy forbids it to try."""
    reader = Reader(page(kind))
    loading = {"src", "srcset", "href", "data", "action", "poster"}
    asked = [
        a[key]
        for _, a in reader.tags
        for key in loading & a.keys()
        if not (a[key] or "").startswith("#")
    ]
    assert asked == []
    assert not {"link", "iframe", "img", "object"} & {name for name, _ in reader.tags}
    policy = next(a["content"] for _, a in reader.tags if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "@import" not in page(kind).partition("</style>")[0]


@KINDS
def test_data_cannot_become_markup(page: Page, kind: str) -> None:
    """A model's name or an error text with markup in it is shown as it is, and starts no script."""
    reader = Reader(page(kind))
    assert sum(name == "script" for name, _ in reader.tags) == 3
    assert any(EVIL in text for text in reader.texts)
    assert not any("onerror" in a for _, a in reader.tags)


@KINDS
def test_the_page_stays_small(page: Page, kind: str) -> None:
    """The program that draws is most of it."""
    assert len(page(kind).encode()) < 1_700_000


def test_a_million_requests_make_no_larger_page() -> None:
    """Curves, points and time lines have a size of their own, whatever n is."""
    from tbench.analysis import charts

    random = np.random.default_rng(3)
    n = 300_000
    values, times = random.lognormal(size=n), np.arange(n) / 10
    pictures = [
        charts.ecdf("TTFT", "s", {"a": [values], "b": [values * 2]}),
        charts.over_time("TTFT", "s", {"a": [(times, values)], "b": [(times, values * 2)]}),
        charts.in_flight({"a": [(times, times + values)], "b": [(times, times + values)]}),
    ]
    assert sum(len(json.dumps(one.spec)) for one in pictures if one) < 400_000


def test_the_table_holds_the_numbers_of_the_json(arms: tuple[Arm, Arm], page: Page) -> None:
    """Baseline, candidate, ratio and interval of each row, to the last bit."""
    found = comparison_json(compare(*arms))
    reader = Reader(page("comparison").partition('id="all-quantiles-and-rates"')[2])
    values = iter(reader.values())
    spans = iter(a for name, a in reader.tags if name == "span" and a.get("class") == "interval")
    for row in found["comparisons"]:
        for key in ("baseline", "candidate", "ratio"):
            if row[key] is not None:
                assert next(values) == row[key], (row["metric"], row["quantile"], key)
        if row["finding"] is not None:
            ends = next(spans)
            given = [
                None if (end := ends.get(f"data-{side}")) is None else float(end)
                for side in ("low", "high")
            ]
            assert given == row["ci"]


def test_equal_lengths_have_a_table_beside_the_ratios(arms: tuple[Arm, Arm], page: Page) -> None:
    """The ratios of the JSON in a table of its own; a reason where there is none."""
    equal = comparison_json(compare(*arms))["equal_lengths"]
    shown = set(Reader(page("comparison")).values())
    texts = " ".join(Reader(page("comparison")).texts)

    assert {row["ratio"] for row in equal["comparisons"] if row["ratio"] is not None} <= shown
    assert "E2E at equal output lengths (what length explains is taken out; 1,1" in texts
    assert "output length taken out" in texts
    found = compare(*arms)
    assert found.equal_lengths is not None
    refused = replace(found, equal_lengths=replace(found.equal_lengths, rows=(), refusal="no pair"))
    assert "E2E at equal output lengths: no pair" in comparison_report(refused).page()


def test_the_table_of_a_run_holds_the_numbers_of_the_json(
    arms: tuple[Arm, Arm], page: Page
) -> None:
    """Mean, quantiles and maximum of every metric, to the last bit."""
    shown = set(Reader(page("run")).values())
    for summary in report_json(arms[0])["summaries"].values():
        wanted = [summary["mean"], summary["max"]]
        wanted += [q["value"] for q in summary["quantiles"].values() if not q["refusal"]]
        assert {value for value in wanted if value is not None} <= shown


def test_the_verdict_is_said_first_in_plain_words(page: Page) -> None:
    """Before the first chart: the outcome in the title, its ratios, each median with its interval."""
    text = page("comparison").partition("<figure")[0]
    words = " ".join(" ".join(Reader(text.partition("<body")[2]).texts).split())
    assert "cand vs base: slower" in words
    assert re.search(
        r"Slower TTFT 1\.\d+x, E2E 1\.\d+x, TPOT 1\.\d+x at the median \(advisory", words
    )
    assert re.search(r"TTFT p50 \d+ ms → \d+ ms 1\.\d+x \[1\.\d+, 1\.\d+\]", words)
    assert "one pair of runs" in words


def test_a_low_confidence_is_said_with_its_reasons(tmp_path: Path) -> None:
    """Few requests: the sentence says low confidence, and the first screen says why."""
    runs = [write_run(tmp_path / f"{k}.run", k, 1.0 + k, n=300) for k in (0, 1)]
    text = comparison_report(compare(*map(load_arm, runs))).page().partition("<table")[0]
    words = " ".join(Reader(text).texts)
    assert "at the median (advisory, low confidence)" in words
    assert "LOW_CONFIDENCE" in words
    assert "(needs 1,000)" in words


@pytest.mark.parametrize(("n", "rough"), [(300, " ~"), (1200, "")])
def test_a_tile_says_how_sure_its_ratio_is(tmp_path: Path, n: int, rough: str) -> None:
    """Of how many requests it is, and whether its interval is approximate, as the tables do."""
    runs = [write_run(tmp_path / f"{k}.run", k, 1.0 + k, n=n) for k in (0, 1)]
    comparison = compare(*map(load_arm, runs))
    row = next(r for r in comparison.rows if (r.metric, r.quantile) == ("ttft", 0.5))
    tiles = comparison_report(comparison).page().partition('class="tiles"')[2].partition("</ul>")[0]

    assert (row.confidence == "low") == bool(rough)
    words = " ".join("".join(Reader(tiles).texts).split())
    assert f"]{rough}, n {min(row.n_baseline, row.n_candidate):,}" in words


def test_every_number_has_its_method_and_warnings_beside_it(
    arms: tuple[Arm, Arm], page: Page
) -> None:
    """n, interval, confidence, method; a refused quantile says why."""
    text = " ".join(Reader(page("comparison")).texts)
    for row in compare(*arms).rows:
        assert (row.refusal or row.method) in text
        for warning in row.warnings:
            assert warning.code in text
            assert warning.text in text


@KINDS
def test_tables_and_charts_say_what_they_are(page: Page, kind: str) -> None:
    """Captions, column heads, texts in place of charts; and the command that makes the page again."""
    reader = Reader(page(kind))
    names = [name for name, _ in reader.tags]
    assert names.count("caption") == names.count("table") > 3
    assert names.count("figcaption") == names.count("figure") > 3
    assert all(a.get("scope") for name, a in reader.tags if name == "th")
    assert COMMAND in reader.texts
    pictures = json.loads(re.search(r'id="pictures">(.*?)</script>', page(kind), re.DOTALL)[1])  # type: ignore[index]
    assert all(spec["description"] for spec in pictures.values())


def test_arms_with_nothing_to_draw_still_make_a_page(tmp_path: Path) -> None:
    """A run in which everything failed."""
    writer = RunWriter(tmp_path / "a.run", {}, clock=lambda: 0.0)
    writer.add(
        Sample(id="a", index=0, endpoint="chat", model=None, stream=True, due=None, sent=0.0,
               end=1.0, outcome=Outcome.RESET, error="reset")
    )  # fmt: skip
    counts = {"completed": 0, "failed": 1, "cancelled": 0, "lost_in_flight": 0, "never_sent": 0}
    text = run_report(load_arm(writer.close({"planned": 1, **counts}))).page()
    assert "0 of 1 request succeeded" in text
    assert "reset" in text


def test_pictures_say_which_requests_they_are_of(tmp_path: Path) -> None:
    """A timeout in the warm-up, then one that counts; cancelled requests have a share of nothing."""
    late = [Outcome.TIMEOUT, Outcome.TIMEOUT, Outcome.CANCELLED, Outcome.CANCELLED, Outcome.RESET]
    writer = RunWriter(tmp_path / "a.run", {}, clock=lambda: 0.0)
    for i, outcome in enumerate([*late, *[Outcome.OK] * 4]):
        writer.add(
            Sample(id=f"r{i}", index=i, endpoint="chat", model="m", stream=True, due=float(i),
                   sent=float(i), first_token=i + 0.5, last_token=i + 1.0, end=i + 1.0, outcome=outcome)
        )  # fmt: skip
    counts = {"completed": 4, "failed": 3, "cancelled": 2, "lost_in_flight": 0, "never_sent": 0}
    path = writer.close({"planned": 9, "warmup_s": 0.5, **counts})
    page = run_report(load_arm(path))
    failures, course = page.pictures["failures-of-each-run"], page.pictures["ttft-over-time"]

    assert failures.text.endswith("timeout 16.67%, reset 16.67%.")
    assert ">33.33%<" in page.page(), "share failed, of the four that succeeded and the two"
    assert "Ticks at the top: 2 of run timed out. 1 of them in the warm-up: no" in course.note


def test_a_question_about_one_metric_draws_that_metric(arms: tuple[Arm, Arm]) -> None:
    """What was asked is what is shown."""
    text = comparison_report(compare(*arms, CompareOptions(metrics=("output_tokens",)))).page()
    assert "Distribution of output tokens" in text
    assert "Distribution of E2E" not in text


FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run", "--disable-quic"]  # fmt: skip


@pytest.mark.browser
@KINDS
def test_a_browser_draws_every_chart(tmp_path: Path, page: Page, kind: str) -> None:
    """Headless Chromium: no error, no request, no script from the data, every chart has marks."""
    sync = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    file = tmp_path / "report.html"
    file.write_text(page(kind), encoding="utf-8")
    said: list[str] = []
    asked: list[str] = []
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(file.as_uri())
        tab.wait_for_selector("body.drawn", timeout=PATIENCE_S * 1000)
        marks = tab.eval_on_selector_all(
            ".chart",
            "all => all.map(one => one.querySelectorAll('svg .mark-group path, svg path').length)",
        )
        widths = tab.evaluate("[document.body.scrollWidth, window.innerWidth]")
        title = tab.title()
        browser.close()
    assert said == []
    assert asked == [file.as_uri()]
    assert len(marks) >= 4
    assert min(marks) > 3
    assert title != "broken"
    assert widths[0] <= widths[1]
    assert math.isfinite(sum(marks))


def test_a_line_parts_no_number_from_its_unit_and_no_interval() -> None:
    """In sentences; what may be copied, as a command, stays as it is."""
    text = "+0.10 pp [-0.64 pp, +0.64 pp], the 90 % interval of 5 ms (needs 10)"
    gap = "\N{NO-BREAK SPACE}"
    whole = f"+0.10{gap}pp [-0.64{gap}pp,{gap}+0.64{gap}pp], the 90{gap}% interval of 5{gap}ms (needs 10)"

    assert tag("p", text) == f"<p>{whole}</p>"
    assert tag("code", text) == f"<code>{text}</code>"


@KINDS
def test_where_a_chart_needs_javascript_it_says_so(page: Page, kind: str) -> None:
    """In the place of each chart; what it shows is below in words, folded where that is long."""
    chart = re.findall(r'<div id="[^"]*" class="chart"><noscript>[^<]*JavaScript', page(kind))
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page(kind), re.DOTALL)

    assert len(chart) == page(kind).count("<figure") > 3
    assert all("<p>" in one for one in captions)
    assert all(
        ("<details" in one) == (len(re.findall("<p>([^<]*)</p>", one)[0]) > 90) for one in captions
    )


def test_the_first_screen_is_open_and_the_rest_is_folded(page: Page) -> None:
    """The ratios and what to know before trusting them; TTFT and E2E; all else by its heading."""
    text = page("comparison")
    shown, _, folded = text.partition('<details class="part">')

    assert text.index('id="candidate-baseline"') < text.index('id="distributions"')
    assert 'id="distribution-of-ttft"' in shown
    assert 'id="distribution-of-tpot"' in folded
    assert "<table" not in shown
    assert "<section" not in folded
    assert text.count('<details class="part">') >= 8


def test_what_differs_between_the_arms_stands_before_all_else(arms: tuple[Arm, Arm]) -> None:
    """And nothing that is alike; the rest is folded."""
    sides = {"baseline": arms[:1], "candidate": arms[1:]}
    assert "nothing that differs" in differences(sides)

    header = arms[1].run.header
    other = replace(
        arms[1].run, header={**header, "target": {"base_url": "http://other", "model": "m"}}
    )
    shown = differences({**sides, "candidate": (replace(arms[1], run=other),)})
    assert "http://other" in shown
    assert "Pacing" not in shown


def test_a_pair_has_its_baseline_first_whichever_ran_first(arms: tuple[Arm, Arm]) -> None:
    """In every table and legend."""
    late = replace(
        arms[0], run=replace(arms[0].run, header={**arms[0].run.header, "wall_ns": 2 * 10**18})
    )
    soon = replace(
        arms[1], run=replace(arms[1].run, header={**arms[1].run.header, "wall_ns": 10**18})
    )

    found = places({"baseline": (late,), "candidate": (soon,)})
    assert [(place.side, place.order) for place in found] == [("baseline", 2), ("candidate", 1)]
    assert about({"baseline": (late,)})[0].endswith("1,200 requests, 2033-05-18")


@pytest.mark.browser
def test_a_browser_shows_figures_under_the_pointer_and_fits_a_phone(
    tmp_path: Path, page: Page
) -> None:
    """A point says its value with its unit; a phone has the ratio of each quantile and its result whole."""
    sync = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    file = tmp_path / "report.html"
    file.write_text(page("comparison"), encoding="utf-8")
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(file.as_uri())
        tab.wait_for_selector("body.drawn", timeout=PATIENCE_S * 1000)
        tab.locator("#distribution-of-ttft svg .mark-symbol path").first.hover(force=True)
        tab.wait_for_selector("#vg-tooltip-element.visible", timeout=PATIENCE_S * 1000)
        shown = tab.locator("#vg-tooltip-element").inner_text()
        screens = tab.evaluate("document.documentElement.scrollHeight / innerHeight")
        seen = tab.evaluate("document.querySelector('main').innerText.split(/\\s+/).length")
        tab.locator("#ratio-by-quantile-and-more-distributions").click()
        tab.wait_for_function(
            "document.querySelector('#distribution-of-itl svg').clientWidth > 200"
        )
        tab.set_viewport_size({"width": 390, "height": 800})
        table = "details:has(#all-quantiles-and-rates) > .wide"
        tab.locator("#all-quantiles-and-rates").click()
        heads = tab.eval_on_selector(
            table,
            "one => [...one.querySelectorAll('th[scope=col]')].filter(head => head.offsetWidth)"
            ".map(head => head.innerText)",
        )
        cut = tab.eval_on_selector(table, "one => one.scrollWidth - one.clientWidth")
        browser.close()
    assert screens <= 4
    assert seen <= 900
    assert re.search(r"p50\s+value\s+\d+ ms", shown)
    assert heads == ["metric", "quantile", "ratio", "result"]
    assert cut <= 0
