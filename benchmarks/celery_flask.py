"""The job of scale_out.py as Celery, Flask and Redis do it: the peer that we are measured beside.

A submit puts a task on Celery's queue. The task asks the model server for a stream and adds each
token to a Redis stream; whoever submitted reads that as server-sent events. There is no state, no
resume and no cancel, and a task that was taken is lost with its worker: these are Celery's
defaults, and its quickest.
"""

import json
import os
import uuid
from collections.abc import Iterator

import redis
import urllib3
from celery import Celery
from celery.signals import worker_ready
from flask import Flask, Response, request

REDIS_URL = os.environ["REDIS_URL"]
UPSTREAM = f"{os.environ['OPENAI_BASE_URL']}/chat/completions"
KEPT_S = 3600
BLOCK_MS = 5_000
BATCH = 256

celery = Celery("celery_flask", broker=REDIS_URL)
app = Flask(__name__)
client = redis.Redis.from_url(REDIS_URL)
model = urllib3.PoolManager(maxsize=256)


@worker_ready.connect
def say_so(**_: object) -> None:
    """Tell whoever started this worker that it takes tasks."""
    print("ready to work", flush=True)


@celery.task(ignore_result=True)
def generate(job_id: str, prompt: str) -> None:
    """Ask the model server and pass on each token."""
    key = f"job:{job_id}"
    body = {"model": "any", "messages": [{"role": "user", "content": prompt}], "stream": True}
    for text in tokens(model.request("POST", UPSTREAM, json=body, preload_content=False)):
        client.xadd(key, {"token": text})
    client.xadd(key, {"end": ""})
    client.expire(key, KEPT_S)


def tokens(answer: urllib3.BaseHTTPResponse) -> Iterator[str]:
    """Yield the tokens of a stream in OpenAI's protocol."""
    rest = b""
    for piece in answer.stream():
        *events, rest = (rest + piece).split(b"\n\n")
        for event in events:
            data = event.removeprefix(b"data: ")
            if data != b"[DONE]" and (text := json.loads(data)["choices"][0]["delta"]):
                yield text["content"]
    answer.release_conn()


@app.post("/infer")
def infer() -> Response:
    """Submit, and answer with the stream."""
    job_id = uuid.uuid4().hex
    generate.delay(job_id, request.get_json()["prompt"])
    return Response(events(job_id), mimetype="text/event-stream")


def events(job_id: str) -> Iterator[bytes]:
    """Yield server-sent events, all that are there at a time."""
    key, last, chunk = f"job:{job_id}", b"0", 0
    while True:
        frames = []
        for _, entries in client.xread({key: last}, count=BATCH, block=BLOCK_MS):
            for last, fields in entries:  # noqa: B007
                if b"end" in fields:
                    yield b"".join(frames) + b'event: complete\ndata: {"status": "done"}\n\n'
                    return
                data = json.dumps({"chunk": chunk, "data": fields[b"token"].decode()})
                frames.append(f"id: {chunk}\nevent: token\ndata: {data}\n\n".encode())
                chunk += 1
        yield b"".join(frames) or b": ping\n\n"
