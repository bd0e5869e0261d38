"""Datasets: every kind of file is read, every bad row is counted, every refusal says what to do."""

import json
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tbench.capture.errors import InputError
from tbench.capture.synthesis.dataset import Columns, Dataset, Row, load_dataset

PICTURES = Columns(pictures=True)
PROMPTS = ["What is a harbour?", "Zwölf Boxkämpfer", 'He said "no", twice']


def picture(colour: str = "red", kind: str = "PNG") -> bytes:
    out = BytesIO()
    Image.new("RGB", (8, 6), colour).save(out, format=kind)
    return out.getvalue()


def as_text(path: Path) -> None:
    path.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")


def as_csv(path: Path) -> None:
    quoted = ['"' + prompt.replace('"', '""') + '"' for prompt in PROMPTS]
    rows = ["id,prompt", *(f"{number},{prompt}" for number, prompt in enumerate(quoted))]
    path.write_text("\ufeff" + "\r\n".join(rows), encoding="utf-8")


def as_json(path: Path) -> None:
    path.write_text(json.dumps(PROMPTS), encoding="utf-8")


def as_objects(path: Path) -> None:
    path.write_text(json.dumps([{"id": 1, "question": one} for one in PROMPTS]), encoding="utf-8")


def as_lines(path: Path) -> None:
    path.write_text("\n".join(json.dumps({"text": one}) for one in PROMPTS), encoding="utf-8")


def as_lines_of_windows(path: Path) -> None:
    lines = [json.dumps({"text": one}, ensure_ascii=False) for one in PROMPTS]
    path.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")


def as_lines_of_pandas(path: Path) -> None:
    rows = [{"text": one, "score": float("nan"), "most": float("inf")} for one in PROMPTS]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def as_list_of_python(path: Path) -> None:
    path.write_text(json.dumps([{"text": one, "score": float("nan")} for one in PROMPTS]))


def as_parquet(path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="needs the extra: pip install 'tbench[parquet]'")
    import pyarrow.parquet

    pyarrow.parquet.write_table(arrow.table({"id": [1, 2, 3], "prompt": PROMPTS}), path)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("p.txt", as_text),
        ("p", as_text),
        ("p.csv", as_csv),
        ("p.json", as_json),
        ("p.json", as_objects),
        ("p.json", as_lines),
        ("p.json", as_lines_of_windows),
        ("p.json", as_list_of_python),
        ("p.jsonl", as_lines),
        ("p.jsonl", as_lines_of_windows),
        ("p.jsonl", as_lines_of_pandas),
        ("p.parquet", as_parquet),
    ],
)
def test_each_kind_of_file_gives_its_prompts(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    """In order, as they were written; the usual column is found."""
    make(tmp_path / name)
    found = load_dataset(tmp_path / name)

    assert found.prompts == PROMPTS
    assert (found.complaint(), found.name) == (None, str(tmp_path / name))


def test_columns_are_taken_by_name(tmp_path: Path) -> None:
    """Whatever the usual ones are."""
    (tmp_path / "p.csv").write_text("prompt,other\na,b\nc,d\n")
    found = load_dataset(tmp_path / "p.csv", Columns(prompt="other"))

    assert found.prompts == ["b", "d"]


def test_a_column_named_outright_may_hold_any_mark(tmp_path: Path) -> None:
    """Who names it means it; columns without a name may repeat."""
    (tmp_path / "p.csv").write_text("a;b\nc;d\n")
    (tmp_path / "blank.csv").write_text("prompt,,\nx,,\n")

    assert load_dataset(tmp_path / "p.csv", Columns(prompt="a;b")).prompts == ["c;d"]
    assert load_dataset(tmp_path / "blank.csv").prompts == ["x"]


@pytest.mark.parametrize(
    ("name", "content", "left_out"),
    [
        ("p.txt", b"a\n\n  \nb\n\xff\xfe\n", {"blank": 2, "not UTF-8": 1}),
        ("p.csv", b"prompt,x\na,1\nb\nc,1,2\n,1\nd,1\n", {
            "with another number of columns": 2, "without a prompt": 1,
        }),
        ("p.json", b'[{"prompt": "a"}, 7, {"prompt": 7}, {"x": 1}, "b", ""]', {
            "neither a string nor an object": 1, "with a prompt that is no text": 1, "without a prompt": 1,
            "blank": 1,
        }),
        ("p.jsonl", b'{broken\n{"prompt": "a"}\n\n{"prompt": "b"}\n', {"not JSON": 1}),
        ("p.jsonl", b'{"prompt": "\\ud83d"}\n{"prompt": "a"}\n{"prompt": "b"}\n', {"not JSON": 1}),
        ("p.jsonl", b'{"prompt": NaN}\n{"prompt": "a"}\n{"prompt": "b"}\n', {"without a prompt": 1}),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used_are_counted(
    tmp_path: Path, name: str, content: bytes, left_out: dict[str, int]
) -> None:
    """By reason; the others are kept."""
    (tmp_path / name).write_bytes(content)
    found = load_dataset(tmp_path / name)

    assert found.left_out == left_out
    assert len(found.prompts) == 2
    n = sum(left_out.values())
    assert f"{n} {'row' if n == 1 else 'rows'} left out (" in (found.complaint() or "")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.txt", None, "no such file or folder"),
        ("p.txt", b"", "there is nothing in it"),
        ("p.txt", b"\n\n", "no row can be used (2 blank)"),
        ("p.json", b"{broken", "not JSON"),
        ("p.json", b'{"a": 1}', "must hold a list"),
        ("p.csv", b'prompt\n"open', "not CSV"),
        ("p.csv", b"a,b\n1,2\n", "--dataset-prompt-column a or b"),
        ("p.csv", b"prompt\n\xff\n", "not CSV in UTF-8"),
        ("p.csv", b"prompt,n,prompt\na,1,b\n", "2 columns are called 'prompt'; rename"),
        (
            "p.csv",
            b"prompt;n\nhello;1\n",
            "only column is called 'prompt;n', which looks like several",
        ),
        ("p.csv", b"prompt\tn\nhello\t1\n", "separate columns by commas"),
    ],
)
def test_a_file_that_will_not_do_says_why(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    """And what to do, in one line."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_dataset(tmp_path / name)

    assert says in str(caught.value)


def test_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """With the names of those that are."""
    as_csv(tmp_path / "p.csv")
    with pytest.raises(
        InputError, match="no column q; --dataset-prompt-column must be one of id, prompt"
    ):
        load_dataset(tmp_path / "p.csv", Columns(prompt="q"))


def test_a_folder_of_images_is_a_dataset(tmp_path: Path) -> None:
    """By name; what is no image is counted, and so is one that cannot be read."""
    (tmp_path / "b.png").write_bytes(picture())
    (tmp_path / "a.jpg").write_bytes(picture("blue", "JPEG"))
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "Notes.md").write_text("x")
    found = load_dataset(tmp_path, PICTURES)

    assert [row.image for row in found.rows] == [tmp_path / "a.jpg", tmp_path / "b.png"]
    assert found.left_out == {"not an image": 1, "with an image that cannot be read": 1}


def test_images_are_for_tasks_with_images(tmp_path: Path) -> None:
    """Nobody looks at them where only prompts are wanted; a folder of them has no prompts at all."""
    (tmp_path / "p.json").write_text(json.dumps([{"prompt": "a", "image": "gone.png"}]))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(picture())

    assert load_dataset(tmp_path / "p.json").rows == [Row("a")]
    with pytest.raises(InputError, match="give a file of prompts"):
        load_dataset(tmp_path / "pictures")
    as_csv(tmp_path / "p.csv")
    with pytest.raises(InputError, match="--dataset-image-column id or prompt"):
        load_dataset(tmp_path / "p.csv", PICTURES)


def test_images_stand_in_columns_as_paths_addresses_and_data(tmp_path: Path) -> None:
    """A path starts at the file's folder; what leads to no image is counted."""
    (tmp_path / "a.png").write_bytes(picture())
    rows = [
        {"question": "1", "image": "a.png"},
        {"question": "2", "image": "https://example.invalid/b.png"},
        {"question": "3", "image": "gone.png"},
        {"question": "4", "image": None},
        {"question": "5", "image": "data:image/png;base64,???"},
        {"question": "6", "image": ["a.png", "gone.png"]},
    ]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    found = load_dataset(tmp_path / "p.json", PICTURES)

    assert found.rows == [
        Row("1", tmp_path / "a.png"),
        Row("2", "https://example.invalid/b.png"),
        Row("6", tmp_path / "a.png"),
    ]
    assert found.left_out == {
        "with an image that is not there": 1,
        "without an image": 1,
        "with an image that cannot be read": 1,
    }


def test_images_in_parquet_are_bytes(tmp_path: Path) -> None:
    """Plain, and in the map that Hugging Face writes."""
    arrow = pytest.importorskip("pyarrow", reason="needs the extra: pip install 'tbench[parquet]'")
    import pyarrow.parquet

    data = picture()
    for name, column in (("plain", [data]), ("map", [{"bytes": data, "path": "x.png"}])):
        pyarrow.parquet.write_table(arrow.table({"image": column}), tmp_path / f"{name}.parquet")
        assert load_dataset(tmp_path / f"{name}.parquet", PICTURES).rows == [Row(None, data)]


def test_what_is_not_parquet_says_so(tmp_path: Path) -> None:
    """In one line."""
    pytest.importorskip("pyarrow", reason="needs the extra: pip install 'tbench[parquet]'")
    (tmp_path / "p.parquet").write_bytes(b"PAR?")
    with pytest.raises(InputError, match="not Parquet"):
        load_dataset(tmp_path / "p.parquet")


@pytest.mark.parametrize(
    ("module", "name", "says"),
    [
        ("pyarrow", "p.parquet", "pip install 'tbench[parquet]'"),
        ("datasets", "owner/name", "pip install 'tbench[data]'"),
    ],
)
def test_an_extra_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, says: str
) -> None:
    """With the command that installs it."""
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        load_dataset(name)

    assert says in str(caught.value)


def test_the_digest_tells_datasets_apart() -> None:
    """By what is in them, not by their names."""
    rows = [Row("a"), Row("b")]

    assert Dataset(name="x", rows=rows).digest == Dataset(name="y", rows=rows).digest
    assert Dataset(name="x", rows=rows).digest != Dataset(name="x", rows=rows[::-1]).digest
    assert (
        Dataset(name="x", rows=[Row("a", None)]).digest
        != Dataset(name="x", rows=[Row(None, "a")]).digest
    )


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The Hugging Face library, without a network, its cache in an empty folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = pytest.importorskip("datasets", reason="needs the extra: pip install 'tbench[data]'")
    monkeypatch.setattr(found.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found.disable_progress_bars()
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_folder_that_datasets_can_load_is_a_dataset(
    tmp_path: Path, hub: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of data files, or as save_to_disk writes it; train is the split where there are several. No bars."""
    files = tmp_path / "files"
    files.mkdir()
    for split, prompts in (("train", PROMPTS), ("test", ["other"])):
        (files / f"{split}.jsonl").write_text(
            "\n".join(json.dumps({"prompt": one}) for one in prompts)
        )
    hub.Dataset.from_dict({"prompt": PROMPTS}).save_to_disk(tmp_path / "saved")
    hub.enable_progress_bars()

    assert load_dataset(files).prompts == PROMPTS
    assert load_dataset(tmp_path / "saved").prompts == PROMPTS
    assert not capfd.readouterr().err
    assert hub.is_progress_bar_enabled()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_images_of_datasets_stay_encoded(tmp_path: Path, hub: Any) -> None:
    """Their bytes are what was stored: they are decoded when they are sent."""
    data = picture()
    rows = {"question": ["a"], "image": [{"bytes": data, "path": None}]}
    features = hub.Features({"question": hub.Value("string"), "image": hub.Image()})
    hub.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")

    assert load_dataset(tmp_path / "saved", PICTURES).rows == [Row("a", data)]
    assert load_dataset(tmp_path / "saved").rows == [Row("a")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_name_that_the_hub_cannot_give_is_one_line(hub: Any) -> None:
    """Whatever the library raises."""
    with pytest.raises(
        InputError,
        match="owner/none: no such file or folder here; cannot be loaded as a Hugging Face dataset",
    ):
        load_dataset("owner/none")
