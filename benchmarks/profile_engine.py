"""Where each microsecond of a request goes, in the process that sends, by function.

    python benchmarks/profile_engine.py [--tokens 1] [--requests 20000] [--top 14]
    python benchmarks/profile_engine.py --tokens 50 --itl-ms 20 --in-flight 1000 --requests 5000

One engine sender, prebuilt calls, so many in flight, against benchmarks/truthserver on core 0. First
without a profiler (the true cost), then under cProfile, whose own cost is spread over what it counts: read
the shares, not the sums. What is waited for (epoll) is left out. Figures are per request; with `--itl-ms`
per chunk, which comes alone unless other work keeps this process from reading it.
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

from tbench.replay.engine.sender import EngineSender
from tbench.replay.request import origin_of
from tbench.replay.sender import Call, Deadlines, Reply

HERE = Path(__file__).parent
LEFT_OUT = ("'poll'", "gc.collect")


def main() -> None:
    """Measure, then profile."""
    options = _options()
    itl = str(options.itl_ms)
    flags = ("--ttft-ms", itl, "--itl-ms", itl, "--tokens", str(options.tokens), "--force-tokens")
    alone = options.itl_ms > 0
    parts = options.requests * (options.tokens if alone else 1)
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(options.server, flags, Path(folder), tls=False) as (url, _),
    ):
        took = trio.run(_load, url, options.requests, options.in_flight)
        what = "chunk that comes alone" if alone else f"request of {options.tokens} tokens"
        print(f"{took / parts * 1e6:.1f} us of CPU for each {what}: {parts / took:,.0f}/s a core")
        profile = cProfile.Profile()
        profile.enable()
        trio.run(_load, url, options.requests, options.in_flight)
        profile.disable()
    _print(profile, parts, options.top)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--server", default=str(HERE / "truthserver"))
    parser.add_argument("--tokens", type=int, default=1)
    parser.add_argument("--itl-ms", type=float, default=0.0, help="between two tokens")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--top", type=int, default=14)
    return parser.parse_args()


async def _load(url: str, requests: int, in_flight: int) -> float:
    """CPU seconds."""
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
        if left >= in_flight:
            sender.launch(call, Reply(), ended)
        elif left == 0:
            over.set()

    async with EngineSender(Deadlines(), None) as sender:
        await sender.preopen(origin, in_flight)
        gc.collect()
        gc.disable()
        began = time.process_time()
        for _ in range(in_flight):
            sender.launch(call, Reply(), ended)
        await over.wait()
        took = time.process_time() - began
        gc.enable()
    return took


def _print(profile: cProfile.Profile, parts: int, top: int) -> None:
    rows = []
    for (path, _, name), (_, calls, own, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        rows.append((own / parts * 1e6, calls / parts, f"{Path(path).name}:{name}"))
    rows = [row for row in rows if not any(name in row[2] for name in LEFT_OUT)]
    whole = sum(own for own, _, _ in rows)
    print("| share | calls | function |\n|---|---|---|")
    for own, calls, name in sorted(rows, reverse=True)[:top]:
        print(f"| {own / whole:.1%} | {calls:.2f} | `{name}` |")


if __name__ == "__main__":
    main()
