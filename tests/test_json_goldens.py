"""What `--json` says of recorded runs, as it was pinned before the code was put into other rooms.

`fixtures/golden/` holds a trace, an experiment and a benchmark that were really run, and the answers. Nothing
is sent here: each verb reads what is there. A key that goes, goes from the answers in the same commit, with a
line in CHANGELOG.md. `python -m tests.test_json_goldens` writes the answers again; look at the difference.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_tbench

RECORDED = Path(__file__).parents[1] / "fixtures" / "golden"
SERVER = "http://127.0.0.1:8611"
AB = (
    *("ab", "trace.msgpack", "-o", "decision", "--repeats", "3", "--margin", "5%", "--speed", "2"),
    *("--arm", f"name=now,base_url={SERVER}", "--arm", "name=next,base_url=http://127.0.0.1:8612"),
)
BENCHMARK = (
    *("benchmark", "--api-backend", "together", "--api-base", SERVER, "--task", "text-to-text"),
    *("--api-model-name", "meta-llama/Llama-3.3-70B-Instruct-Turbo", "--slo", "ttft<500ms"),
    *("--traffic-scenario", "D(60,8)", "--num-concurrency", "1,4", "--max-requests-per-run", "24"),
    *("--experiment-folder-name", "bench", "--no-summary", "--resume"),
)
COMMANDS: dict[str, tuple[str, ...]] = {
    "ab": AB,
    "benchmark": BENCHMARK,
    "compare": ("compare", "decision/now.1.run", "decision/next.1.run"),
    "compare-gates": ("compare", "decision/now.*.run", "decision/next.*.run", "--margin", "5%"),
    "compare-traces": ("compare", "trace.msgpack", "decision/next.1.run"),
    "report": ("report", "decision/next.1.run"),
    "report-benchmark": ("report", "bench"),
    "report-trace": ("report", "trace.msgpack"),
    "trace-info": ("trace", "info", "trace.msgpack"),
}


def answer(name: str, folder: Path) -> Any:
    """The JSON that a command prints in a folder with the recorded files, its place taken out."""
    shutil.copytree(
        RECORDED, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.answer.json")
    )
    plan = folder / "decision" / "plan.json"
    words = json.loads(plan.read_bytes())
    words["plan"]["trace"] = str(folder / "trace.msgpack")
    plan.write_text(json.dumps(words))
    done = run_tbench(folder, *COMMANDS[name], "--json")
    assert done.out.startswith("{"), done.err
    return json.loads(done.out.replace(str(folder), "DIR"))


def differences(pinned: Any, now: Any, place: str = "") -> list[str]:
    """Where two answers differ: numbers by more than the libraries' last digits, all else at all."""
    match pinned, now:
        case dict(), dict():
            names = [*pinned, *(name for name in now if name not in pinned)]
            parts = (
                differences(pinned.get(name, "absent"), now.get(name, "absent"), f"{place}.{name}")
                for name in names
            )
            return [difference for part in parts for difference in part]
        case list(), list() if len(pinned) == len(now):
            parts = (
                differences(*pair, f"{place}[{i}]")
                for i, pair in enumerate(zip(pinned, now, strict=True))
            )
            return [difference for part in parts for difference in part]
        case float(), int() | float() if now == pytest.approx(pinned, rel=1e-9, abs=1e-12):
            return []
    return [] if pinned == now else [f"{place}: {pinned!r:.80} is now {now!r:.80}"]


@pytest.mark.parametrize("name", COMMANDS)
def test_what_programs_read_stays(name: str, tmp_path: Path) -> None:
    pinned = json.loads((RECORDED / f"{name}.answer.json").read_bytes())
    assert not differences(pinned, answer(name, tmp_path))


def write_answers() -> None:
    """Write what each command says today."""
    for name in COMMANDS:
        with tempfile.TemporaryDirectory() as folder:
            text = json.dumps(answer(name, Path(folder)), indent=1, sort_keys=True)
        (RECORDED / f"{name}.answer.json").write_text(text + "\n")


if __name__ == "__main__":
    write_answers()
