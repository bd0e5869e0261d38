"""tbench serve."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tbench.capture.errors import InputError
from tbench.capture.option import Option
from tbench.flags import verb

KEY_ENV = "TBENCH_SERVE_KEY"


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The options of `tbench serve`."""

    host: Annotated[str, Option(help="Address to listen on.", unit="ADDRESS")] = "127.0.0.1"
    port: Annotated[
        int, Option(help="Port to listen on; 0 takes a free one.", least=0, most=65535)
    ] = 8000
    profile: Annotated[
        str, Option(help="How fast it is: fast, slow, or a TOML file.", unit="PROFILE")
    ] = "fast"
    seed: Annotated[
        int, Option(help="Seed of the answers, the engine's noise and the faults.", unit="N")
    ] = 0
    log: Annotated[
        Path | None,
        Option(help="Write the truth to this file, one JSON line per request.", unit="FILE"),
    ] = None
    api_key: Annotated[
        list[str] | None,
        Option(
            help="Key to accept; also from TBENCH_SERVE_KEY. Without one, any key passes but one that "
            "begins with 'bad'. Repeatable.",
            unit="KEY",
        ),
    ] = None
    any_model: Annotated[bool, Option(help="Serve every model name, not only known ones.")] = False
    strict: Annotated[
        bool,
        Option(
            help="Refuse what a strict gateway refuses: members that the API does not name, and "
            "what others issued (signatures, encrypted reasoning, ids)."
        ),
    ] = False
    fault: Annotated[
        list[str] | None,
        Option(
            help="Share of requests to spoil: a status (429=0.02), reset, close, slow, stall, cut, eof, "
            "error, garbage, html. One request: header 'x-sim-fault: cut;at=3'. Repeatable.",
            unit="KIND=SHARE",
        ),
    ] = None
    rate_limit: Annotated[
        float | None,
        Option(
            help="Maximum requests per second; above it 429. 0: no limit.", unit="RATE", least=0
        ),
    ] = None
    duration: Annotated[
        float | None, Option(help="End after this time.", unit="SECONDS", least=0)
    ] = None
    requests: Annotated[
        int | None, Option(help="End after this many requests.", unit="N", least=1)
    ] = None
    odd: Annotated[
        bool,
        Option(
            help="Serve the odd behaviours of real servers instead, one for each model name; GET "
            "/v1/models lists them. Only --host, --port, --duration and --requests apply."
        ),
    ] = False
    tls_cert: Annotated[
        Path | None, Option(help="Certificate (PEM) to serve https with.", unit="FILE")
    ] = None
    tls_key: Annotated[Path | None, Option(help="Its key (PEM).", unit="FILE")] = None


@verb
def serve(options: ServeOptions) -> None:
    """Serve a simulated Together endpoint: its API, with a modelled engine and no model.

    It speaks chat, completions, Messages (/v1/messages), Responses, embeddings and rerank. The same seed and
    prompt give the same answer. Request headers control a request: x-sim-tokens, x-sim-ttft-ms,
    x-sim-itl-ms, x-sim-fault, x-sim-encoding. The true times are in the response header x-sim-timing,
    in --log, and at GET /_truth (the last 10,000 that ended), /_stats and /_reset. Ends on SIGINT or
    SIGTERM.
    """
    import asyncio
    import ssl
    from dataclasses import fields, replace

    from tbench.simulator.engine import check_faults, load_profile
    from tbench.simulator.odd import OddServer
    from tbench.simulator.server import run
    from tbench.simulator.service import Rules

    if options.odd:
        taken = {"host", "port", "duration", "requests", "odd"}
        others = (option for option in fields(options) if option.name not in taken)
        if any(getattr(options, option.name) != option.default for option in others):
            raise InputError(
                "--odd goes with --host, --port, --duration and --requests only; leave out the others"
            )
        asyncio.run(OddServer().serve(options))
        return
    profile = load_profile(options.profile)
    faults = _faults(options.fault or ())
    check_faults(faults, "--fault")
    limits = profile.limits
    if options.rate_limit is not None:
        limits = replace(limits, requests_per_s=options.rate_limit)
    profile = replace(profile, limits=limits, faults={**profile.faults, **faults})
    for name, path in (("--tls-cert", options.tls_cert), ("--tls-key", options.tls_key)):
        if path and not path.is_file():
            raise InputError(f"{name} {path}: no such file")
    if bool(options.tls_cert) != bool(options.tls_key):
        raise InputError("--tls-cert and --tls-key go together; give both or none")
    if options.tls_cert:
        try:
            # Without a password of ours OpenSSL would ask for one on the terminal.
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                options.tls_cert, options.tls_key, password=lambda: b""
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"--tls-cert {options.tls_cert}, --tls-key {options.tls_key}: not a certificate and its "
                f"unencrypted key in PEM ({getattr(error, 'reason', None) or error})"
            ) from None
    keys = list(options.api_key or ())
    if named := os.environ.get(KEY_ENV):
        keys.append(named)
    rules = Rules(
        seed=options.seed, keys=tuple(keys), any_model=options.any_model, strict=options.strict
    )
    run(profile, rules, options)


def _faults(words: Iterable[str]) -> dict[str, float]:
    """`KIND=SHARE` words as a map."""
    faults: dict[str, float] = {}
    for word in words:
        kind, _, share = word.partition("=")
        if kind in faults:
            raise InputError(f"--fault {word}: {kind} has a share already")
        try:
            faults[kind] = float(share)
        except ValueError:
            raise InputError(f"--fault {word}: write KIND=SHARE, as in 429=0.02") from None
    return faults
