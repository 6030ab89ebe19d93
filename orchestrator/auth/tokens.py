"""JSON web tokens: one algorithm, keys that the settings name, and the claims that are needed."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import jwt

from orchestrator.caller import Caller, Scope

LEEWAY_S = 30.0
"""How much clocks may differ."""
RSA_LEAST = 2048
"""Bits: as many as RS256 needs (RFC 7518, 3.3)."""
TOKEN_MOST = 8 * 1024
"""Characters."""
NAME_MOST = 255
"""Characters of a subject and of a tenant."""
SUBJECT = "sub"
NO_MATCH = "The token's signature does not match, or it is no token."
LAST_MOMENT = 253_402_300_800.0
"""The end of the year 9999, the last one that ``datetime`` knows."""


class Refused(Exception):
    """A token is not accepted. The message is for whoever sent it, and quotes nothing of it."""


class Verifiers(Protocol):
    """Where the keys are that tokens are checked with."""

    def find(self, key_id: str | None) -> Sequence[Any]:
        """Return the keys that may have signed a token which names this one, or names none."""
        ...


class OneKey:
    """The same key for all tokens: a secret, or a public key."""

    def __init__(self, key: Any) -> None:
        self._key = key

    def find(self, key_id: str | None) -> Sequence[Any]:
        return (self._key,)


def is_weak(key: Any, algorithm: str) -> bool:
    """Whether a public key is shorter than its algorithm needs."""
    return algorithm == "RS256" and key.key_size < RSA_LEAST


@dataclass(frozen=True, slots=True)
class TokenReader:
    """Makes callers of tokens. ``issuer`` and ``audience`` are checked where they are set.

    A ``tenant_claim`` names the tenant, as keys do. With ``sub`` each subject is a tenant of its
    own, which no key can name.
    """

    verifiers: Verifiers
    algorithm: str
    issuer: str | None
    audience: str | None
    tenant_claim: str
    clock: Callable[[], float]

    def caller(self, token: str) -> Caller:
        """Return whose token it is. Raises Refused."""
        if len(token) > TOKEN_MOST:
            raise Refused(f"The token is longer than {TOKEN_MOST} characters.")
        claims = self._claims(token, self._keys(token))
        expires_at = self._moments(claims)
        subject = _name(claims, SUBJECT)
        # With a colon, which no key's tenant has: a subject of that name is somebody else.
        is_own = self.tenant_claim == SUBJECT
        tenant = f"{SUBJECT}:{subject}" if is_own else _name(claims, self.tenant_claim)
        return Caller(tenant, subject, _scopes(claims), expires_at=expires_at)

    def _keys(self, token: str) -> Sequence[Any]:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise Refused("This is neither an API key nor a JSON web token.") from None
        if header.get("alg") != self.algorithm:
            raise Refused(f"The token must be signed with {self.algorithm}.")
        if "crit" in header:
            raise Refused("The token has critical extensions, and none is understood here.")
        key_id = header.get("kid")
        keys = self.verifiers.find(key_id if isinstance(key_id, str) else None)
        if not keys:
            raise Refused("The token is signed with a key that is not known here.")
        return keys

    def _claims(self, token: str, keys: Sequence[Any]) -> dict[str, Any]:
        for key in keys:
            with suppress(jwt.InvalidSignatureError):
                return self._claims_by(token, key)
        raise Refused(NO_MATCH)

    def _claims_by(self, token: str, key: Any) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[self.algorithm],
                issuer=self.issuer,
                audience=self.audience,
                leeway=LEEWAY_S,
                options={
                    "require": ["exp", "sub"],
                    "verify_aud": self.audience is not None,
                    # They are looked at here, by a clock that a test can set, and as numbers only.
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    # So is this: whoever sent it is to know what it must be.
                    "verify_sub": False,
                },
            )
        except jwt.InvalidIssuerError:
            raise Refused("The token comes from another issuer.") from None
        except jwt.InvalidAudienceError:
            raise Refused("The token is meant for another audience.") from None
        except jwt.MissingRequiredClaimError as error:
            raise Refused(f"The token lacks the claim {error.claim}.") from None
        except jwt.exceptions.InvalidJTIError:
            raise Refused("The token's jti must be a text.") from None
        except jwt.InvalidSignatureError:
            raise
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise Refused(NO_MATCH) from None
        return claims

    def _moments(self, claims: dict[str, Any]) -> float:
        """Check that a token is valid now; return until when it is."""
        now = self.clock()
        if _moment(claims, "exp") + LEEWAY_S <= now:
            raise Refused("The token has expired. Get a new one.")
        for claim in ("nbf", "iat"):
            if claim in claims and _moment(claims, claim) - LEEWAY_S > now:
                raise Refused(f"The token is not valid yet: its {claim} is in the future.")
        return _moment(claims, "exp") + LEEWAY_S


def _moment(claims: dict[str, Any], claim: str) -> float:
    value = claims[claim]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # Compared before it is converted: a whole number may be larger than any float.
    if not is_number or not 0 <= value < LAST_MOMENT:
        raise Refused(
            f"The token's {claim} must be a time in seconds since 1970, as a number, before the "
            "year 10000."
        )
    return float(value)


def _name(claims: dict[str, Any], claim: str) -> str:
    value = claims.get(claim)
    if not isinstance(value, str) or not 0 < len(value) <= NAME_MOST or not value.isprintable():
        raise Refused(f"The token's claim {claim} must be a text of 1 to {NAME_MOST} characters.")
    return value


def _scopes(claims: dict[str, Any]) -> frozenset[Scope]:
    """Return the scopes that ``scope`` (RFC 8693) names; without one, INFER."""
    if "scope" not in claims:
        return frozenset({Scope.INFER})
    value = claims["scope"]
    if not isinstance(value, str):
        raise Refused("The token's scope must be a text, its words separated by spaces.")
    return frozenset(scope for scope in Scope if scope in value.split(" "))
