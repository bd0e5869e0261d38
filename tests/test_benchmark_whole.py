"""A whole benchmark makes every file, sheet and picture, with all of their figures, and no warning."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from PIL import Image

from tbench.benchmark.folder import load_experiments
from tbench.benchmark.plots import checked, preset_for
from tbench.benchmark.plots import panels as drawing
from tests.conftest import Done, Server

EMBEDDINGS = (
    "text-to-embeddings", "intfloat/multilingual-e5-large-instruct", "--batch-size", "E(32)", [],
)  # fmt: skip
VISION = (
    "image-text-to-text", "Qwen/Qwen2.5-VL-72B-Instruct", "--num-concurrency", "I(64,48)",
    ["--additional-request-params", '{"max_tokens": 8}'],
)  # fmt: skip
POINTS, REQUESTS = 3, 8
SILENT = {
    "error_code",
    "error_message",
    "invalid_because",
    "GPU Type",
} | {"request_rate (requests/s)"}
"""Columns that have nothing to say of a closed loop without a failure."""
FIRST = (
    *("no --model-tokenizer", "no counts of prompt tokens", "lengths: ", "x: ", "point "),
    *("  ! input tokens, and what is made of them", "E(32) at batch_size"),
)


def empty(sheet: Any) -> list[str]:
    """Cells without anything, below titles that promise something."""
    head, *body = sheet.iter_rows()
    return [
        f"{title.value} {cell.coordinate}"
        for row in body
        for title, cell in zip(head, row, strict=True)
        if cell.value is None and title.value not in SILENT
    ]


def dots(folder: Path) -> dict[str, int]:
    """How many points each panel of the default picture has."""
    found = load_experiments(folder)
    of = preset_for("2x4_default", found)
    (sheet,) = checked(found, of, "traffic_scenario")
    tables = dict(drawing.combined(sheet, of, found[0].unit)["datasets"])
    return {
        panel.title: len(tables[f"dots {panel.position[0]},{panel.position[1]}"])
        for panel in of.panels
        if panel.curves[0].field != "error_rate"
    }


@pytest.mark.parametrize("case", [EMBEDDINGS, VISION], ids=["embeddings", "vision"])
def test_every_file_is_made_without_a_warning(
    tbench: Callable[..., Done], simulator: Server, tmp_path: Path, case: Any
) -> None:
    """The bar of the benchmark: three points each; a warning of any library would be an error."""
    task, model, swept, scenario, more = case
    done = tbench(
        "benchmark", "--api-backend", "together", "--api-base", simulator.url, "--api-model-name", model,
        "--task", task, swept, "1,2,4", "--traffic-scenario", scenario, "--max-requests-per-run", REQUESTS,
        "--experiment-folder-name", "x", *more, PYTHONWARNINGS="error",
    )  # fmt: skip
    folder = tmp_path / "x"
    results = [json.loads(path.read_text()) for path in folder.glob("*_time_*s.json")]
    pictures = sorted(folder.glob("*.png"))
    book = openpyxl.load_workbook(folder / "x_summary.xlsx")
    summary, appendix, _, aggregated, individual = book.worksheets

    assert done.code == 0, done.err
    assert not [
        line for line in done.err.splitlines() if not line.startswith((*FIRST, "  8 of 8", "x_s"))
    ]
    assert [len(one["individual_request_metrics"]) for one in results] == [REQUESTS] * POINTS
    assert len(list((folder / "runs").glob("*.run"))) == POINTS
    assert [empty(sheet) for sheet in (appendix, aggregated, individual)] == [[], [], []]
    assert (appendix.max_row, individual.max_row) == (1 + POINTS, 1 + POINTS * REQUESTS)
    assert summary["C2"].value in {1, 2, 4}, "a point is picked"
    assert len(summary._charts) == (4 if task == "text-to-embeddings" else 6)
    assert set(dots(folder).values()) == {POINTS}, dots(folder)
    assert len(pictures) == 9
    for path in pictures:
        with Image.open(path) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20, f"{path.name}: blank"
