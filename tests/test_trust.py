"""replay.system: https is verified as httpx would verify it."""

import ssl
from pathlib import Path

import httpx
import pytest
import trustme

from tbench.capture.errors import InputError
from tbench.replay.system import tls


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With an authority in it, as a file and by its hash."""
    pem = trustme.CA().cert_pem
    pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path


@pytest.mark.parametrize("name", [None, "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_the_authorities_are_those_of_httpx(
    name: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so is everything else of how they are used."""
    for other in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(other, raising=False)
    if name is not None:
        monkeypatch.setenv(name, str(folder / "ca.pem" if name == "SSL_CERT_FILE" else folder))
    ours, theirs = tls(), httpx.create_ssl_context()

    assert ours.get_ca_certs() == theirs.get_ca_certs()
    assert _habits(ours) == _habits(theirs)


def _habits(context: ssl.SSLContext) -> tuple[object, ...]:
    return (
        context.verify_mode,
        context.check_hostname,
        context.options,
        context.minimum_version,
        context.verify_flags,
    )


def test_a_file_of_authorities_is_added(tmp_path: Path) -> None:
    """--ca takes PEM; anything else is one line."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "no.pem").write_text("hello")

    assert any(
        "trustme" in str(cert["subject"]) for cert in tls(tmp_path / "ca.pem").get_ca_certs()
    )
    for name in ("no.pem", "absent.pem"):
        with pytest.raises(InputError, match="--ca"):
            tls(tmp_path / name)
