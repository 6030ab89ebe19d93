"""The Flask app, without the work that Flask does for each request and this API has no use for."""

from functools import cached_property
from typing import Any, cast

from flask import Flask, Request, Response
from flask.sessions import NullSession, SessionInterface
from flask.typing import ResponseReturnValue
from werkzeug.routing import MapAdapter

from orchestrator.web.json_io import ApiResponse
from orchestrator.web.request import ApiRequest, asked
from orchestrator.web.routes import Adapter, RequestId, Routes

_NO_SESSION = NullSession()


class _NoSessions(SessionInterface):
    """No cookie sessions: one that is empty for whoever asks."""

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return _NO_SESSION

    def is_null_session(self, obj: object) -> bool:
        return True


class App(Flask):
    """An app that never redirects and has neither cookies nor coroutines.

    Hooks work as in Flask. Where neither the app nor the endpoint's blueprint has any, none are
    looked for: there ``after_this_request`` and signals don't run.
    """

    request_class = ApiRequest
    response_class = ApiResponse
    session_interface = _NoSessions()

    def __init__(self, name: str) -> None:
        super().__init__(name, static_folder=None)
        self.url_map.converters["id"] = RequestId
        self.url_map.strict_slashes = False
        # Doubled slashes would be answered with a redirect, which Flask lets no error handler see.
        self.url_map.merge_slashes = False
        self._hooked: dict[str | None, bool] = {}

    @cached_property
    def routes(self) -> Routes:
        """The rules, as they are with the first request."""
        return Routes(self.url_map)

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return what finds the view of a request."""
        if request is None:
            # Outside of requests nothing asks for addresses.
            return None
        if "HTTP_UPGRADE" in request.environ:
            return super().create_url_adapter(request)
        return Adapter(self.routes, request)

    def ensure_sync(self, func: Any) -> Any:
        """Return the function as it is: none is a coroutine."""
        return func

    def full_dispatch_request(self) -> Response:
        """Answer the request, with the hooks that there are."""
        request = asked()
        endpoint = request.endpoint
        if endpoint not in self._hooked:
            self._hooked[endpoint] = self._has_hooks(request.blueprint)
        if self._hooked[endpoint]:
            return super().full_dispatch_request()
        try:
            answer = self.dispatch_request()
        except Exception as error:
            answer = self.handle_user_exception(error)
        return answer if isinstance(answer, Response) else self.make_response(answer)

    def dispatch_request(self) -> ResponseReturnValue:
        """Answer as the view of the address does."""
        request = asked()
        rule = request.url_rule
        if rule is None or request.method == "OPTIONS":
            return super().dispatch_request()
        view = self.view_functions[rule.endpoint]
        return cast(ResponseReturnValue, view(**(request.view_args or {})))

    def do_teardown_request(self, *exc: Any) -> None:
        """Call what there is to be called in the end."""
        if self.teardown_request_funcs:
            super().do_teardown_request(*exc)

    def do_teardown_appcontext(self, *exc: Any) -> None:
        """Call what there is to be called after that."""
        if self.teardown_appcontext_funcs:
            super().do_teardown_appcontext(*exc)

    def _has_hooks(self, blueprint: str | None) -> bool:
        kinds = (self.url_value_preprocessors, self.before_request_funcs, self.after_request_funcs)
        return any(kind.get(scope) for kind in kinds for scope in (None, blueprint))
