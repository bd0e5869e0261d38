"""What `capture --privacy shape` costs the thread that writes: CPU of a request with a new text.

    python benchmarks/shape_cost.py [--beside OTHER_CHECKOUT]

A chat request goes the writer's whole way but the disk, with stand-ins and without: its JSON is read, secrets
are looked for, its texts are made up, JSON is written. The least of three passes, each over new texts.
`--beside` has another checkout measure itself in turns with this one.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[1]
SIZES = (400, 4_000, 20_000)
"""Bytes of the text."""
BYTES = 800_000
"""Of all texts of a size."""
PASSES = 3
ROW = "| {:<12} | {:>8,} | {:>8.3f} | {:>8.3f} |"


def figures(root: Path) -> None:
    """Print a JSON list for each size: bytes, ms of CPU with stand-ins, and without."""
    sys.path.insert(0, str(root))
    from tbench.capture.exchange import Request  # noqa: PLC0415
    from tbench.capture.privacy.traffic import shape  # noqa: PLC0415
    from tbench.capture.redact import Redactor, Secrets  # noqa: PLC0415
    from tbench.capture.sanitize import Sanitizer  # noqa: PLC0415

    source, rng = (root / "LICENSE").read_text(), Random(1)
    key, secrets = bytes(32), Secrets.of(["sk-0123456789abcdefghij"])

    def text(size: int) -> str:
        made = ""
        while len(made) < size:
            start = rng.randrange(len(source) - 400)
            made += source[start : start + rng.randint(100, 400)]
        return made[:size]

    def request(number: int, size: int) -> Request:
        messages = [{"role": "user", "content": text(size)}]
        body = json.dumps({"model": "m", "stream": True, "messages": messages}).encode()
        return Request(
            id=str(number), seq=number, arrive_ns=number, end_ns=number, method="POST", scheme="http",
            host="127.0.0.1:80", path="/v1/chat/completions", body=body, body_bytes=len(body),
            headers=(("content-type", "application/json"),), client="c",
        )  # fmt: skip

    def took_ms(requests: list[Request], *, shapes: bool) -> float:
        sanitizer = Sanitizer(Redactor(key), disguise=shape(key) if shapes else None)
        began = time.process_time()
        for each in requests:
            sanitizer.request(each, secrets)
        return (time.process_time() - began) / len(requests) * 1e3

    for size in SIZES:
        requests = [request(number, size) for number in range(BYTES // size)]
        both = (min(took_ms(requests, shapes=s) for _ in range(PASSES)) for s in (True, False))
        print(json.dumps([size, *both]), flush=True)


def main() -> None:
    """Print a row for each size, of this checkout and of the one beside it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--figures", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.figures:
        figures(arguments.figures)
        return
    print("| checkout | bytes | shape, ms of CPU | full |\n|---|---|---|---|")
    for root in filter(None, (ROOT, arguments.beside, ROOT, arguments.beside)):
        command = [sys.executable, "-P", __file__, "--figures", str(root)]
        for line in subprocess.run(command, capture_output=True, check=True).stdout.splitlines():
            print(ROW.format(root.name, *json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
