"""`orchestrator keys`: create, list and revoke API keys."""

import argparse
import re
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from orchestrator.auth import keys
from orchestrator.auth.keys import TENANT, Key
from orchestrator.bootstrap.entrance import build_keys
from orchestrator.caller import Scope
from orchestrator.errors import ConfigError, PipelineUnavailable
from orchestrator.rate import parse
from orchestrator.settings import Settings

_UNITS = {"m": 60, "h": 3600, "d": 86_400}


def describe(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    actions = parser.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="make a key, and print it: it is shown only now")
    create.add_argument("--tenant", type=_tenant, required=True, help="whose requests it sees")
    create.add_argument(
        "--scope",
        type=Scope,
        choices=list(Scope),
        action="append",
        help="what it may do: infer (ask and read; the default), read, or admin (all); repeatable",
    )
    create.add_argument("--rate", type=_rate, help="a limit of its own, as in 600/minute")
    create.add_argument("--expires", type=_span, help="when it ends: 30m, 12h or 90d from now")
    actions.add_parser("list", help="list the keys, without their secrets")
    revoke = actions.add_parser("revoke", help="put a key out of force, within a minute")
    revoke.add_argument("id", help="its id: what is before the dot")


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Run the command; return the exit code. Raises ConfigError."""
    found = build_keys(settings)
    try:
        match options.action:
            case "create":
                return _create(settings, found, options)
            case "revoke":
                return _revoke(found, options.id)
        sys.stdout.write(_table(list(found.all())))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{settings.api_keys} can't be used for keys: {error}.") from None
    except PipelineUnavailable as error:
        raise ConfigError(error.message) from None
    return 0


def _create(settings: Settings, found: keys.Keys, options: argparse.Namespace) -> int:
    now = time.time()
    key, shown = keys.create(
        settings.key_pepper or "",
        options.tenant,
        frozenset(options.scope or [Scope.INFER]),
        now,
        options.rate,
        now + options.expires if options.expires else None,
    )
    found.add(key)
    sys.stdout.write(f"{shown}\n")
    sys.stderr.write("Keep it now: it can't be shown again.\n")
    return 0


def _revoke(found: keys.Keys, key_id: str) -> int:
    # Who has the key at hand may paste it whole.
    key_id = key_id.partition(".")[0]
    if not found.revoke(key_id, time.time()):
        raise ConfigError(f"There is no key with the id {key_id!r}: see 'orchestrator keys list'.")
    sys.stdout.write(f"{key_id} is revoked; what it has opened ends within a minute.\n")
    return 0


def _table(rows: Sequence[tuple[Key, float | None]]) -> str:
    if not rows:
        return "There are no keys yet: orchestrator keys create --tenant NAME\n"
    titles = ("id", "tenant", "scopes", "rate", "state", "created", "last used")
    cells = [titles, *(_cells(key, used) for key, used in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(titles))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in cells
    )


def _cells(key: Key, used: float | None) -> tuple[str, ...]:
    scopes, rate = ",".join(sorted(key.scopes)), key.rate or "-"
    return (
        key.id,
        key.tenant,
        scopes,
        rate,
        _state(key),
        _date(key.created_at),
        _date(used) if used else "never",
    )


def _state(key: Key) -> str:
    if key.revoked_at is not None:
        return f"revoked {_date(key.revoked_at)}"
    if key.expires_at is None:
        return "in force"
    word = "until" if key.is_good(time.time()) else "expired"
    return f"{word} {_date(key.expires_at)}"


def _date(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M}Z"


def _tenant(text: str) -> str:
    if not TENANT.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not 1 to 64 letters, digits, '.', '_' or '-'."
        )
    return text


def _rate(text: str) -> str:
    try:
        return ", ".join(map(str, parse(text)))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not {parse.__doc__}.") from None


def _span(text: str) -> float:
    found = re.fullmatch(r"([1-9][0-9]{0,5})([mhd])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 30m, 12h or 90d.")
    return float(found[1]) * _UNITS[found[2]]
