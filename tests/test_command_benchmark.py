"""tbench benchmark from the command line: points, results, and going on with a folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replay.runfile import read_run
from tests.conftest import Done, Server

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

    assert done.code == 0, done.err
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

    assert done.code == 0, done.err
    assert tokens[2] == pytest.approx(2 * tokens[1], rel=0.02)


def test_an_open_loop_at_a_rate(
    tbench: Callable[..., Done], simulator: Server, tmp_path: Path
) -> None:
    done = tbench(*words(simulator.url, "--poisson", "30", "--traffic-scenario", "D(20,4)"))
    (one,) = results(tmp_path / "x")

    assert done.code == 0, done.err
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

    assert done.code == 0, done.err
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

    assert done.code == 0, done.err
    assert 0 < first["error_rate"] < 1
    assert first["error_codes_frequency"] == {"429": first["num_error_requests"]}
    assert first["num_requests"] == second["num_requests"] == 12


def test_nobody_there_ends_it(tbench: Callable[..., Done]) -> None:
    done = tbench(*words("http://127.0.0.1:9", "--model", "m"))

    assert done.code == 5
    assert "cannot connect" in done.err


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

    assert again.code == 2
    assert "--resume" in again.err
    assert more.code == 0, more.err
    assert more.err.count("was there already") == 1
    assert len(results(tmp_path / "x")) == 2
    assert other.code == 2
    assert "--seed 0, not 1" in other.err


def test_a_key_is_written_nowhere(
    tbench: Callable[..., Done], simulator: Server, tmp_path: Path
) -> None:
    key = "tgp_v1_abcdefghijklmnop"
    done = tbench(
        *words(simulator.url, "--num-concurrency", "1", "--traffic-scenario", "D(20,4)"),
        "--api-key", key, TOGETHER_API_KEY="",
    )  # fmt: skip
    files = [path for path in (tmp_path / "x").rglob("*") if path.is_file()]

    assert done.code == 0, done.err
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
        (["--warmup-ratio", "0.6", "--cooldown-ratio", "0.4"], "less than 1"),
        (["--iteration-type", "batch_size"], "--iteration-type batch_size"),
        (["--slo", "ttft"], "--slo ttft"),
        (["--saturate"], "--saturate"),
        (["--saturate", "--slo", "ttft<1s", "--slo-share", "2"], "--slo-share 2"),
        (["--additional-request-params", "x"], "--additional-request-params"),
        (["--prefix-len", "3", "--prefix-ratio", "0.5"], "give one"),
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
