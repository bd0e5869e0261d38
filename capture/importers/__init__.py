"""Importers: make traces of logs and of public traces, in bounded memory, and say what each of them lacks.

IMPORTERS is the table: a format is an Importer, in a file of its own or of its kind, and its row here.
"""

from collections.abc import Mapping
from typing import Final

from tbench.capture.importers.access_logs import ENVOY, NGINX
from tbench.capture.importers.datasets import (
    AIPERF,
    BATCH,
    EVALSCOPE,
    GENAI_BENCH,
    MLPERF,
    SHAREGPT,
)
from tbench.capture.importers.gateways import BEDROCK, DATABRICKS, HELICONE, LITELLM, SAGEMAKER
from tbench.capture.importers.http_logs import GOREPLAY, HAR, MITMPROXY, VCRPY
from tbench.capture.importers.importer import Importer
from tbench.capture.importers.otlp import OTLP
from tbench.capture.importers.sessions import CLAUDE_CODE, CODEX
from tbench.capture.importers.shapes import (
    AZURE,
    BAILIAN,
    BURSTGPT,
    MOONCAKE,
    SERVEGEN,
    TRACELAB,
    WEKA,
)
from tbench.capture.importers.tracers import LANGFUSE, LANGSMITH

IMPORTERS: Final[Mapping[str, Importer]] = {
    "openai-batch": BATCH,
    "evalscope": EVALSCOPE,
    "bailian": BAILIAN,
    "mooncake": MOONCAKE,
    "azure": AZURE,
    "burstgpt": BURSTGPT,
    "tracelab": TRACELAB,
    "weka": WEKA,
    "servegen": SERVEGEN,
    "sharegpt": SHAREGPT,
    "mlperf-agentic": MLPERF,
    "genai-bench": GENAI_BENCH,
    "har": HAR,
    "mitmproxy": MITMPROXY,
    "goreplay": GOREPLAY,
    "vcrpy": VCRPY,
    "litellm": LITELLM,
    "langsmith": LANGSMITH,
    "langfuse": LANGFUSE,
    "otlp": OTLP,
    "claude-code": CLAUDE_CODE,
    "codex": CODEX,
    "bedrock": BEDROCK,
    "helicone": HELICONE,
    "sagemaker": SAGEMAKER,
    "databricks": DATABRICKS,
    "envoy": ENVOY,
    "nginx": NGINX,
    "aiperf": AIPERF,
}
"""Where the rows tell the format, the first importer that matches one is taken."""
