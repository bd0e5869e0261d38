"""Images: RGB JPEG of the asked size as data URLs, whatever came in; the server bills them as such."""

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from tbench.capture.errors import InputError
from tbench.capture.synthesis.dataset import Columns, Dataset, Row, load_dataset
from tbench.capture.synthesis.generate import exchanges
from tbench.capture.synthesis.images import data_url, generated, readable
from tbench.capture.synthesis.scenario import parse
from tbench.capture.synthesis.workload import Workload
from tbench.simulator.prompt import image_size

RED = (255, 0, 0)
LLAMA = "meta-llama/Llama-3.3-70B-Instruct-Turbo"


def stored(mode: str, kind: str, size: tuple[int, int] = (40, 30)) -> bytes:
    image = Image.new("RGB", size, RED)
    out = BytesIO()
    image.convert(mode).save(out, format=kind)
    return out.getvalue()


def opened(url: str) -> Image.Image:
    head, _, data = url.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(BytesIO(b64decode(data, validate=True)))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("RGB", "PNG"), ("RGBA", "PNG"), ("P", "GIF"), ("L", "JPEG"), ("CMYK", "JPEG"), ("1", "PNG"),
        ("RGB", "WEBP"),
    ],
)  # fmt: skip
def test_any_image_becomes_a_jpeg_of_the_asked_size(mode: str, kind: str) -> None:
    """Read by another parser than the one that wrote it."""
    url = data_url(stored(mode, kind), (64, 48))

    assert opened(url).mode == "RGB"
    assert image_size(b64decode(url.partition(",")[2])) == (64, 48)


def test_without_a_size_it_keeps_its_own() -> None:
    """And its colour, within what JPEG loses."""
    found = opened(data_url(stored("RGB", "PNG")))
    pixel = found.getpixel((20, 15))

    assert found.size == (40, 30)
    assert isinstance(pixel, tuple)
    assert all(abs(a - b) < 6 for a, b in zip(pixel, RED, strict=True))


def test_resizing_is_lanczos() -> None:
    """The same pixels as Pillow's own, put through the same JPEG."""
    noise = Image.frombytes("RGB", (50, 50), Random(1).randbytes(7500))
    out = BytesIO()
    noise.save(out, format="PNG")
    wanted = BytesIO()
    noise.resize((20, 20), Image.Resampling.LANCZOS).save(wanted, format="JPEG")

    assert b64decode(data_url(out.getvalue(), (20, 20)).partition(",")[2]) == wanted.getvalue()


def test_addresses_pass_and_data_urls_are_decoded() -> None:
    """What a server fetches is its business; what is here is made like the others."""
    inline = "data:image/png;base64," + b64encode(stored("RGB", "PNG")).decode()

    assert data_url("https://example.invalid/a.png", (9, 9)) == "https://example.invalid/a.png"
    assert opened(data_url(inline, (9, 9))).size == (9, 9)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (stored("RGB", "PNG"), None),
        ("http://example.invalid/a.png", None),
        (None, "without an image"),
        (b"no image", "with an image that cannot be read"),
        ("data:image/png;base64,!", "with an image that cannot be read"),
        (Path("/none/at/all.png"), "with an image that is not there"),
        (7, "with an image that is none"),
    ],
)
def test_what_cannot_be_read_is_known_beforehand(image: object, reason: str | None) -> None:
    """By a look at its head."""
    assert readable(image) == reason


def test_a_cut_image_fails_loudly(tmp_path: Path) -> None:
    """Its head is sound, so it is found when it is drawn; its name is said."""
    noise = Image.frombytes("RGB", (100, 100), Random(1).randbytes(30_000))
    whole = BytesIO()
    noise.save(whole, format="PNG")
    path = tmp_path / "cut.png"
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])

    assert readable(path) is None
    with pytest.raises(InputError, match=r"cut\.png: not an image that can be read"):
        data_url(path, (8, 8))


def test_a_huge_image_needs_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's limit holds unless it is lifted, and is as before afterwards."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    data = stored("RGB", "PNG")
    with pytest.raises(InputError, match="decompression bomb"):
        data_url(data)

    assert opened(data_url(data, (8, 8), large=True)).size == (8, 8)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_generated_images_are_seeded_and_all_different() -> None:
    """Of the asked size, and about as many bytes as a photograph of it."""
    rng = Random(1)
    made = [generated(rng, (256, 128)) for _ in range(20)]

    assert made[0] == generated(Random(1), (256, 128))
    assert len(set(made)) == 20
    assert {opened(url).size for url in made} == {(256, 128)}
    assert 5_000 < len(made[0]) < 60_000


def workload(scenario: str, dataset: Dataset | None = None, **changes: Any) -> Workload:
    plain: dict[str, Any] = {"model": "m", "requests": 12, "seed": 1}
    return Workload(
        task="image-text-to-text", scenario=parse(scenario), dataset=dataset, **{**plain, **changes}
    )


def contents(found: Workload) -> list[list[dict[str, Any]]]:
    bodies = [json.loads(one.request.body or b"") for one in exchanges(found)]
    assert all("max_tokens" not in body and body["ignore_eos"] is False for body in bodies)
    return [body["messages"][0]["content"] for body in bodies]


def urls(content: list[dict[str, Any]]) -> list[str]:
    return [part["image_url"]["url"] for part in content[1:]]


def test_pictures_of_a_dataset_come_with_their_prompts(tmp_path: Path) -> None:
    """Drawn with replacement, resized; a row without a prompt gets a question of ours."""
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(stored("RGB", "PNG"))
    rows = [{"prompt": f"What is {name}?", "image": f"{name}.png"} for name in "abc"]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    asked = contents(
        workload("I(32,16)", load_dataset(tmp_path / "rows.json", Columns(pictures=True)))
    )
    bare = contents(
        workload("I(32,16,2)", Dataset(name="x", rows=[Row(image=stored("RGB", "PNG"))]))
    )

    assert {content[0]["text"] for content in asked} == {f"What is {name}?" for name in "abc"}
    assert {opened(url).size for content in asked for url in urls(content)} == {(32, 16)}
    assert all(content[0]["text"] and len(urls(content)) == 2 for content in bare)


def test_the_scenario_dataset_keeps_the_pictures_sizes() -> None:
    """Encoded again, not resized."""
    data = Dataset(name="x", rows=[Row("What?", stored("RGB", "PNG"))])

    assert {opened(urls(one)[0]).size for one in contents(workload("dataset", data))} == {(40, 30)}


def test_without_a_dataset_pictures_are_generated() -> None:
    """So that the task runs with nothing but a scenario; each request has its own."""
    made = contents(workload("I(48,32,2)"))

    assert len({url for content in made for url in urls(content)}) == 24
    assert contents(workload("I(48,32,2)")) == made


def test_a_dataset_without_pictures_is_refused() -> None:
    """With the option that may help."""
    with pytest.raises(InputError, match="--dataset-image-column"):
        workload("I(8,8)", Dataset(name="x", rows=[Row("text")]))


def test_a_server_bills_the_pictures(
    tbench: Callable[..., Any], simulator: Any, tmp_path: Path
) -> None:
    """One tile for 512 x 512, two for 1024 x 512 (1,601 tokens each), whatever the pictures were before."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(stored("RGB", "PNG", (1500, 900)))
    for scenario, tiles in (("I(512,512)", 1), ("I(1024,512)", 2)):
        made = tbench(
            "trace", "synth", "--task", "image-text-to-text", "--scenario", scenario,
            "--dataset-path", folder, "--model", LLAMA, "--requests", 3,
            "--additional-request-params", '{"max_tokens": 5}', "-o", f"{tiles}.msgpack",
        )  # fmt: skip
        assert made.code == 0, made.err
        sent = tbench(
            "replay", f"{tiles}.msgpack", "--base-url", simulator.url, "--concurrency", 3, "--warmup", "none",
            "-o", f"{tiles}.run", "--json",
        )  # fmt: skip
        assert sent.ended, sent.err
        report = json.loads(tbench("report", f"{tiles}.run", "--samples", "--json").out)
        text_and_template = [count - 1601 * tiles for count in report["samples"]["prompt_tokens"]]
        assert all(8 < rest < 30 for rest in text_and_template)
