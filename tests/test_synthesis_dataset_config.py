"""Dataset-configs: genai-bench's JSON; nothing in them is run, nothing in them is ignored."""

import json
from pathlib import Path
from typing import Any

import pytest

from tbench.capture.errors import InputError
from tbench.capture.synthesis.dataset import Columns, is_dataset_config, load_dataset_config


def config(folder: Path, **changes: Any) -> Path:
    """A config of a CSV file beside it, changed."""
    (folder / "rows.csv").write_text("ask,why\nWhat?,so\nWho?,no\n")
    plain = {
        "source": {"type": "file", "path": "rows.csv", "file_format": "csv"},
        "prompt_column": "ask",
    }
    path = folder / "config.json"
    path.write_text(json.dumps({**plain, **changes}))
    return path


def test_a_config_names_a_file_and_a_column(tmp_path: Path) -> None:
    """The path may start at the config's folder; a column that is given beside it wins."""
    path = config(tmp_path)

    assert load_dataset_config(path).prompts == ["What?", "Who?"]
    assert load_dataset_config(path, Columns(prompt="why")).prompts == ["so", "no"]


def test_a_file_format_beats_the_name(tmp_path: Path) -> None:
    """A CSV file read as text is lines."""
    source = {"type": "file", "path": "rows.csv", "file_format": "txt"}

    assert load_dataset_config(config(tmp_path, source=source)).prompts == [
        "ask,why",
        "What?,so",
        "Who?,no",
    ]


def test_a_config_is_told_from_a_dataset(tmp_path: Path) -> None:
    """By its content, whatever it is called."""
    assert is_dataset_config(config(tmp_path))
    for name, content in (("list.json", '[{"source": 1}]'), ("lines.json", '{"source": 1}\n{"source": 2}'),
                          ("other.json", '{"rows": []}'), ("config.txt", '{"source": {}}')):  # fmt: skip
        (tmp_path / name).write_text(content)
        assert not is_dataset_config(tmp_path / name)


def test_large_images_are_allowed_when_the_config_says_so(tmp_path: Path) -> None:
    """And only then."""
    assert not load_dataset_config(config(tmp_path)).large_images
    assert load_dataset_config(config(tmp_path, unsafe_allow_large_images=True)).large_images


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"source": {"type": "custom", "path": "x", "loader_class": "a.B"}}, "runs no code"),
        ({"source": {"type": "custom", "path": "x"}}, "write the rows into a CSV"),
        ({"source": {"type": "s3", "path": "x"}}, "must be file or huggingface"),
        ({"source": {"type": "file"}}, "source.path is missing"),
        ({"source": {"type": "file", "path": "rows.csv", "file_format": "xml"}}, "not one of txt, csv, json"),
        ({"source": {"type": "file", "path": "rows.csv", "shuffle": True}}, "source.shuffle: not known"),
        ({"promptcolumn": "ask"}, "promptcolumn: not known"),
        ({"prompt_column": 7}, "prompt_column must be a string"),
        ({"prompt_lambda": "lambda r: r['ask']"}, "prompt_lambda: tbench runs no code that a file holds"),
        ({"source": {"type": "huggingface", "path": "a/b", "huggingface_kwargs": {"streaming": True}}},
         "streaming is not supported"),
        ({"source": []}, "source.path is missing"),
        ({"source": "rows.csv"}, "source must be an object"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    """In one line with the config's name."""
    path = config(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        load_dataset_config(path)

    assert says in str(caught.value)
