"""Whose a session is: tenants may use the same ids, and each has sessions of its own."""

from urllib.parse import quote, unquote


def session_of(tenant: str, session_id: str) -> str:
    """Return the name of a tenant's session, unique among all tenants.

    The tenant comes before the first slash. Where there are no tenants, the name is the plain id.
    """
    if tenant or "/" in session_id:
        return f"{quoted(tenant)}/{session_id}"
    return session_id


def quoted(tenant: str) -> str:
    """Return a tenant as it stands in such names: in ASCII, without a slash."""
    return quote(tenant, safe="")


def tenant_of(session: str) -> str:
    """Return the tenant of a session by its unique name."""
    before, slash, _ = session.partition("/")
    return unquote(before) if slash else ""


def session_id_of(session: str) -> str:
    """Return the id by which the tenant knows a session, by its unique name."""
    before, slash, after = session.partition("/")
    return after if slash else before
