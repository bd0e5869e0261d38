"""Trust: which certificates https is verified against. As httpx has it, without loading httpx."""

import os
import ssl
from pathlib import Path

from tbench.capture.errors import InputError


def tls(ca: Path | None = None) -> ssl.SSLContext:
    """Verifying TLS: certifi's roots, or those of SSL_CERT_FILE or SSL_CERT_DIR; `ca` adds a file of more."""
    context = _context()
    if ca is not None:
        try:
            context.load_verify_locations(cafile=ca)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"--ca {ca}: no readable PEM certificates ({error})") from None
    return context


def _context() -> ssl.SSLContext:
    if file := os.environ.get("SSL_CERT_FILE"):
        return ssl.create_default_context(cafile=file)
    if folder := os.environ.get("SSL_CERT_DIR"):
        return ssl.create_default_context(capath=folder)
    import certifi  # noqa: PLC0415 (its file is the only thing of it)

    return ssl.create_default_context(cafile=certifi.where())
