"""What came from a file or a server never steers the terminal, whichever verb shows it."""

import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from tbench.__main__ import run as tbench
from tbench.analysis.report.text import Sheet, grid
from tbench.benchmark.board import Log
from tbench.capture import Exchange, Outcome, Response, TraceHeader, TraceWriter
from tbench.capture.console import Console
from tbench.capture.terminal import Guard, escaped, named
from tbench.replay.runfile import RunWriter
from tbench.replay.sample import Sample
from tests.benchmark_folder import BenchmarkFolder
from tests.conftest import PATIENCE_S
from tests.recorded import chat_request

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
ALONE = [*map(chr, range(0x0A)), *map(chr, range(0x0B, 0x20)), *map(chr, range(0x7F, 0xA0)), *BIDI,
         "\u2028", "\u2029"]  # fmt: skip
SEQUENCES = (
    "]0;owned\x07", "]0;owned\x1b\\", "]52;c;cm0gLXJm\x07", "]8;;http://evil\x1b\\here\x1b]8;;\x1b\\",
    "[2J", "[H", "[31mred", "[8mhidden", "[?1049h", "[6n", "c", "[1A[2K", "P+q\x1b\\", "_x\x1b\\", "^x\x1b\\",
    "(0", "[20t", "[200~rm -rf\x1b[201~",
)  # fmt: skip
OTHERS = (
    "\x9b31m", "\x9d0;t\x9c", "a\rb", "\x08\x08\x08", "\x0e\x0f", "[red]x[/red]", "[/x]", ":bomb:", "\ud800"
)  # fmt: skip
HOSTILE = [
    f"n{number}{one}"
    for number, one in enumerate(
        [*ALONE, *(esc + one for esc in ("\x1b", "\x1b\x1b", "\x00\x1b") for one in SEQUENCES), *OTHERS,
         *(f"{one}\x1b[2J" for one in ALONE)]
    )
]  # fmt: skip
NASTY = "\x1b]0;t\x07\x1b[2J\x9b31m\x00\x7f\u202e\u2066\u2028\u061c\x85\r\t\x1b[31mEVIL"
STEERING = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
OURS = re.compile(r"\x1b\[(?!31mEVIL)[0-9;]*m|\x1b\[\?25[lh]|\x1b\[\d*[AK]|\r(?=\n|\x1b)|\r")
"""What rich writes on a terminal: colours, the cursor, a line cleared; the kernel's line ends."""


def harmless(text: str) -> None:
    assert not (hit := STEERING.search(text)), repr(text[max(0, hit.start() - 40) :][:120])


def exchanges(names: list[str], status: int = 200) -> Iterator[Exchange]:
    """One for each name, which stands everywhere that a client or a server can put it."""
    for i, name in enumerate(names):
        body = json.dumps({"model": name, "messages": [{"role": "user", "content": name}]}).encode()
        answer = {
            "model": name,
            "choices": [{"index": 0, "message": {"content": name}, "finish_reason": name}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
        }
        said = json.dumps({"error": {"message": name}} if status >= 400 else answer).encode()
        yield Exchange(
            request=chat_request(i, (i + 1) * 10 ** 8, body, id=f"r{i}"),
            response=Response(
                head_ns=(i + 2) * 10**8, end_ns=(i + 2) * 10**8, status=status, body=said,
                body_bytes=len(said), headers=(("content-type", "application/json"), ("x-request-id", "é")),
                outcome=Outcome.OK if status < 400 else Outcome.HTTP_ERROR,
            ),
        )  # fmt: skip


def trace_file(path: Path, names: list[str]) -> Path:
    with TraceWriter(
        path, TraceHeader(wall_ns=10**18, mono_ns=0, upstream=f"https://{NASTY}")
    ) as writer:
        for one in exchanges(names):
            writer.exchange(one)
    return path


def run_file(path: Path, name: str, outcome: Outcome = Outcome.OK) -> Path:
    """A run of 40 whose header and every sample hold the name."""
    header = {
        "wall_ns": 10**18, "trace": {"capture_id": name, "path": name},
        "pacing": {"mode": "speed", "value": 1.0, "meaning": name, "open_loop": True},
        "target": {"base_url": name, "sender": name, "api_key_env": name, "model": name},
        "host": {"cpus": 2, "python": name}, "argv": ["replay", name],
    }  # fmt: skip
    writer = RunWriter(path, header, clock=lambda: 0.0)
    for k in range(40):
        writer.add(
            Sample(
                id=f"{name}{k}", index=k, endpoint=name, model=name, stream=True, due=k * 0.1, sent=k * 0.1,
                first_token=k * 0.1 + 0.03, last_token=k * 0.1 + 0.2, end=k * 0.1 + 0.2, status=200,
                sent_wall_ns=10**18, output_tokens=9, outcome=outcome, error=name, finish_reason=name,
            )
        )  # fmt: skip
    ok = 40 if outcome is Outcome.OK else 0
    return writer.close(
        {"planned": 40, "completed": ok, "failed": 40 - ok, "cancelled": 0, "lost_in_flight": 0,
         "never_sent": 0, "skipped": {name: 3}}
    )  # fmt: skip


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def traced(at: Path, names: list[str]) -> Path:
    return trace_file(at / "t.msgpack", names)


def ran(at: Path, name: str = "a.run") -> Path:
    return run_file(at / name, NASTY)


def benchmark(path: Path) -> list[Any]:
    """The option that names a genai-bench folder whose every word steers."""
    folder = BenchmarkFolder(path).metadata(
        traffic_scenario=[NASTY], api_model_name=NASTY, server_engine=NASTY
    )
    folder.point("D(1,1)", 1)
    return ["--experiments-folder", path]


def nasty_name(folder: Path) -> Path:
    """A file whose name steers, as far as a file system takes it."""
    return folder / NASTY.replace("\x00", "")


Make = Callable[[Path], list[Any]]
SYNTH = ["trace", "synth", "-o", "/nowhere/t", "--model", "m", "--requests", 3]
PLACES: dict[str, Make] = {
    "info": lambda at: ["trace", "info", traced(at, HOSTILE)],
    "info as JSON": lambda at: ["trace", "info", "--json", traced(at, HOSTILE)],
    "head": lambda at: ["trace", "head", traced(at, HOSTILE), "-n", 300],
    "bodies": lambda at: ["trace", "head", traced(at, HOSTILE), "-n", 300, "--bodies"],
    "check": lambda at: ["trace", "check", trace_file(nasty_name(at), ["m"])],
    "dry run": lambda at: ["replay", traced(at, HOSTILE), "--dry-run"],
    "dry run of one": lambda at: ["replay", traced(at, [NASTY]), "--dry-run"],
    "report of a trace": lambda at: ["report", traced(at, [NASTY] * 9)],
    "report of all": lambda at: ["report", traced(at, HOSTILE)],
    "report": lambda at: ["report", ran(at)],
    "report as JSON": lambda at: ["report", "--json", "--samples", ran(at)],
    "report of failures": lambda at: ["report", run_file(at / "a.run", NASTY, Outcome.CUT)],
    "report of a name": lambda at: ["report", run_file(nasty_name(at), NASTY)],
    "compare": lambda at: ["compare", ran(at), ran(at, "b.run")],
    "compare as JSON": lambda at: ["compare", "--json", ran(at), ran(at, "b.run")],
    "compare in Markdown": lambda at: ["compare", "--markdown", "-", ran(at), ran(at, "\u202e.run")],
    "power": lambda at: ["power", ran(at)],
    "a difference": lambda at: ["trace", "diff", traced(at, HOSTILE), trace_file(at / "u", [NASTY])],
    "two mixes": lambda at: ["trace", "compare", traced(at, HOSTILE), trace_file(at / "u", [NASTY])],
    "parts by model": lambda at: ["trace", "split", traced(at, HOSTILE), "--by", "model", "-o", at / "p"],
    "what is sent": lambda at: ["replay", traced(at, [NASTY]), "--dry-run", "--only", NASTY],
    "an import": lambda at: [
        "trace", "import", written(at / "h.csv", f'"{NASTY}",b\n1,2\n'), "-o", at / "i.msgpack",
    ],
    "an import's column": lambda at: [
        "trace", "import", written(at / "h.csv", "a,b\n1,2\n"), "--map", f"model={NASTY}", "-o", at / "i.m",
    ],
    "settings": lambda at: [
        "replay", traced(at, ["m"]), "--dry-run",
        "--settings", written(at / "tbench.toml", f"[defaults]\nspeed = {json.dumps(NASTY)}\n"),
    ],
    "no such file": lambda at: ["report", nasty_name(at)],
    "a plan": lambda at: [
        "ab", "--dry-run", "--plan", written(at / "p.toml", f'{json.dumps(NASTY)} = "x"'),
    ],
    "an arm": lambda at: [
        "ab", traced(at, ["m"]), "--dry-run", "-o", at / "o", "--arm", "name=B,base_url=http://h",
        "--arm", f"name={NASTY[5:]},base_url=http://h",
    ],
    "scenarios": lambda at: ["plot", *benchmark(at / "x"), "--format", "svg"],
    "fields": lambda at: ["plot", *benchmark(at / "x"), "--list-fields"],
    "a folder's name": lambda at: ["plot", *benchmark(nasty_name(at)), "--verbose", "--validate-only"],
    "a workbook": lambda at: ["excel", "--experiment-folder", benchmark(at / "x")[1], "--excel-name", "b"],
    "a layout": lambda at: [
        "plot", *benchmark(at / "x"), "--plot-config", written(at / "l.json", {NASTY: 1}),
    ],
    "a filter": lambda at: [
        "plot", *benchmark(at / "x"), "--filter-criteria", json.dumps({NASTY: NASTY}),
    ],
    "a column": lambda at: [
        *SYNTH, "--dataset-path", written(at / "d.csv", f'"{NASTY}"\n1\n'), "--dataset-prompt-column", "c",
    ],
    "a dataset": lambda at: [
        *SYNTH, "--dataset-path", written(nasty_name(at).with_suffix(".json"), [{NASTY: 3}]),
    ],
    "a dataset's plan": lambda at: [
        *SYNTH, "--dataset-config", written(at / "c.json", {NASTY: 1, "source": {"type": NASTY}}),
    ],
    "a tokenizer": lambda at: [
        *SYNTH, "--scenario", "D(9,9)",
        "--model-tokenizer", written(at / "tokenizer.json", {"model": {"type": NASTY}}),
    ],
}  # fmt: skip
"""Where words of files are shown -> the command that shows them."""


@pytest.mark.parametrize("place", PLACES)
def test_no_word_of_a_file_steers(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stdout and stderr hold no control character but newline, and no mark of direction."""
    words = list(map(str, PLACES[place](tmp_path)))
    code = tbench(words)

    said = capsys.readouterr()
    harmless(said.out)
    harmless(said.err)
    assert said.out + said.err
    assert code != 70, said.err
    if "--json" in words:
        json.loads(said.out)


class _Hostile(BaseHTTPRequestHandler):
    """Answers with the status that the path's first folder names, in hostile words."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        status = int(self.path.split("/")[1])
        body = json.dumps({"error": {"message": NASTY, "type": NASTY, "code": NASTY}}).encode()
        if status == 200:
            body = json.dumps(
                {"model": NASTY, "id": NASTY, "usage": {"prompt_tokens": 9, "completion_tokens": 3},
                 "choices": [{"index": 0, "message": {"content": NASTY}, "finish_reason": NASTY}]}
            ).encode()  # fmt: skip
        self.send_response(status, "\u0085\u009b2J")
        self.send_header("content-type", "application/json")
        self.send_header("x-request-id", "\u009b2J\u009d0;t")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (theirs)
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server that means harm; its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hostile) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{one.server_port}"
        one.shutdown()


def on_terminal(arguments: list[Any]) -> str:
    """What a terminal gets from the command: stdout and stderr, until it ends."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tbench", *map(str, arguments)]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True,
        env={**os.environ, "TERM": "xterm-256color", "TOGETHER_API_KEY": "k" * 12},
    )  # fmt: skip
    os.close(theirs)
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(ours)
    assert process.wait(PATIENCE_S) != 70
    return b"".join(parts).decode("utf-8", "surrogateescape")


@pytest.mark.parametrize("status", [200, 400, 401, 429, 503])
def test_no_word_of_a_server_steers(status: int, server: str, tmp_path: Path) -> None:
    """On a terminal, in the end's one line and in the report, there are only our own colours."""
    trace = trace_file(tmp_path / "t.msgpack", [NASTY] * 3)
    run = tmp_path / "a.run"
    base = f"{server}/{status}"
    said = on_terminal(["replay", trace, "--base-url", base, "--concurrency", 2, "-o", run])
    said += on_terminal(["report", run])

    harmless(OURS.sub("", said))
    assert r"\x1b" in said


def test_no_word_of_a_server_steers_a_benchmark(server: str, tmp_path: Path) -> None:
    """Neither the lines of the calibration nor the log."""
    said = subprocess.run(
        [sys.executable, "-m", "tbench", "benchmark", "--api-backend", "together", "--task", "text-to-text",
         "--api-base", f"{server}/400", "--api-model-name", "m", "--num-concurrency", "1", "--no-summary",
         "--traffic-scenario", "D(9,9)", "--max-requests-per-run", "2", "--experiment-folder-name", "x"],
        cwd=tmp_path, capture_output=True, timeout=PATIENCE_S, check=False,
        env={**os.environ, "TOGETHER_API_KEY": "k" * 12},
    )  # fmt: skip

    harmless((said.stdout + said.stderr).decode())
    assert rb"\x1b" in said.stderr
    for log in tmp_path.rglob("benchmark.log"):
        harmless(log.read_text())


def test_what_steers_is_made_visible() -> None:
    """By the stream that every verb prints to, by the console of every table, and in a log."""
    for text in HOSTILE:
        stream = StringIO()
        print(text, file=Guard(stream))
        console = Console(file=stream, width=100)
        console.print(text)
        console.print(Text(text))
        table = grid("name", text, left=frozenset({0}))
        table.add_row(text, Text(text))
        console.print(table)
        page = Sheet(100, colour=False)
        page.line(text)
        page.paragraph(text)
        page.table(table)
        Log(stream, show=page.line).say(text)

        harmless(stream.getvalue() + page.text)
        assert escaped(text) in page.text
    assert len(HOSTILE) >= 200


def test_escapes_are_those_of_json() -> None:
    """A line of JSON that holds bare marks is the same value after the guard."""
    value = {"model": "a\u202eb\x7f\u2028\x9b"}

    assert json.loads(escaped(json.dumps(value, ensure_ascii=False))) == value


def test_long_names_are_cut_and_say_so() -> None:
    """Nothing is left out in silence."""
    assert named("m" * 30_000) == "m" * 120 + "… (29,880 more characters)"
