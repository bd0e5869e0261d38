"""Workloads for other load tools: OpenAI batch input, evalscope's traces, Mooncake's shapes."""

from itertools import chain, count, islice
from typing import Final

from tbench.capture.errors import InputError
from tbench.capture.exporters.exporter import (
    NO_JSON,
    NOT_KEPT,
    Exporter,
    Job,
    Maker,
    Record,
    Row,
    headers_of,
    is_kept,
    lines,
)
from tbench.capture.importers.importer import LeftOut
from tbench.capture.mixes import prefix_hashes, prompt_bytes
from tbench.capture.providers import SENT_HEADERS
from tbench.capture.sessions import SESSION_HEADERS

OTHER: Final = LeftOut("of an endpoint other than chat and completions")
NO_TOKENS: Final = LeftOut("whose prompt or output tokens nobody counted")
PLAIN: Final = SENT_HEADERS.union(SESSION_HEADERS) - {"accept", "accept-encoding", "content-type"}
"""Headers that a load tool does not write itself."""


def batch(record: Record) -> Row | LeftOut:
    """A line of a batch's input."""
    request, payload = record.request, record.payload
    if payload is None:
        return NO_JSON if is_kept(request) else NOT_KEPT
    return {"custom_id": request.id, "method": request.method, "url": request.path, "body": payload}


def evalscope(record: Record) -> Row | LeftOut:
    """A line of evalscope's `workload_trace`, which knows no other members: time in s, one URL for all."""
    payload, output = record.payload, record.facts.usage.output
    if record.facts.parsed.info.endpoint not in {"chat", "completions"}:
        return OTHER
    if payload is None:
        return NO_JSON if is_kept(record.request) else NOT_KEPT
    headers = {name: value for name, value in headers_of(record.request) if name in PLAIN}
    row = {
        "body": payload,
        "timestamp": record.arrival_ns / 1e9,
        "headers": headers or None,
        "request_id": record.request.id,
        "completion_tokens": output or None,
    }
    return {name: value for name, value in row.items() if value is not None}


def mooncake(job: Job) -> Maker:
    """Lengths as the server counted them; an id for each block of a prompt, equal where all up to there is.

    Where a block ends is reckoned in bytes, at the trace's mean of bytes a token: prompts with one beginning
    share its ids exactly, and what a prompt's count of tokens asks for beyond its bytes are ids of its own.
    """
    hashed = job.trace.header.extra.get("hashes")
    block_tokens = hashed.get("block_tokens") if isinstance(hashed, dict) else job.block_tokens
    if block_tokens != job.block_tokens:
        raise InputError(
            f"--block-tokens {job.block_tokens}: the trace holds ids for blocks of {block_tokens} tokens"
        )
    sizes = tokens = 0
    for record in job.records():
        if (prompt := record.facts.usage.prompt) is not None and is_kept(record.request):
            sizes += len(prompt_bytes(record.facts.parsed, record.request.body))
            tokens += prompt
    block_bytes = max(1, round(job.block_tokens * sizes / tokens)) if tokens else 1
    first: list[int] = []

    def row(record: Record) -> Row | LeftOut:
        usage = record.facts.usage
        if not first:
            first.append(record.arrival_ns)
        if not usage.prompt or usage.output is None:
            return NO_TOKENS
        if not is_kept(record.request):
            return NOT_KEPT
        text = prompt_bytes(record.facts.parsed, record.request.body)
        name = record.request.id.encode("utf-8", "replace")
        alone = (next(prefix_hashes(b"%s %d" % (name, n), 999)) for n in count())
        hash_ids = record.request.extra.get("hash_ids")  # of a copy without texts
        known = hash_ids if isinstance(hash_ids, list) else prefix_hashes(text, block_bytes)
        ids = chain(known, alone)
        return {
            "timestamp": (record.arrival_ns - first[0]) // 10**6,
            "input_length": usage.prompt,
            "output_length": usage.output,
            "hash_ids": list(islice(ids, -(-usage.prompt // job.block_tokens))),
        }

    return row


BATCH = Exporter(
    make=lambda _job: batch,
    write=lines,
    cannot="arrivals, answers, latencies, headers",
)
EVALSCOPE = Exporter(
    make=lambda _job: evalscope,
    write=lines,
    cannot="answers, latencies, failures, paths (it sends all to one URL)",
)
MOONCAKE = Exporter(
    make=mooncake,
    write=lines,
    cannot="texts, models, sessions, answers, latencies, times below 1 ms",
)
