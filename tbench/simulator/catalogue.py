"""The models that the simulator serves, with the list prices of replay.cost."""

from typing import Any

from tbench.replay.cost import PRICES, Price

OTHERS: dict[str, tuple[str, Price]] = {
    "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo": ("chat", Price(0.18, 0.18)),
    "Qwen/Qwen2.5-VL-72B-Instruct": ("chat", Price(1.95, 8.00)),
    "deepseek-ai/DeepSeek-R1": ("chat", Price(3.00, 7.00)),
    "intfloat/multilingual-e5-large-instruct": ("embedding", Price(0.02, 0.0)),
    "BAAI/bge-base-en-v1.5": ("embedding", Price(0.008, 0.0)),
    "Salesforce/Llama-Rank-V1": ("rerank", Price(0.10, 0.0)),
    "mixedbread-ai/Mxbai-Rerank-Large-V2": ("rerank", Price(0.10, 0.0)),
}
"""Served, though their prices are no part of the list that a replay bills by."""

DIMS = {"BAAI/bge-base-en-v1.5": 768}
"""Embedding dimensions other than the profile's."""

SERVED = frozenset({*PRICES, *OTHERS})


def listing(context_tokens: int) -> list[dict[str, Any]]:
    """The answer of GET /models: a bare array. Prices are US dollars per million tokens."""
    kinds = {name: ("chat", price) for name, price in PRICES.items()} | OTHERS
    return [_entry(name, *kinds[name], context_tokens) for name in sorted(kinds)]


def _entry(name: str, kind: str, price: Price, context_tokens: int) -> dict[str, Any]:
    organization, _, display = name.partition("/")
    pricing = {"hourly": 0, "input": price.prompt, "output": price.output, "base": 0, "finetune": 0}
    if price.cached is not None:
        pricing["cached_input"] = price.cached
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "type": kind,
        "running": False,
        "display_name": display,
        "organization": organization,
        "link": "",
        "license": "",
        "context_length": context_tokens,
        "pricing": pricing,
    }
