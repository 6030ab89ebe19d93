"""The certificate and key for https: whether they can be used, and the oldest TLS allowed."""

import ssl
from pathlib import Path

LEAST = ssl.TLSVersion.TLSv1_2
CERT, KEY = "ORCHESTRATOR_TLS_CERT", "ORCHESTRATOR_TLS_KEY"


def fault(certificate: str | None, key: str | None) -> str | None:
    """Return a sentence on what is wrong with a pair of files, or None. Quotes nothing of them."""
    if not certificate or not key:
        return f"{CERT} and {KEY} go together: set both or neither."
    for variable, path in ((CERT, certificate), (KEY, key)):
        try:
            Path(path).read_bytes()
        except OSError as error:
            return f"{variable}: {path} can't be read ({error.strerror})."
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Asked for only where the key has one: an empty answer fails, instead of a prompt.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        return _of(error, certificate, key)
    except (OSError, ValueError):
        return f"{CERT}: {certificate} holds no certificate in PEM form."
    return None


def _of(error: ssl.SSLError, certificate: str, key: str) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"{KEY}: {key} is not the key of the certificate in {CERT}={certificate}."
    if error.reason and error.reason.endswith(("TOO_SMALL", "TOO_WEAK")):
        return f"{CERT}: the key of {certificate} is too weak. Use 2048 bits of RSA, or P-256."
    if not _is_certificate(certificate):
        return f"{CERT}: {certificate} holds no certificate in PEM form."
    if "ENCRYPTED" in Path(key).read_text("latin-1"):
        return f"{KEY}: {key} has a passphrase. Give it without: openssl pkey -in KEY -out PLAIN."
    return f"{KEY}: {key} holds no key in PEM form, or none of {CERT}={certificate}."


def _is_certificate(path: str) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(path)
    except (OSError, ValueError):
        return False
    return True
