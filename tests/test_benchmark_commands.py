"""Every command of the document that describes genai-bench's Together backend runs here.

Changed are the program's name, the key and the address; a dataset that needs a network is replaced by a
local one of the same form. A limit on the requests keeps it short.
"""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import Done, Server

COMMANDS = [
    text.replace("\\\n", " ")
    for text in re.findall(
        r"^genai-bench (benchmark .*?)\n```",
        (Path(__file__).parent.parent / "fixtures" / "together_backend_commands.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
]
POINTS = (4, 1, 5, 4, 3)
"""How many points each of them has."""
OTHERS = ["--num-concurrency", "1", "--traffic-scenario", "D(20,4)"]
"""What stands for "other options" where the document leaves them out."""


@pytest.fixture
def datasets(tmp_path: Path) -> dict[str, Path]:
    """Local datasets by the names that the document's commands give to theirs."""
    (tmp_path / "dataset.json").write_text(json.dumps([f"Tell me about {i}." for i in range(9)]))
    (tmp_path / "rows.csv").write_text("prompt,n\n" + "".join(f"Ask {i},{i}\n" for i in range(9)))
    simple = {
        "source": {"type": "file", "path": "rows.csv", "file_format": "csv"},
        "prompt_column": "prompt",
    }
    (tmp_path / "simple.json").write_text(json.dumps(simple))
    Image.new("RGB", (64, 48), "teal").save(tmp_path / "wild.png")
    (tmp_path / "wild.csv").write_text("question,image\nWhat is it?,wild.png\n")
    wild = {
        "source": {"type": "file", "path": "wild.csv", "file_format": "csv"},
        "prompt_column": "question",
        "image_column": "image",
    }
    (tmp_path / "wild.json").write_text(json.dumps(wild))
    return {
        "/path/to/your/dataset.json": tmp_path / "dataset.json",
        "examples/dataset_configs/huggingface_simple.json": tmp_path / "simple.json",
        "examples/dataset_configs/config_llava-bench-in-the-wild.json": tmp_path / "wild.json",
    }


@pytest.mark.slow
@pytest.mark.parametrize(("command", "points"), list(zip(COMMANDS, POINTS, strict=True)))
def test_the_command_runs(
    tbench: Callable[..., Done],
    serve: Callable[..., Server],
    datasets: dict[str, Path],
    tmp_path: Path,
    command: str,
    points: int,
) -> None:
    url = serve("serve", "--port", 0, "--any-model").url
    key = "tgp_v1_not_a_real_key_at_all"
    changed = (
        command.replace("https://api.together.xyz", url)
        .replace("YOUR_TOGETHER_API_KEY", key)
        .replace("$TOGETHER_API_KEY", key)
    )
    for name, path in datasets.items():
        changed = changed.replace(name, str(path))
    words = shlex.split(changed, comments=True) + (OTHERS if "other options" in command else [])
    done = tbench(
        *words,
        "--max-requests-per-run",
        3,
        "--experiment-folder-name",
        "x",
        "--no-summary",
        TOGETHER_API_KEY=key,
    )
    results = [json.loads(path.read_text()) for path in (tmp_path / "x").glob("*_time_*s.json")]

    assert done.ended, done.err
    assert len(results) == points
    assert all(one["aggregated_metrics"]["error_rate"] == 0 for one in results)
    assert all(one["aggregated_metrics"]["num_completed_requests"] == 3 for one in results)
