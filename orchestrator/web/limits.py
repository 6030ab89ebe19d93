"""Limits at the HTTP edge: every call is counted for its caller, and told how many are left."""

from contextlib import AbstractContextManager, ExitStack, nullcontext

from flask import Flask, Request, Response, g

from orchestrator.allowance import Allowance
from orchestrator.caller import Caller
from orchestrator.errors import RateLimited
from orchestrator.job import GenerateRequest
from orchestrator.limits.accounts import Account, account_of, client_address
from orchestrator.limits.limiter import Limiter
from orchestrator.web.auth import OPEN
from orchestrator.web.context import caller, context
from orchestrator.web.errors import of_error
from orchestrator.web.request import asked

REFUSED = (401, 403)
"""How credentials are refused, before it comes to limits: that counts as well."""
_FREE = nullcontext(True)


def register(app: Flask, limiter: Limiter) -> None:
    """Count every call but those to the open addresses, and the preflights of browsers."""

    @app.before_request
    def _count() -> None:
        request = asked()
        if _is_limited(request):
            g.account = _account(request)
            limiter.call(g.account)

    @app.after_request
    def _tell(response: Response) -> Response:
        request = asked()
        if not _is_limited(request):
            return response
        account = g.get("account")
        if account is None:
            account = _account(request)
            if response.status_code in REFUSED:
                try:
                    limiter.call(account)
                except RateLimited as error:
                    response = of_error(error)
        if left := limiter.left(account):
            response.headers["X-RateLimit-Limit"] = str(left.limit)
            response.headers["X-RateLimit-Remaining"] = str(left.remaining)
            response.headers["X-RateLimit-Reset"] = str(left.reset_at)
        return response

    if limiter.rules.streams:

        @app.teardown_request
        def _close(error: BaseException | None) -> None:
            if "socket" in g:
                g.socket.close()


class SocketLimits:
    """What is counted for one socket. Without a ``limiter`` that is nothing."""

    def __init__(self, limiter: Limiter | None, account: Account) -> None:
        """Take a place for it. Raises RateLimited."""
        self._limiter = limiter
        self._account = account
        self.close = limiter.open(account) if limiter else _nothing

    def admit(self, caller: Caller) -> None:
        """Count it for a caller from now on. Raises RateLimited, and leaves all as it was."""
        if self._limiter:
            account = account_of(caller, "")
            close = self._limiter.open(account)
            self.close()
            self._account, self.close = account, close

    def call(self) -> None:
        """Count a message. Raises RateLimited."""
        if self._limiter:
            self._limiter.call(self._account)

    def allowance(self, request: GenerateRequest) -> Allowance | None:
        """Count a submit; return what goes with it. Raises RateLimited."""
        return self._limiter.allow(self._account, request) if self._limiter else None


def account() -> Account:
    """Return whom the request that is answered now is counted for."""
    found: Account = g.account if "account" in g else _account(asked())
    return found


def allowance(request: GenerateRequest) -> Allowance | None:
    """Count a submit; return what goes with it. Raises RateLimited."""
    limiter = context().limiter
    return limiter.allow(account(), request) if limiter else None


def stream_place(is_needed: bool = True) -> ExitStack:
    """Take a place for a stream, until what is returned is closed. Raises RateLimited."""
    held = ExitStack()
    limiter = context().limiter
    if limiter and is_needed:
        held.callback(limiter.open(account()))
    return held


def poll_place(is_needed: bool) -> AbstractContextManager[bool]:
    """Take a place for a long poll while inside. Gives whether there is one, if one is needed."""
    limiter = context().limiter
    return limiter.waiting(account()) if limiter and is_needed else _FREE


def seat_socket() -> None:
    """Take a place for a socket, until its request is over. Raises RateLimited."""
    g.socket = SocketLimits(context().limiter, account())


def socket_limits() -> SocketLimits:
    """Return what is counted for the socket that was seated."""
    found: SocketLimits = g.socket
    return found


def _is_limited(request: Request) -> bool:
    return request.method != "OPTIONS" and request.blueprint not in OPEN


def _account(request: Request) -> Account:
    return account_of(caller(), _address(request))


def _address(request: Request) -> str:
    return client_address(
        request.environ.get("REMOTE_ADDR", ""),
        request.environ.get("HTTP_X_FORWARDED_FOR"),
        context().settings.trusted_proxies,
    )


def _nothing() -> None:
    pass
