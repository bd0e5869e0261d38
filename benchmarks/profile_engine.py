"""Where each microsecond of a request goes, in the process that sends, by function.

    python benchmarks/profile_engine.py [--tokens 1] [--requests 20000] [--top 14]

One engine sender, prebuilt calls, 64 in flight, against benchmarks/truthserver on core 0. First without a
profiler (the true cost), then under cProfile, whose own cost is spread over what it counts: read the shares,
not the sums. Figures are per request.
"""

import argparse
import cProfile
import gc
import pstats
import tempfile
import time
from pathlib import Path

import httpx
import trio
from engine import serving

from replay.engine.sender import EngineSender
from replay.heads import origin_of
from replay.httpx_sender import tls
from replay.sender import Call, Deadlines, Reply

HERE = Path(__file__).parent
IN_FLIGHT = 64


def main() -> None:
    """Measure, then profile."""
    options = _options()
    flags = ("--ttft-ms", "0", "--itl-ms", "0", "--tokens", str(options.tokens), "--force-tokens")
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(options.server, flags, Path(folder), tls=False) as (url, _),
    ):
        cost = trio.run(_load, url, options.requests)
        print(
            f"{cost * 1e6:.1f} us of CPU for each request of {options.tokens} tokens: {1 / cost:,.0f}/s"
        )
        profile = cProfile.Profile()
        profile.enable()
        trio.run(_load, url, options.requests)
        profile.disable()
    _print(profile, options.requests, options.top)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--server", default=str(HERE / "truthserver"))
    parser.add_argument("--tokens", type=int, default=1)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--top", type=int, default=14)
    return parser.parse_args()


async def _load(url: str, requests: int) -> float:
    """CPU seconds a request."""
    origin = origin_of(httpx.URL(url))
    body = b'{"model":"m","messages":[{"role":"user","content":"hello there"}],"stream":true}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    call = Call(index=0, due=None, origin=origin, head=head, body=body)
    left, over = requests, trio.Event()

    def ended() -> None:
        nonlocal left
        left -= 1
        if left >= IN_FLIGHT:
            sender.launch(call, Reply(), ended)
        elif left == 0:
            over.set()

    async with EngineSender(Deadlines(), tls()) as sender:
        await sender.preopen(origin, IN_FLIGHT)
        gc.collect()
        gc.disable()
        began = time.process_time()
        for _ in range(IN_FLIGHT):
            sender.launch(call, Reply(), ended)
        await over.wait()
        took = time.process_time() - began
        gc.enable()
    return took / requests


def _print(profile: cProfile.Profile, requests: int, top: int) -> None:
    rows = []
    for (path, _, name), (_, calls, own, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        rows.append((own / requests * 1e6, calls / requests, f"{Path(path).name}:{name}"))
    whole = sum(own for own, _, _ in rows)
    print("| share | calls | function |\n|---|---|---|")
    for own, calls, name in sorted(rows, reverse=True)[:top]:
        print(f"| {own / whole:.1%} | {calls:.2f} | `{name}` |")


if __name__ == "__main__":
    main()
