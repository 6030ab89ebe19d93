"""Whose a session is: tenants may use the same ids, and each has sessions of its own."""

from urllib.parse import quote, unquote


def session_of(tenant: str, session_id: str) -> str:
    """Return the name that a tenant's session has among those of all tenants.

    What is before the first slash is the tenant; nobody's sessions have a plain name.
    """
    if tenant or "/" in session_id:
        return f"{quoted(tenant)}/{session_id}"
    return session_id


def quoted(tenant: str) -> str:
    """Return a tenant as it is in the names of what it has: ASCII, and without a slash."""
    return quote(tenant, safe="")


def tenant_of(session: str) -> str:
    """Return whose session it is, by its name."""
    before, slash, _ = session.partition("/")
    return unquote(before) if slash else ""


def session_id_of(session: str) -> str:
    """Return what its tenant calls a session, by its name."""
    before, slash, after = session.partition("/")
    return after if slash else before
