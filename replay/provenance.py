"""Where a run comes from: what its file says about trace, pacing, target, flags, versions and machine."""

import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import orjson
from orjson import dumps

from tbench.capture.redact import hides, looks_secret, mask_address
from tbench.capture.remote import as_path
from tbench.capture.runtime import version
from tbench.replay.estimate import Survey, as_map
from tbench.replay.sender import CLOCKS
from tbench.replay.target import host_variable

if TYPE_CHECKING:
    from tbench.replay.job import Job

WITHHELD: Final = "***"
LIBRARIES: Final = ("tbench", "httpx", "httpcore", "h11", "httptools", "trio")


def header(job: "Job", survey: Survey | None) -> dict[str, Any]:
    """The header of a run file (docs/trace-format.md). Holds no key and no header's value."""
    target, pace = job.target, job.pace
    paced = ("mode", "value", "seed", "until", "max_in_flight", "spawn_rate", "ramp", "max_idle")
    fields = {
        name: WITHHELD if target.secrets.found_in(dumps(value)) or hides(name, value) else value
        for name, value in target.fields.items()
    }
    return {
        "run_id": uuid4().hex,
        "wall_ns": time.time_ns(),
        "clock": CLOCKS[job.sender],
        "trace": {
            "path": str(as_path(job.options.trace)),
            "capture_id": job.trace.header.capture_id,
            "files": len(job.trace.files),
            "requests": job.trace.totals.get("requests"),
            "upstream": job.trace.header.upstream,
        },
        "pacing": {
            **{name: getattr(pace, name) for name in paced},
            "clones": pace.clones.number,
            "clone_shift": job.options.clone_shift,
            "open_loop": pace.is_open,
            "meaning": job.options.meaning,
        },
        "target": {
            "base_url": target.base_url,
            "model": target.model,
            "model_for": None if target.serves is None else sorted(target.serves),
            "map_model": dict(target.models),
            "match_length": target.lengths,
            "portable": target.portable,
            "to": target.to,
            "set": fields,
            "headers": [name for name, _ in target.headers],
            "api_key_env": (job.options.api_key_env or host_variable(target.base_url))
            if target.key
            else None,
            "prices": {model: list(price) for model, price in target.prices.items()},
            "polite": job.options.polite,
            "sender": job.sender,
            "http2": job.options.http2,
            "proxy": job.options.proxy is not None,
            "workers": job.workers,
        },
        "deadlines": asdict(job.deadlines),
        "limits": {
            "rounds": job.rounds,
            "requests": job.options.requests,
            "duration_s": job.options.duration,
            "max_cost_usd": job.budget,
            "allow_unsafe": job.options.allow_unsafe,
            "allow_lost": job.options.allow_lost,
            "only": sorted(job.only.words),
        },
        "warmup": asdict(job.warmup),
        "cache": {
            "mode": job.options.cache,
            "salt": target.salt,
            "by": target.salt_field or "text",
            "probe": job.probe,
        },
        "settings": dict(job.options.sources),
        "experiment": job.part_of,
        "survey": as_map(survey) if survey else None,
        "argv": [target.secrets.mask_text(word) for word in scrubbed(job.argv)],
        "host": {
            "cpus": os.cpu_count(),
            "system": platform.system(),
            "kernel": platform.release(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        },
        "versions": {name: version(name) for name in LIBRARIES},
    }


def scrubbed(argv: Sequence[str]) -> list[str]:
    """Arguments without the values of flags that may hold a credential."""
    safe: list[str] = []
    for word, before in zip(argv, ("", *argv), strict=False):
        flag, mark, value = word.partition("=")
        if flag in SCRUBBED and mark:
            safe.append(f"{flag}={SCRUBBED[flag](value)}")
        else:
            safe.append(SCRUBBED.get(before, str)(word))
    return safe


def _safe_field(word: str) -> str:
    """What is no JSON will be refused; until then it may be a key whose quotes were forgotten."""
    name, mark, value = word.partition("=")
    try:
        safe = not hides(name, orjson.loads(value))
    except orjson.JSONDecodeError:
        safe = False
    return word if safe or not mark else f"{name}={WITHHELD}"


_ARM_WORD: Final = re.compile(
    r"(?P<table>header|set)\.(?P<name>[^=,]+)=(?P<value>.*?)"
    r"(?=,(?:name|target|base_url|model|api_key_env)=|,(?:set|map_model|header)\.[^=,]+=|$)"
)
"""A word of `--arm` whose value may be a credential, up to the next word or the end."""


def _safe_arm(text: str) -> str:
    def safe(word: re.Match[str]) -> str:
        name, value = word["name"], word["value"]
        shown = word["table"] == "set" and not ('"' in value and looks_secret(name, value))
        return word[0] if shown else f"{word['table']}.{name}={WITHHELD}"

    return _ARM_WORD.sub(safe, text)


def _safe_params(text: str) -> str:
    """A JSON object without the members that may be credentials; what is no JSON will be refused."""
    try:
        members = orjson.loads(text)
    except orjson.JSONDecodeError:
        return WITHHELD
    return dumps(without_credentials(members)).decode() if isinstance(members, dict) else WITHHELD


def without_credentials(members: Mapping[str, Any]) -> dict[str, Any]:
    """Top-level members of a body, those that may be credentials withheld."""
    return {name: WITHHELD if hides(name, value) else value for name, value in members.items()}


ADDRESSES: Final = ("--proxy", "--base-url", "--api-base", "--upstream", "--upload-results")
"""Flags whose value is a URL: one with a password is refused, and shown to nobody until then."""
SCRUBBED: Final[Mapping[str, Callable[[str], str]]] = {
    "--header": lambda line: line.partition(":")[0].strip() + f": {WITHHELD}",
    "--set": _safe_field,
    "--additional-request-params": _safe_params,
    **dict.fromkeys(ADDRESSES, mask_address),
    "--api-key": lambda _: WITHHELD,
    "--arm": _safe_arm,
}
"""Flags whose values may hold a credential, and what of them is written down."""
