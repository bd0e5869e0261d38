"""The page of repeated runs: true to the JSON, read in five seconds, sound HTML, drawn by a real browser."""

import html.parser
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from tbench.analysis.arms import Replicates
from tbench.analysis.charts import drawing, ratios
from tbench.analysis.compare import compare
from tbench.analysis.gate import parse_gates
from tbench.analysis.gate_results import GateResults, evaluate_gates
from tbench.analysis.interim import Looks, as_monitored, monitor
from tbench.analysis.report import gate_sentences
from tbench.analysis.report.machine import judgement_json
from tbench.analysis.report.page import comparison_report, judgement_report, run_report
from tests.conftest import PATIENCE_S

GATES: Final = parse_gates("5%", ["errors:2pp", "output_tokens_per_s:p50:10%"])
EVIL = '<script>document.title="broken"</script>"\'&{{7*7}}'
COMMAND = "tbench compare 'A-*.run' 'B-*.run' --margin 5% --html 'a & <b>.html'"
VOID = {"meta", "br"}


Experiment = Callable[..., list[Replicates]]


@pytest.fixture(scope="module")
def found(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> GateResults:
    """B is 20 % slower than A, C is as fast and fails; four runs of each."""
    folder = tmp_path_factory.mktemp("runs")
    factors = {"A": 1.0, "B": 1.2, "C": 1.0}
    return evaluate_gates(experiment(folder, factors, 4, failing={"C": 0.06}, model=EVIL), GATES)


@pytest.fixture(scope="module")
def page(found: GateResults) -> str:
    return judgement_report(found, command=COMMAND).page()


@cache
def read(text: str) -> "Reader":
    return Reader(text)


class Reader(html.parser.HTMLParser):
    """The elements of a page as a browser nests them; `faults` says what is not sound."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.faults: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.faults += [f"<{tag}> is never closed" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if len(dict(attrs)) < len(attrs):
            self.faults.append(f"<{tag}> has an attribute twice")
        if tag == "p" and "p" in self._open:
            self.faults.append("<p> in <p>")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._open):
            self.texts.append(data.replace("\N{NO-BREAK SPACE}", " "))

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.texts).split())


def test_the_numbers_are_those_of_the_json(found: GateResults, page: str) -> None:
    """Each gate's figures, change and interval, and each run's figure, to the last bit, in order."""
    reader = read(page.partition('id="gates"')[2])
    values = iter([float(a["value"] or "nan") for name, a in reader.tags if name == "data"])
    spans = iter(a for name, a in reader.tags if name == "span" and a.get("class") == "interval")
    rows = judgement_json(found)["comparisons"]
    for row in rows:
        shown = row["ratio"] if row["quantile"] is not None else row["difference"]
        wanted = [row["baseline"], row["candidate"], shown, row["margin"]]
        assert [next(values) for _ in wanted] == wanted
        ends = next(spans)
        assert [float(str(ends["data-low"])), float(str(ends["data-high"]))] == row["ci"]
    left = list(values)
    for row in rows:
        assert set(row["baseline_runs"]) | set(row["candidate_runs"]) <= set(left)


def test_the_verdict_is_read_first(page: str) -> None:
    """In the title; then the tally and a sentence for each candidate, before anything else is shown."""
    head = read(page.partition('<div class="lead"')[0] + "</main></body></html>").words

    assert re.search(r"FAIL 2 candidates against A: 2 FAIL\.", head)
    assert re.search(
        r"B: FAIL\. B is worse than A by more than the margin: .*TTFT p50 \+\d+\.\d%", head
    )
    assert re.search(
        r"C: FAIL\. C is worse than A by more than the margin: errors \+\d\.\d+ pp", head
    )
    assert "B, C vs A: FAIL" in head
    assert page.index('class="strip bad"') < page.index("<figure") < page.index("<table")


def test_one_candidate_has_its_sentence_under_the_word(
    experiment: Experiment, tmp_path: Path
) -> None:
    """As fast as the baseline at a generous margin: PASS, and what came nearest to it."""
    arms = experiment(tmp_path, {"A": 1.0, "B": 1.0}, 4)
    text = read(judgement_report(evaluate_gates(arms, parse_gates("30%", []))).page()).words

    assert re.search(
        r"PASS B is not worse than A by the margin or more at any of \d gates \(one-sided level 5%\); near",
        text,
    )


def test_runs_that_did_not_take_turns_say_so_in_the_first_sentence(
    experiment: Experiment, tmp_path: Path
) -> None:
    """A reason is a sentence, not a code."""
    arms = experiment(tmp_path, {"A": 1.0, "B": 1.0}, 3, turns=False)
    text = read(judgement_report(evaluate_gates(arms, GATES)).page()).words

    assert (
        "INCONCLUSIVE These runs cannot tell whether B is worse than A: the arms' runs did not take turns"
        in text
    )
    assert "NOT_INTERLEAVED" in text


def test_runs_too_short_for_every_gate_say_so_in_the_first_sentence(
    experiment: Experiment, tmp_path: Path
) -> None:
    """By gate, in words, also under the picture of the failures."""
    arms = experiment(tmp_path, {"A": 1.0, "B": 1.0}, 3, n=30)
    text = read(judgement_report(evaluate_gates(arms, parse_gates("5%", []))).page()).words

    assert (
        "INCONCLUSIVE These runs cannot tell whether B is worse than A: "
        "TTFT p50, E2E p50: not testable: 30 requests in a run, needs 40; " in text
    )
    assert "SKIPPED" not in text


@pytest.mark.parametrize(
    ("gate", "ratio", "figure", "shown"),
    [
        ("ttft:p95:5%", 1.0504, 0.5, "+5.04%"),
        ("ttft:p95:5%", 1.06, 0.5, "+6.0%"),
        ("errors:0.5pp", 0.005001, 0.5, "+0.5001 pp"),
        ("errors<=1%", None, 0.010004, "1.0004%"),
        ("ttft:p95<=500ms", None, 0.5004, "500.4 ms"),
        ("ttft:p95<=500ms", None, 0.51, "510 ms"),
        ("ttft:p95<=500ms", None, None, "-"),
    ],
)
def test_what_misses_its_margin_does_not_look_as_if_it_kept_it(
    found: GateResults, gate: str, ratio: float | None, figure: float | None, shown: str
) -> None:
    known = found.rows[0]
    figures = replace(known.comparison, baseline=0.4, candidate=figure, ratio=ratio)
    row = replace(known, gate=parse_gates(None, [gate])[0], comparison=figures)

    assert gate_sentences.change(row) == shown
    if row.gate.limit is not None:
        assert gate_sentences.sides(row)[1] == shown


def test_two_margins_of_one_quantity_are_two_bars(found: GateResults) -> None:
    """Each under a label of its own."""
    gates = parse_gates(None, ["ttft:p50:5%", "ttft:p50:30%"])
    picture = judgement_report(evaluate_gates(found.arms[:2], gates)).pictures[
        "change-of-each-gated-quantity"
    ]
    labels = {row["label"] for table in picture.tables.values() for row in table if "label" in row}

    assert labels == {"TTFT p50, 5%", "TTFT p50, 30%"}


def test_an_experiment_that_could_stop_early_shows_no_interval(found: GateResults) -> None:
    """Neither in words nor in tables nor in pictures: they are made for experiments of a fixed length."""
    looks = Looks(runs=(4, 8))
    monitored = as_monitored(found, monitor(found, looks, 1))
    report = judgement_report(monitored)
    reader = Reader(report.page())
    spans = [a for name, a in reader.tags if name == "span" and a.get("class") == "interval"]
    shifted = [one for name, one in report.pictures.items() if name.startswith("shift-of")]

    assert spans == []
    assert re.search(r"TTFT p50 \+[\d.]+%, margin 5%", reader.words)
    assert "MONITORED" in reader.words
    assert "Here no change has an interval" in reader.words
    assert "[" not in report.pictures["change-of-each-gated-quantity"].spec["description"]
    assert all("There is no interval" in one.note and "[" not in one.text for one in shifted)


def pages(found: GateResults) -> dict[str, str]:
    first, second = found.arms[0].runs[0], found.arms[2].runs[0]
    return {
        "judgement": judgement_report(found, command=COMMAND).page(),
        "comparison": comparison_report(compare(first, second), command=COMMAND).page(),
        "run": run_report(second, command=COMMAND).page(),
    }


def test_every_page_is_sound_html(found: GateResults) -> None:
    """Elements nest and close, ids are unique, references lead somewhere, headings skip no level."""
    for kind, text in pages(found).items():
        reader = Reader(text)
        ids = [a["id"] for _, a in reader.tags if "id" in a]
        asked = [str(a["href"])[1:] for name, a in reader.tags if name == "a" and "href" in a]
        asked += [str(a["aria-labelledby"]) for _, a in reader.tags if "aria-labelledby" in a]
        levels = [int(name[1]) for name, _ in reader.tags if re.fullmatch(r"h\d", name)]

        assert reader.faults == [], kind
        assert [one for one, count in Counter(ids).items() if count > 1] == [], kind
        assert set(asked) <= set(ids), kind
        assert levels[0] == 1, kind
        assert all(b - a <= 1 for a, b in pairwise(levels)), kind
        assert text.startswith("<!DOCTYPE html>\n<html lang="), kind


def test_tables_have_captions_and_scopes_and_can_be_reached_by_keyboard(page: str) -> None:
    """A screen reader knows what each is; a wide one scrolls without a pointer."""
    reader = read(page)
    names = [name for name, _ in reader.tags]
    regions = [a for name, a in reader.tags if name == "div" and a.get("class") == "wide"]

    assert names.count("caption") == names.count("table") == len(regions) > 10
    assert all(a.get("scope") in {"row", "col"} for name, a in reader.tags if name == "th")
    assert all(a["tabindex"] == "0" and a["role"] == "region" and a["aria-label"] for a in regions)


def test_the_page_has_all_its_sections(page: str) -> None:
    """From the gates to the command that makes it again."""
    reader = read(page)
    text = reader.words
    for title in (
        *("Before you trust it", "Gates", "Each run", "Distributions", "Over time", "Failures"),
        "Ratio by quantile, and more distributions",
        "Fidelity: what the replay preserved",
        *("Slowest requests", "What differs between the runs", "Runs and environment"),
        *("Method", "Command"),
    ):
        assert title in text, title
    assert COMMAND in reader.texts
    assert "http_429" in text
    assert "slow down" in text
    assert "tbench replay t.msgpack -o A-0.run" in text
    assert EVIL in reader.texts


def test_what_differs_between_the_arms_is_marked_and_what_does_not_is_not(page: str) -> None:
    """Targets differ, hosts do not."""
    rows = dict(re.findall(r'<tr><th scope="row">(base_url|cpus)</th>(.*?)</tr>', page))

    assert rows["base_url"].count('class="differs"') == 3
    assert "differs" not in rows["cpus"]


def test_arms_with_the_same_last_name_keep_their_whole_names(
    experiment: Experiment, tmp_path: Path
) -> None:
    """Short names are for reading, not for mixing up."""
    first = experiment(tmp_path / "old", {"A": 1.0, "B": 1.0}, 3)[0]
    second = experiment(tmp_path / "new", {"B": 1.0, "A": 1.0}, 3)[1]
    text = read(judgement_report(evaluate_gates([first, second], GATES)).page()).words

    assert f"{second.name} vs {first.name}" in text


def test_pictures_say_what_they_show(found: GateResults) -> None:
    """A forest, a picture of the runs for every gate, distributions, shifts, time, failures, arrivals."""
    pictures = judgement_report(found).pictures
    titles = [one.title for one in pictures.values()]

    assert titles[:2] == ["Change of each gated quantity", "Change of the error rate"]
    assert {"TTFT p95 of each run", "Error rate of each run", "Distribution of ITL"} <= set(titles)
    assert {"Shift of TTFT, B", "TTFT over time", "Requests in flight"} <= set(titles)
    assert {"Failures of each run", "Distribution of schedule lag"} <= set(titles)
    assert "Arrivals: due and sent" in titles
    assert all(one.spec["description"] and one.text and one.note for one in pictures.values())


@pytest.mark.parametrize(("arms", "repeats", "n"), [("AB", 3, 100_000), ("ABCDE", 12, 100)])
def test_the_page_stays_below_three_megabytes(
    experiment: Experiment, tmp_path: Path, arms: str, repeats: int, n: int
) -> None:
    """Whatever the number of requests, and with many runs and arms."""
    whole = experiment(tmp_path, dict.fromkeys(arms, 1.0), repeats, n=n)
    text = judgement_report(evaluate_gates(whole, parse_gates("5%", ["ttft:p50:5%"]))).page()

    assert len(text.encode()) < 3_000_000


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(c * 2 for c in digits) if len(digits) == 3 else digits
    parts = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def themes() -> Iterator[dict[str, str]]:
    """The colours of the page by name: on the screen light and dark, and on paper."""
    style = files("tbench.analysis.report").joinpath("page.css").read_text()
    for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL):
        yield dict(re.findall(r"--(\w+): (#\w+)", block))


def test_text_has_the_contrast_of_wcag_aa() -> None:
    """4.5:1 for every colour of text on paper and on shade, in all three themes."""
    found = list(themes())

    assert len(found) == 3
    for theme in found:
        for name in ("ink", "quiet", "good", "bad", "unsure", "link"):
            for ground in ("paper", "shade"):
                assert contrast(theme[name], theme[ground]) >= 4.5, (name, ground, theme[name])


def test_marks_have_the_contrast_of_wcag_for_graphics() -> None:
    """3:1 on the paper of every theme, for arms and for verdicts."""
    marks: Sequence[str] = [*drawing.COLOURS, *(colour for colour, _ in ratios.STYLES.values())]
    for theme in themes():
        for colour in marks:
            assert contrast(colour, theme["paper"]) >= 3, (colour, theme["paper"])


FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run", "--disable-quic"]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with sync.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


@pytest.mark.browser
def test_a_browser_draws_every_chart(
    browser: Any, tmp_path: Path, found: GateResults, page: str
) -> None:
    """No word on the console, nothing loaded, every chart has marks and a name; nothing is too wide.

    Light and dark differ in their colours. Tab goes to the skip link, to the contents, to a wide table.
    """
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    said: list[str] = []
    asked: list[str] = []
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(file.as_uri())
    tab.wait_for_selector("body.drawn", timeout=PATIENCE_S * 1000)
    marks = tab.eval_on_selector_all(
        ".chart", "all => all.map(one => one.querySelectorAll('svg .mark-group path, svg path').length)"
    )  # fmt: skip
    spoken = tab.eval_on_selector_all(
        ".chart", "all => all.map(one => one.querySelector('svg [aria-label], svg[aria-label]') !== null)"
    )  # fmt: skip
    colours = []
    for theme in ("light", "dark"):
        tab.emulate_media(color_scheme=theme)
        style = "getComputedStyle(document.body)"
        colours += tab.evaluate(f"[{style}.backgroundColor, {style}.color]")
    reached = []
    for _ in range(20):
        tab.keyboard.press("Tab")
        at = "document.activeElement"
        reached.append(tab.evaluate(f"{at}.getAttribute('href') || {at}.className"))
    wide = tab.evaluate("document.documentElement.scrollWidth")
    tab.set_viewport_size({"width": 390, "height": 800})
    narrow = tab.evaluate("document.documentElement.scrollWidth")
    title = tab.title()
    tab.close()

    assert said == []
    assert asked == [file.as_uri()]
    assert len(marks) == len(judgement_report(found).pictures)
    assert min(marks) > 3
    assert all(spoken)
    assert (wide, narrow) == (1280, 390)
    assert len(set(colours)) == 4
    assert reached[0] == "#results"
    assert "wide" in reached
    assert title == "B, C vs A: FAIL"
    assert math.isfinite(sum(marks))


@pytest.mark.browser
def test_without_scripts_verdict_and_tables_are_there(
    browser: Any, tmp_path: Path, page: str
) -> None:
    """And the page says why there are no charts."""
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(file.as_uri())
    shown = tab.locator("body").inner_text()
    rows = tab.locator("table tbody tr").count()
    context.close()

    assert "FAIL" in shown
    assert "B is worse than A by more than the margin" in shown
    assert shown.count("This chart needs JavaScript") > 3
    assert rows > 50


def test_arms_keep_their_name_and_colour_whoever_ran_first(
    experiment: Experiment, tmp_path: Path
) -> None:
    """The baseline comes first in every legend, and so has the first colour; the tables have its name."""
    first, second = experiment(tmp_path, {"A": 1.0, "B": 1.2}, 4)
    report = judgement_report(evaluate_gates((first, second), GATES))
    domains = [
        tuple(scale["domain"])
        for picture in report.pictures.values()
        for scale in _scales(picture.chart.to_dict())
    ]

    assert second.started_ns[0] < first.started_ns[0], "the candidate ran first"
    assert len(domains) > 10
    assert set(domains) == {("A", "B")}
    gates = str(report.parts[0].body)
    assert gates.index(">A</th>") < gates.index(">B</th>")
    assert ">candidate</th>" not in gates


def _scales(spec: Any) -> Iterator[dict[str, Any]]:
    """Every scale of colours that names arms."""
    for part in spec.get("layer", [spec]):
        scale = part.get("encoding", {}).get("color", {}).get("scale") or {}
        if set(scale.get("domain", ())) & {"A", "B"}:
            yield scale
