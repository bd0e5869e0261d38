"""Exporters: write traces in the formats of others, in bounded memory, and say what each of them cannot hold.

EXPORTERS is the table: a format is one file that makes an Exporter, and its row here.
"""

from collections.abc import Mapping
from typing import Final

from tbench.capture.exporters.exporter import Exporter
from tbench.capture.exporters.otlp import OTLP
from tbench.capture.exporters.recordings import HAR, VCR
from tbench.capture.exporters.rows import BATCH, CSV, EVALSCOPE, MOONCAKE, PARQUET

EXPORTERS: Final[Mapping[str, Exporter]] = {
    "openai-batch": BATCH,
    "evalscope": EVALSCOPE,
    "mooncake": MOONCAKE,
    "otlp": OTLP,
    "har": HAR,
    "vcr": VCR,
    "csv": CSV,
    "parquet": PARQUET,
}
