"""tbench benchmark from the command line: points, results, and going on with a folder."""

import json
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from tbench.benchmark.conduct import out_of_reach
from tbench.replay.runfile import read_run
from tests.answering import EVENTS, Given, Received, answering, stream
from tests.conftest import PATIENCE_S, Done, Server, until
from tests.forked import Command

MODEL = "openai/gpt-oss-20b"


def words(url: str, *more: object, task: str = "text-to-text", model: str = MODEL) -> list[object]:
    return [*words_with_summary(url, *more, task=task, model=model), "--no-summary"]


def words_with_summary(
    url: str, *more: object, task: str = "text-to-text", model: str = MODEL
) -> list[object]:
    return [
        "benchmark", "--api-backend", "together", "--api-base", url, "--api-model-name", model,
        "--task", task, "--max-requests-per-run", 12, "--experiment-folder-name", "x", *more,
    ]  # fmt: skip


def results(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*_time_*s.json"))]
    return sorted(found, key=lambda one: one["aggregated_metrics"]["num_concurrency"])


def test_a_sweep_makes_a_result_for_each_point(
    tbench: Callable[..., Done], simulator: Server, tmp_path: Path
) -> None:
    done = tbench(
        *words_with_summary(
            simulator.url, "--num-concurrency", "1,3", "--traffic-scenario", "D(100,8)", "--json"
        )
    )
    points = json.loads(done.out)["points"]
    first, second = (one["aggregated_metrics"] for one in results(tmp_path / "x"))
    metadata = json.loads((tmp_path / "x" / "experiment_metadata.json").read_text())

    assert done.ended, done.err
    assert [point["num_concurrency"] for point in points] == [1, 3]
    assert (first["num_completed_requests"], first["error_rate"]) == (12, 0.0)
    assert first["stats"]["num_output_tokens"]["mean"] == 8, "ignore_eos and max_tokens"
    assert 100 <= first["stats"]["num_input_tokens"]["mean"] <= 112, "100 and a template"
    assert second["scenario"] == "D(100,8)"
    assert metadata["num_concurrency"] == [1, 3]
    assert metadata["traffic_scenario"] == ["D(100,8)"]
    assert len(list((tmp_path / "x" / "runs").glob("*.run"))) == 2
    assert (tmp_path / "x" / "x_summary.xlsx").read_bytes().startswith(b"PK")
    assert len(list((tmp_path / "x").glob("*_combined_plots_2x4.png"))) == 1
    assert "characters a token, by the server's counts" in done.err


def test_what_a_full_disk_does_not_take_ends_no_benchmark(
    tbench: Callable[..., Done], simulator: Server, tokenizer_file: Path, tmp_path: Path
) -> None:
    """Neither the log, whose disk takes nothing, nor a workbook in whose place a folder is."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "benchmark.log").symlink_to("/dev/full")
    more = ("--num-concurrency", "1", "--traffic-scenario", "D(9,2)", "--model-tokenizer")
    made = tbench(*words(simulator.url, *more, tokenizer_file, "--log-dir", "logs"))
    (tmp_path / "x" / "x_summary.xlsx").mkdir()
    again = tbench(*words_with_summary(simulator.url, *more, tokenizer_file, "--resume", "--json"))

    assert made.ended, made.err
    assert made.err.count("takes no more lines (No space left on device)") == 1
    assert again.code == 4, "no bad usage: everything was sent"
    assert "x_summary.xlsx: cannot be written" in again.err
    assert len(json.loads(again.out)["points"]) == 1


def test_no_two_points_send_the_same_prompts(
    tbench: Callable[..., Done], simulator: Server, tmp_path: Path
) -> None:
    tbench(*words(simulator.url, "--num-concurrency", "1,2", "--traffic-scenario", "D(50,4)"))
    first, second = (
        set(read_run(path).columns["id"].tolist()) for path in (tmp_path / "x" / "runs").iterdir()
    )

    assert len(first) == len(second) == 12
    assert not first & second


def test_embeddings_sweep_their_batch_size(
    tbench: Callable[..., Done], simulator: Server, tmp_path: Path
) -> None:
    done = tbench(
        *words(
            simulator.url, "--batch-size", "1,2", "--traffic-scenario", "E(32)",
            task="text-to-embeddings", model="intfloat/multilingual-e5-large-instruct",
        )
    )  # fmt: skip
    tokens = {
        one["aggregated_metrics"]["batch_size"]: one["aggregated_metrics"]["stats"][
            "num_input_tokens"
        ]["mean"]
        for one in results(tmp_path / "x")
    }

    assert done.ended, done.err
    assert tokens[2] == pytest.approx(2 * tokens[1], rel=0.02)


@pytest.mark.parametrize("api", ["messages", "responses"])
def test_another_api_is_asked_for_the_same_work(
    tbench: Callable[..., Done], serve: Callable[..., Server], tmp_path: Path, api: str
) -> None:
    """The server knows which endpoint it was asked at, what it read and what it wrote."""
    server = serve("serve", "--port", 0, "--profile", "fast")
    words_of_api = ("--api", api, "--num-concurrency", 2, "--traffic-scenario", "D(100,8)")
    done = tbench(*words(server.url, *words_of_api))
    (metrics,) = (point["aggregated_metrics"] for point in results(tmp_path / "x"))
    *calibration, last = [httpx.get(f"{server.url}/_truth").json()[at : at + 12] for at in (0, 12)]

    assert done.ended, done.err
    assert {row["endpoint"] for rows in (*calibration, last) for row in rows} == {api}
    for side in ("prompt", "output"):
        name = f"num_{side.replace('prompt', 'input')}_tokens"
        assert metrics["stats"][name]["mean"] * 12 == sum(row[f"{side}_tokens"] for row in last)
    assert metrics["stats"]["num_output_tokens"]["mean"] == 8
    assert 100 <= metrics["stats"]["num_input_tokens"]["mean"] <= 112, "100 and a template"
    assert metrics["warnings"] == []
    assert read_run(next((tmp_path / "x" / "runs").iterdir())).columns["cached_tokens"].min() >= 0


def test_a_key_goes_where_its_api_has_it(tbench: Callable[..., Done]) -> None:
    """Messages: `x-api-key`, with the version that Anthropic demands. Answers shorter than asked are told."""
    usage = {"input_tokens": 20, "output_tokens": 3}
    message = {"type": "message", "content": [], "stop_reason": "end_turn", "usage": usage}
    given = Given([json.dumps(message).encode()])
    with answering(lambda _: given) as server:
        words_of_api = ("--api", "messages", "--rate", 50, "--traffic-scenario", "D(20,8)")
        done = tbench(*words(server.url, *words_of_api), TOGETHER_API_KEY="sk-of-this-test")

    assert done.ended, done.err
    assert {request.path for request in server.received} == {"/v1/messages"}
    for request in server.received:
        assert request.headers["x-api-key"] == "sk-of-this-test"
        assert request.headers["anthropic-version"] == "2023-06-01"
        assert "authorization" not in request.headers
    assert "answers have 3 output tokens on average where the scenario asks for 8" in done.err


def test_tasks_with_one_api_have_no_other(tbench: Callable[..., Done]) -> None:
    """Before anything is sent."""
    done = tbench(*words("http://127.0.0.1:9", "--api", "messages", task="text-to-rerank"))

    assert (done.code, "text-to-rerank has an API of its own" in done.err) == (2, True)


def test_an_open_loop_at_a_rate(
    tbench: Callable[..., Done], simulator: Server, tmp_path: Path
) -> None:
    done = tbench(*words(simulator.url, "--poisson", "30", "--traffic-scenario", "D(20,4)"))
    (one,) = results(tmp_path / "x")

    assert done.ended, done.err
    assert one["aggregated_metrics"]["request_rate"] == 30
    assert one["aggregated_metrics"]["iteration_type"] == "poisson"


def test_the_saturation_is_searched(
    tbench: Callable[..., Done], serve: Callable[..., Server], tmp_path: Path
) -> None:
    """A server that takes two at a time: with more in flight the third waits."""
    profile = tmp_path / "two.toml"
    profile.write_text("[engine]\nmax_batch = 2\n")
    server = serve("serve", "--port", 0, "--profile", profile)
    done = tbench(
        *words(server.url, "--saturate", "--slo", "ttft<250ms", "--slo-share", "90%"),
        "--num-concurrency", "1", "--traffic-scenario", "D(20,60)",
    )  # fmt: skip
    kept = {
        one["aggregated_metrics"]["num_concurrency"]: one["aggregated_metrics"]["goodput"] >= 0.9
        for one in results(tmp_path / "x")
    }
    best = max(value for value, good in kept.items() if good)

    assert done.ended, done.err
    assert 2 <= best <= 4
    assert not kept[min(value for value in kept if value > best)]
    assert f"num_concurrency {best} keeps ttft<250ms" in done.err


def test_a_point_that_fails_is_a_result(
    tbench: Callable[..., Done], serve: Callable[..., Server], tmp_path: Path
) -> None:
    """Half of all requests are refused: rates and codes are right, and the sweep goes on."""
    server = serve("serve", "--port", 0, "--fault", "429=0.5", "--seed", 4)
    done = tbench(
        *words(server.url, "--num-concurrency", "1,2", "--traffic-scenario", "D(20,4)"),
    )
    first, second = (one["aggregated_metrics"] for one in results(tmp_path / "x"))

    assert done.ended, done.err
    assert 0 < first["error_rate"] < 1
    assert first["error_codes_frequency"] == {"429": first["num_error_requests"]}
    assert first["num_requests"] == second["num_requests"] == 12


def test_a_scenario_that_the_server_refuses_does_not_end_the_others(
    tbench: Callable[..., Done], simulator: Server, tokenizer_file: Path, tmp_path: Path
) -> None:
    """Prompts that are too long for the model, in the first point: it is a result, and the next is made."""
    more = (
        "--num-concurrency",
        "1",
        "--max-requests-per-run",
        2,
        "--model-tokenizer",
        tokenizer_file,
    )
    long, short = ("--traffic-scenario", "D(140000,2)"), ("--traffic-scenario", "D(9,2)")
    done = tbench(*words(simulator.url, *more, *long, *short))
    rates = {
        one["aggregated_metrics"]["scenario"]: one["aggregated_metrics"]["error_rate"]
        for one in results(tmp_path / "x")
    }
    alone = tbench(*words(simulator.url, *more, *long, "--experiment-folder-name", "y"))

    assert done.ended, done.err
    assert rates == {"D(140000,2)": 1.0, "D(9,2)": 0.0}
    assert alone.code == 5, "nothing succeeded; the result is kept"
    assert "no request succeeded in any point: http_400" in alone.err
    assert len(results(tmp_path / "y")) == 1


def test_nobody_there_ends_it(tbench: Callable[..., Done]) -> None:
    done = tbench(*words("http://127.0.0.1:9", "--model", "m"))

    assert done.code == 5
    assert "cannot connect" in done.err
    assert "nan" not in done.err
    assert "raise --max-requests-per-run" not in done.err, "more requests would not connect either"


def test_a_folder_is_gone_on_with(
    tbench: Callable[..., Done], serve: Callable[..., Server], tmp_path: Path
) -> None:
    """Points that are there are not made again; other options than those that made them are refused."""
    server = serve("serve", "--port", 0)
    scenario = ("--traffic-scenario", "D(20,4)")
    tbench(*words(server.url, "--num-concurrency", "1", *scenario))
    again = tbench(*words(server.url, "--num-concurrency", "1", *scenario))
    more = tbench(*words(server.url, "--num-concurrency", "1,2", *scenario, "--resume"))
    other = tbench(*words(server.url, "--seed", "1", *scenario, "--resume"))
    api = tbench(*words(server.url, "--api", "messages", *scenario, "--resume"))
    for trace in (tmp_path / "x" / "traces").iterdir():
        trace.unlink()
    gone = tbench(*words(server.url, "--num-concurrency", "1", *scenario, "--resume"))

    assert again.code == 2
    assert "--resume" in again.err
    assert more.ended, more.err
    assert more.err.count("was there already") == 1
    assert len(results(tmp_path / "x")) == 2
    assert other.code == 2
    assert "--seed 0, not 1" in other.err
    assert "--api chat, not messages" in api.err
    assert gone.code == 2
    assert "is gone" in gone.err
    assert "move that run away" in gone.err


def test_a_key_is_written_nowhere(
    tbench: Callable[..., Done], simulator: Server, tmp_path: Path
) -> None:
    key = "tgp_v1_abcdefghijklmnop"
    done = tbench(
        *words(simulator.url, "--num-concurrency", "1", "--traffic-scenario", "D(20,4)"),
        "--api-key", key, TOGETHER_API_KEY="",
    )  # fmt: skip
    files = [path for path in (tmp_path / "x").rglob("*") if path.is_file()]

    assert done.ended, done.err
    assert "everyone on this machine can read it at the start" in done.err
    assert len(files) > 6
    assert not [path for path in files if key.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--traffic-scenario", "D(1)"], "scenario 'D(1)'"),
        (["--traffic-scenario", "E(4)"], "text-to-text takes"),
        (["--num-concurrency", "0"], "--num-concurrency 0"),
        (["--max-requests-per-run", "0"], "--max-requests-per-run 0"),
        (["--num-workers", "100000"], "--num-workers 100,000: at most"),
        (["--warmup-ratio", "0.6", "--cooldown-ratio", "0.4"], "less than 1"),
        (["--iteration-type", "batch_size"], "--iteration-type batch_size"),
        (["--slo", "ttft"], "--slo ttft"),
        (["--saturate"], "--saturate"),
        (["--saturate", "--slo", "ttft<1s", "--slo-share", "2"], "--slo-share 2"),
        (["--additional-request-params", "x"], "--additional-request-params"),
        (["--prefix-len", "3", "--prefix-ratio", "0.5"], "give one"),
        (["--traffic-scenario", "D(9,2)", "--traffic-scenario", "E(4)"], "text-to-text takes"),
        (["--traffic-scenario", "D(9,2)", "--traffic-scenario", "dataset"], "--dataset-path"),
        (
            ["--traffic-scenario", "D(9,2)", "--traffic-scenario", "D(4,2)", "--prefix-len", "6"],
            "D(4,2)",
        ),
        (["--warmup-ratio", "nan"], "--warmup-ratio"),
        (["--max-time-per-run", "inf"], "--max-time-per-run inf"),
        (["--num-concurrency", ""], "--num-concurrency ''"),
        (["--num-concurrency", "1,9000000"], "9,000,000 in flight need"),
        (["--num-workers", "-1"], "--num-workers -1"),
        (["--spawn-rate", "0"], "--spawn-rate 0"),
        (["--api-base", "127.0.0.1:9"], "--api-base '127.0.0.1:9'"),
        (["--api-base", "http://joe:pw@127.0.0.1:9"], "TOGETHER_API_KEY or --api-key"),
        (["--experiment-base-dir", "/proc/none"], "--experiment-base-dir"),
        (["--log-dir", "/proc/none"], "--log-dir"),
        (["--prices", "none.toml"], "--prices none.toml: No such file"),
    ],
)
def test_bad_options_are_one_line(
    tbench: Callable[..., Done], tmp_path: Path, more: list[str], said: str
) -> None:
    done = tbench(*words("http://127.0.0.1:9"), *more)

    assert done.code == 2, done.err
    assert said in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "no JSON"),
        ("[]", "not a JSON object"),
        ("{}", "has no options"),
        (None, "no benchmark of"),
    ],
)
def test_a_folder_that_is_none_of_ours_is_refused(
    tbench: Callable[..., Done], tmp_path: Path, content: str | None, said: str
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / ("tbench_benchmark.json" if content else "other")).write_text(content or "")
    (tmp_path / "y").write_text("")
    done = tbench(*words("http://127.0.0.1:9", "--resume"))
    file = tbench(*words("http://127.0.0.1:9", "--experiment-folder-name", "y"))

    assert (done.code, file.code) == (2, 2)
    assert said in done.err
    assert "y: is a file" in file.err
    assert len(done.err.splitlines()) == 1


def test_going_on_needs_the_folder_by_its_name(tbench: Callable[..., Done]) -> None:
    """Else a folder of the time would be begun."""
    given = words("http://127.0.0.1:9", "--resume")
    place = given.index("--experiment-folder-name")
    done = tbench(*given[:place], *given[place + 2 :])

    assert done.code == 2
    assert "--experiment-folder-name" in done.err


def test_hints_name_the_options_that_there_are(
    tbench: Callable[..., Done], simulator: Server, tmp_path: Path
) -> None:
    """An address, a key, a model that are wrong; the lengths are not asked about in vain."""
    nobody = tbench(*words("http://127.0.0.1:9"))
    key = tbench(
        *words(simulator.url, "--resume", "--api-base", simulator.url), "--api-key", "bad-x"
    )
    model = tbench(*words(simulator.url, "--experiment-folder-name", "y", model="none/such"))
    missing = tbench(
        *words("https://192.0.2.1", "--experiment-folder-name", "z"), TOGETHER_API_KEY=""
    )

    assert [nobody.code, key.code, model.code, missing.code] == [5, 2, 5, 2]
    assert "is --api-base right?" in nobody.err
    assert "--api-model-name" in model.err
    assert "export it or give --api-key" in missing.err
    assert "are estimated" not in nobody.err + model.err
    assert not (tmp_path / "z").exists()


def test_a_key_that_was_mended_goes_on(
    tbench: Callable[..., Done], simulator: Server, tokenizer_file: Path, tmp_path: Path
) -> None:
    """Points that could not succeed are not there; what they left is set aside."""
    more = (
        "--num-concurrency",
        "1",
        "--traffic-scenario",
        "D(9,2)",
        "--model-tokenizer",
        tokenizer_file,
    )
    wrong = tbench(*words(simulator.url, *more), TOGETHER_API_KEY="bad-key")
    left = results(tmp_path / "x")
    right = tbench(*words(simulator.url, *more, "--resume"))
    (one,) = results(tmp_path / "x")

    assert (wrong.code, left) == (5, [])
    assert "TOGETHER_API_KEY or --api-key" in wrong.err
    assert right.ended, right.err
    assert one["aggregated_metrics"]["error_rate"] == 0
    assert len(list((tmp_path / "x" / "set-aside").iterdir())) == 1


def test_a_server_that_dies_between_points_is_no_result(
    tbench: Callable[..., Done], tokenizer_file: Path, tmp_path: Path
) -> None:
    """It knows no model any more after the first point; the second is made again, and judged as the first."""
    more = ("--traffic-scenario", "D(9,4)", "--model-tokenizer", tokenizer_file, "--json")
    numbers = count(1)

    def answer(_: Received) -> Given:
        alive = not 12 < next(numbers) <= 24
        return Given(stream(), headers=EVENTS) if alive else Given([b"{}"], status=404)

    with answering(answer) as server:
        slo = ("--slo", "ttft<9s")
        died = tbench(*words(server.url, "--num-concurrency", "1,12", *more, *slo))
        left = results(tmp_path / "x")
        slo = ("--slo", "ttft<1us")
        again = tbench(*words(server.url, "--num-concurrency", "12", *more, *slo, "--resume"))
    first, second = (one["aggregated_metrics"] for one in results(tmp_path / "x"))

    assert died.code == 5
    assert "in 1 point of 2: http_404" in died.err
    assert [one["aggregated_metrics"]["error_rate"] for one in left] == [0, 1]
    assert again.ended, again.err
    assert second["error_rate"] == 0
    assert len(list((tmp_path / "x" / "set-aside").iterdir())) == 1
    assert first["goodput"] == second["goodput"] == 0
    assert first["num_requests"] == 12
    assert left[0]["aggregated_metrics"]["goodput"] == 1


@pytest.mark.parametrize(
    ("errors", "out"),
    [
        ({"connect_error": 9}, True),
        ({"connect_error": 9, "cut": 2, "reset": 1}, True),
        ({"cut": 9, "reset": 1}, False),
        ({"connect_error": 9, "http_503": 1}, False),
    ],
)
def test_a_server_that_dies_within_a_point_is_out_of_reach(
    errors: dict[str, int], out: bool
) -> None:
    """What was in flight then is cut or reset; where somebody still listens, that is a result."""
    numbers = {"failed": sum(errors.values()), "completed": 0, "errors": errors}

    assert out_of_reach(numbers) is out


def test_a_model_that_was_mended_is_asked(
    tbench: Callable[..., Done], simulator: Server, tokenizer_file: Path, tmp_path: Path
) -> None:
    """The trace of the first try names another model: the second one's is made anew."""
    more = ("--num-concurrency", "1", "--traffic-scenario", "D(9,2)", "--model-tokenizer")
    wrong = tbench(*words(simulator.url, *more, tokenizer_file, model="no/such"))
    right = tbench(*words(simulator.url, *more, tokenizer_file))

    assert wrong.code == 5
    assert right.ended, right.err
    (run,) = (tmp_path / "x" / "runs").iterdir()
    assert set(read_run(run).columns["model"].tolist()) == {MODEL}


@pytest.mark.parametrize(
    ("swept", "held", "other"),
    [
        (("--batch-size", "2"), ("--num-concurrency", "1"), ("--num-concurrency", "3")),
        (
            ("--iteration-type", "num_concurrency", "--num-concurrency", "1"),
            ("--batch-size", "2"),
            ("--batch-size", "3"),
        ),
    ],
)
def test_a_point_is_not_taken_for_one_with_another_load(
    tbench: Callable[..., Done],
    simulator: Server,
    tmp_path: Path,
    swept: tuple[str, ...],
    held: tuple[str, ...],
    other: tuple[str, ...],
) -> None:
    """What is not swept stands in no name of a point, and going on with another value would relabel it."""
    model = "intfloat/multilingual-e5-large-instruct"
    asked = (*swept, "--traffic-scenario", "E(16)")
    first, again, changed = (
        tbench(*words(simulator.url, *asked, *more, task="text-to-embeddings", model=model))
        for more in (held, (*held, "--resume"), (*other, "--resume"))
    )

    assert first.ended, first.err
    assert again.ended, again.err
    assert changed.code == 2
    assert f"was made with {held[0]} {held[1]}, not 3" in changed.err
    assert len(results(tmp_path / "x")) == 1


def test_the_concurrency_grows_at_the_spawn_rate(
    tbench: Callable[..., Done], simulator: Server, tmp_path: Path
) -> None:
    """Of a closed loop; where requests come by themselves it is said to do nothing."""
    more = ("--traffic-scenario", "D(9,40)", "--max-requests-per-run", 4)
    closed = tbench(*words(simulator.url, *more, "--num-concurrency", "4", "--spawn-rate", "20"))
    other = ("--experiment-folder-name", "y", "--spawn-rate", "20", "--poisson", "40")
    opened = tbench(*words(simulator.url, *more, *other))
    (path,) = (tmp_path / "x" / "runs").iterdir()
    sent = sorted(read_run(path).columns["sent"])

    assert closed.ended, closed.err
    assert opened.ended, opened.err
    assert sent == pytest.approx([0, 0.05, 0.1, 0.15], abs=0.03), "all within an answer's time"
    assert "--spawn-rate: requests come by themselves" in opened.err
    assert "--spawn-rate" not in closed.err


def test_embeddings_are_measured_by_what_is_read(
    tbench: Callable[..., Done], simulator: Server
) -> None:
    done = tbench(
        *words(
            simulator.url, "--batch-size", "2", "--traffic-scenario", "E(32)",
            task="text-to-embeddings", model="intfloat/multilingual-e5-large-instruct",
        )
    )  # fmt: skip

    assert "input tokens/s" in done.err
    assert "input tokens, and what is made of them, are estimated" in done.err
    assert "input" in done.out
    assert "tok/s" in done.out
    assert "TPOT" not in done.out


def test_tokens_that_a_tokenizer_counted_are_no_estimate(
    tbench: Callable[..., Done], simulator: Server, tmp_path: Path, tokenizer_file: Path
) -> None:
    done = tbench(
        *words(
            simulator.url, "--batch-size", "2", "--traffic-scenario", "E(32)", "--model-tokenizer",
            tokenizer_file, task="text-to-embeddings", model="intfloat/multilingual-e5-large-instruct",
        )
    )  # fmt: skip
    (result,) = results(tmp_path / "x")

    assert done.ended, done.err
    assert result["aggregated_metrics"]["prompt_tokens_by"] == "client"
    assert not [text for text in result["aggregated_metrics"]["warnings"] if "estimated" in text]


def test_tokens_that_nobody_counted_are_no_zero(
    tbench: Callable[..., Done], simulator: Server, tmp_path: Path
) -> None:
    """Embeddings of a dataset, without a tokenizer; Together counts none. All files are made."""
    (tmp_path / "p.txt").write_text("one\ntwo\nthree\n")
    done = tbench(
        *words_with_summary(
            simulator.url, "--batch-size", "2", "--dataset-path", "p.txt",
            task="text-to-embeddings", model="intfloat/multilingual-e5-large-instruct",
        )
    )  # fmt: skip
    (one,) = results(tmp_path / "x")

    assert done.ended, done.err
    assert "tokens of the dataset are known only where the server counts them" in done.err
    assert one["aggregated_metrics"]["mean_input_throughput_tokens_per_s"] is None
    assert one["aggregated_metrics"]["prompt_tokens_by"] is None
    (row,) = (line for line in done.out.splitlines() if line.strip().endswith("valid"))
    assert row.split()[4] == "-"


def test_what_was_not_given_is_said(tbench: Callable[..., Done], simulator: Server) -> None:
    """Defaults that decide what is run."""
    done = tbench(
        *words(simulator.url, "--traffic-scenario", "D(9,2)", "--saturate", "--slo", "ttft<1ms")
    )

    assert (
        "D(9,2) at num_concurrency from 1 on; each point ends after 12 requests or 5 min"
        in done.err
    )
    assert "seed 0" in done.err


PRICES = f'[[list]]\n[list.models]\n"{MODEL}" = {{ prompt = 1000, output = 2000 }}\n'


class Billing:
    """Bills each byte of a request as a token; every fourth, `most` in all, is turned away, to come again."""

    def __init__(self, most: int) -> None:
        self.usd = 0.0
        self.refused, self.most = 0, most
        self._asked = count()

    def answer(self, received: Received) -> Given:
        if next(self._asked) % 4 == 3 and self.refused < self.most:
            self.refused += 1
            return Given([b"{}"], status=429, headers=(("retry-after-ms", "1"),))
        tokens = received.json["max_tokens"]
        self.usd += (len(received.body) * 1000 + tokens * 2000) / 1e6
        events = stream(len(received.body), tokens)
        return Given([b"".join(events)], headers=EVENTS)


def test_a_budget_is_for_all_points_and_what_it_ended_goes_on(
    tbench: Callable[..., Done], tmp_path: Path
) -> None:
    """The server's own bill; lengths are asked for on the same budget, and refusals lose nothing."""
    (tmp_path / "p.toml").write_text(PRICES)
    billing = Billing(most=5)
    with answering(billing.answer) as server:
        given = words(
            server.url, "--num-concurrency", "1,2", "--traffic-scenario", "D(100,8)", "--polite",
            "--prices", "p.toml", "--json",
        )  # fmt: skip
        first = tbench(*given, "--max-cost", 12)
        spent, told = billing.usd, json.loads(first.out)["points"]
        second = tbench(*given, "--resume", "--max-cost", 60)
    points = json.loads(second.out)["points"]
    entries = json.loads((tmp_path / "x" / "tbench_benchmark.json").read_text())["runs"]

    assert first.code == 3, first.err
    assert "stopped before --max-cost was exceeded" in first.err
    assert 6 < spent <= 12
    assert len(told) < 2 or told[-1]["ended_by"] == "max_cost"
    assert second.code in {0, 4}, second.err
    assert [point["num_completed_requests"] for point in points] == [12, 12]
    assert sum(entry["usd"] for entry in entries) == pytest.approx(billing.usd)
    assert billing.refused == 5


@pytest.mark.parametrize("last", [4, 16], ids=["asking for lengths", "in a point"])
def test_what_was_in_flight_at_a_kill_counts_when_it_goes_on(
    tbench: Callable[..., Done], tmp_path: Path, last: int
) -> None:
    """The server bills what it gets, the last of it never answered."""
    (tmp_path / "p.toml").write_text(PRICES)
    billing, killed, asked = Billing(most=last // 4), threading.Event(), count(1)

    def answer(received: Received) -> Given:
        given = billing.answer(received)
        if next(asked) == last:
            killed.wait(PATIENCE_S)
        return given

    with answering(answer) as server:
        given = words(
            server.url, "--num-concurrency", "1", "--traffic-scenario", "D(100,8)", "--polite",
            "--prices", "p.toml", "--json", "--max-cost", "60",
        )  # fmt: skip
        command = Command([*map(str, given)], tmp_path)
        until(lambda: len(server.received) >= last or command.poll() is not None)
        command.kill()
        command.wait(PATIENCE_S)
        command.close()
        killed.set()
        done = tbench(*given, "--resume")

    assert done.code in {0, 4}, done.err
    entries = json.loads((tmp_path / "x" / "tbench_benchmark.json").read_text())["runs"]
    assert "killed" in {entry["ended"] for entry in entries}
    assert billing.usd < sum(entry["usd"] for entry in entries) < 60


@pytest.mark.parametrize(
    ("more", "swept"),
    [
        ([], [1, 2, 4, 8, 16, 32, 64, 128, 256]),
        (["--num-concurrency", "3,5"], [3, 5]),
        (["--saturate", "--slo", "ttft<1s"], []),
        (["--rate", "2"], []),
    ],
)
def test_metadata_say_what_is_swept(
    tbench: Callable[..., Done],
    tmp_path: Path,
    tokenizer_file: Path,
    more: list[str],
    swept: list[int],
) -> None:
    """Also where nothing was given, so that points that are missing can be told."""
    tbench(*words("http://127.0.0.1:9", "--model-tokenizer", tokenizer_file), *more)
    metadata = json.loads((tmp_path / "x" / "experiment_metadata.json").read_text())

    assert metadata["num_concurrency"] == swept
