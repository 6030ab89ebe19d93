"""The REST door: submit, poll, cancel, list, converse."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from functools import partial

import orjson
from flask import Blueprint, Request, Response

from orchestrator import wire
from orchestrator.errors import NotFound, PipelineUnavailable, ResultExpired, Unauthorized
from orchestrator.ids import created_at
from orchestrator.job import GenerateRequest, Job, Status
from orchestrator.schemas import SESSION_ID_RULE, invalid, is_session_id
from orchestrator.service import START
from orchestrator.stores.base import Idempotency, Submission, number_of
from orchestrator.strict_json import Json
from orchestrator.tenancy import session_id_of
from orchestrator.views import (
    accepted_view,
    conversation_view,
    result_view,
    session_view,
    status_view,
)
from orchestrator.web import limits, params, sse
from orchestrator.web.auth import use_stream_token
from orchestrator.web.context import context, may_stay, tenant
from orchestrator.web.errors import envelope
from orchestrator.web.json_io import JSON, json_body, json_response, no_content
from orchestrator.web.request import asked

bp = Blueprint("rest", __name__)

POLL_AGAIN_S = "1"


@bp.post("/infer")
def infer() -> Response:
    """Accept a prompt; answer at once, after a wait, or with the stream itself."""
    request = asked()
    form = params.accepted(request, JSON, params.SSE)
    wait = params.wait(request, params.RESPOND_ASYNC)
    key = params.idempotency_key(request)
    doors = context()
    body = json_body(request)
    generate = doors.reader.read(body, params.reuse(request))
    idempotency = _idempotency(key, body) if key else None
    base = (request.root_path + request.path).removesuffix("/").removesuffix("/infer")
    if form == params.SSE:
        # Last, for a body takes its time, and once: what is accepted is never answered with 503.
        doors.connections.check()
        with limits.stream_place() as place:
            submission = _submit(generate, idempotency)
            response = _streamed(submission, place)
        response.headers["Content-Location"] = f"{base}/stream/{submission.request_id}"
    else:
        submission = _submit(generate, idempotency)
        response = _accepted(submission, wait)
    response.headers.add("Location", f"{base}/status/{submission.request_id}")
    if submission.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    if doors.service.caches(generate.model):
        # One that is forgotten already, or out of reach by now, was accepted all the same.
        with contextlib.suppress(NotFound, ResultExpired, PipelineUnavailable):
            _marked(response, doors.service.get(submission.request_id, tenant()))
    return response


@bp.get("/status/<id:request_id>")
def status(request_id: str) -> Response:
    """Answer with all that is known of a request."""
    wait = params.wait(asked())
    job = _get(request_id, wait)
    return _applied(_marked(json_response(_status_view(job)), job), wait)


@bp.get("/result/<id:request_id>")
def result(request_id: str) -> Response:
    """Answer with the result: 200 once it is there, 202 until then."""
    wait = params.wait(asked())
    return _applied(_result(_get(request_id, wait)), wait)


@bp.get("/stream/<id:request_id>")
def stream(request_id: str) -> Response:
    """Answer with the request's events as server-sent events."""
    request = asked()
    params.accepted(request, params.SSE)
    after = request.headers.get("Last-Event-ID") or request.args.get("after")
    is_opened = request.method != "HEAD"
    context().connections.check()
    with limits.stream_place(is_opened) as place:
        start, page = context().service.resume(
            request_id, wire.cursor(after), limit=1, tenant=tenant()
        )
        if page.complete and not page.events:
            return no_content()
        if is_opened:
            use_stream_token()
        return _stream(request_id, start, place)


@bp.get("/events/<id:request_id>")
def events(request_id: str) -> Response:
    """Answer with the request's events as JSON, waiting for one if asked to."""
    request = asked()
    after = params.integer(request, "after", START, 10**12, default=START)
    limit = params.integer(request, "limit", 1, 1000, default=256)
    wait = params.wait(request)
    after, page = context().service.resume(request_id, after, limit, tenant=tenant())
    for pause in _pauses(wait):
        if page.events or page.complete:
            break
        page = context().service.read(request_id, after, limit, pause, tenant=tenant())
    items = [wire.page_item(seq, event, request_id) for seq, event in page.events]
    following = page.events[-1][0] if page.events else after
    response = json_response({"events": items, "next": following, "done": page.complete})
    return _applied(response, wait)


@bp.post("/cancel/<id:request_id>")
def cancel(request_id: str) -> Response:
    """Cancel a request: 200 once it has ended, 202 while it is being stopped."""
    wait = params.wait(asked())
    job = _wait(context().service.cancel(request_id, tenant()).job, wait)
    response = json_response(result_view(job), 200 if job.status.is_terminal else 202)
    return _applied(response, wait)


@bp.get("/requests")
def requests() -> Response:
    """List requests, newest first."""
    request = asked()
    wanted = request.args.get("status")
    if wanted is not None and wanted not in list(Status):
        raise invalid({"status": [f"Must be one of: {', '.join(Status)}."]})
    session_id = request.args.get("session_id")
    if session_id is not None and not is_session_id(session_id):
        raise invalid({"session_id": [SESSION_ID_RULE]})
    listing = context().service.jobs(
        Status(wanted) if wanted else None,
        session_id,
        *_page(request, _is_request_id),
        tenant=tenant(),
    )
    return _listing([_status_view(job) for job in listing.items], listing.next_cursor)


@bp.delete("/requests/<id:request_id>")
def delete(request_id: str) -> Response:
    """Forget an ended request."""
    context().service.delete(request_id, tenant())
    return no_content()


@bp.get("/models")
def models() -> Response:
    """List the models that a submit may name, the default one first."""
    known = context().service.models
    data = [
        {"id": model.id, "backend": model.backend, "default": model is known[0]} for model in known
    ]
    return json_response({"data": data})


@bp.get("/sessions")
def sessions() -> Response:
    """List sessions, last used first."""
    listing = context().service.sessions(*_page(asked(), _is_number), tenant=tenant())
    return _listing([session_view(session) for session in listing.items], listing.next_cursor)


@bp.get("/sessions/<session_id>")
def session(session_id: str) -> Response:
    """Answer with a session and its messages in order."""
    return json_response(conversation_view(context().service.session(session_id, tenant())))


@bp.delete("/sessions/<session_id>")
def delete_session(session_id: str) -> Response:
    """Forget a session's conversation."""
    context().service.delete_session(session_id, tenant())
    return no_content()


def _idempotency(key: str, body: Json) -> Idempotency:
    canonical = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    return Idempotency(key, hashlib.sha256(canonical).digest())


def _submit(request: GenerateRequest, idempotency: Idempotency | None) -> Submission:
    allow = partial(limits.allowance, request)
    return context().service.submit(request, idempotency, tenant=tenant(), allow=allow)


def _stream(request_id: str, after: int, place: contextlib.ExitStack) -> Response:
    doors = context()
    response = sse.stream(doors.service, doors.connections, request_id, after, tenant(), may_stay())
    response.call_on_close(place.pop_all().close)
    return response


def _streamed(submission: Submission, place: contextlib.ExitStack) -> Response:
    if submission.replayed:
        # The earlier one may be forgotten by now: then it has no stream.
        with contextlib.suppress(PipelineUnavailable):
            context().service.get(submission.request_id, tenant())
    return _stream(submission.request_id, START, place)


def _accepted(submission: Submission, wait: params.Wait) -> Response:
    if wait.seconds:
        # Whatever is out of reach by now: the client must have the id of what was accepted.
        with contextlib.suppress(PipelineUnavailable):
            job = _get(submission.request_id, wait)
            if job.status.is_terminal:
                return _applied(json_response(result_view(job)), wait)
    status = 202 if wait.seconds or wait.applied else 200
    view = accepted_view(submission.request_id, session_id_of(submission.session))
    return _applied(json_response(view, status), wait)


def _get(request_id: str, wait: params.Wait) -> Job:
    return _wait(context().service.get(request_id, tenant()), wait)


def _wait(job: Job, wait: params.Wait) -> Job:
    """Return a request once it has ended, the wait is over, or the client has left."""
    if wait.seconds and not job.status.is_terminal:
        for pause in _pauses(wait):
            if job.status.is_terminal:
                break
            job = context().service.wait(job.id, pause, tenant())
    return job


def _pauses(wait: params.Wait) -> Iterator[float]:
    """Yield how long to wait, again and again. Raises Unauthorized after one in which the caller
    has lost its right to what came meanwhile.
    """
    environ, stays = asked().environ, may_stay()
    with limits.poll_place(wait.seconds > 0) as has_place:
        if not has_place:
            return
        for pause in context().connections.pauses(wait.seconds, environ):
            yield pause
            if not stays():
                raise Unauthorized("The credentials are no longer in force.")


def _status_view(job: Job) -> Json:
    return status_view(job, context().service.queue_position(job))


def _result(job: Job) -> Response:
    match job.status:
        case Status.COMPLETED:
            return _marked(json_response(result_view(job)), job)
        case Status.FAILED:
            details = {"request_id": job.id, "cause": job.error_code}
            if job.error_stage:
                details["stage"] = job.error_stage
            return envelope("PROCESSING_FAILED", job.error or "", details=details)
        case Status.CANCELLED:
            return envelope(
                "CANCELLED",
                "The request was cancelled. What was generated until then is in its status.",
                details={"request_id": job.id},
            )
    response = _marked(json_response(result_view(job), 202), job)
    response.headers["Retry-After"] = POLL_AGAIN_S
    return response


def _marked(response: Response, job: Job) -> Response:
    """Say whether the answer is a kept one, where the model has such."""
    if context().service.caches(job.request.model):
        response.headers["X-Cache"] = "hit" if job.cached else "miss"
    return response


def _applied(response: Response, wait: params.Wait) -> Response:
    if wait.applied:
        response.headers["Preference-Applied"] = wait.applied
    return response


def _is_number(text: str) -> bool:
    return number_of(text) is not None


def _is_request_id(text: str) -> bool:
    return created_at(text) is not None


def _page(request: Request, is_cursor: Callable[[str], bool]) -> tuple[int, str | None]:
    limit = params.integer(request, "limit", 1, 100, default=50)
    return limit, params.cursor(request, is_cursor)


def _listing(data: list[Json], next_cursor: str | None) -> Response:
    return json_response(
        {"data": data, "has_more": next_cursor is not None, "next_cursor": next_cursor}
    )
