"""Importers: make traces of logs and of public traces, in bounded memory, and say what each of them lacks.

IMPORTERS is the table: a format is one file that makes an Importer, and its row here.
"""

from collections.abc import Mapping
from typing import Final

from tbench.capture.importers.batch import BATCH
from tbench.capture.importers.har import HAR
from tbench.capture.importers.importer import Importer
from tbench.capture.importers.langfuse import LANGFUSE
from tbench.capture.importers.litellm import LITELLM
from tbench.capture.importers.otlp import OTLP
from tbench.capture.importers.shapes import AZURE, BURSTGPT, MOONCAKE
from tbench.capture.importers.sharegpt import SHAREGPT

IMPORTERS: Final[Mapping[str, Importer]] = {
    "openai-batch": BATCH,
    "mooncake": MOONCAKE,
    "azure": AZURE,
    "burstgpt": BURSTGPT,
    "sharegpt": SHAREGPT,
    "har": HAR,
    "litellm": LITELLM,
    "langfuse": LANGFUSE,
    "otlp": OTLP,
}
"""Where the rows tell the format, the first importer that matches one is taken."""
