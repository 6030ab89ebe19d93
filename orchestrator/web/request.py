"""The request that is being answered, and who has sent it."""

from typing import cast

from flask import Request
from flask.ctx import RequestContext
from flask.globals import request_ctx
from werkzeug.local import LocalProxy

from orchestrator.caller import ANYONE, Caller


class ApiRequest(Request):
    """A request, and its ``caller`` once that is known where credentials are asked for.

    A ``stream_token`` is what the caller is known by, and what its stream uses up.
    """

    caller: Caller = ANYONE
    stream_token: str | None = None

    def close(self) -> None:
        """Look for no uploaded files: no door takes any."""


def asked() -> ApiRequest:
    """Return the request that is being answered.

    As flask.request, which costs more at each look than to find an answer in the store.
    """
    context = cast("LocalProxy[RequestContext]", request_ctx)._get_current_object()
    return cast(ApiRequest, context.request)
