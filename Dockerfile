# The first stage builds the environment, the second only runs it: no compiler goes along.
FROM python:3.11-slim-bookworm AS build
# For the one package that comes as source alone (requirements-fast.txt).
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev
WORKDIR /src
# The pinned packages first: they stay cached while only the code changes.
COPY requirements.txt requirements-fast.txt ./
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --require-hashes -r requirements.txt \
    && /opt/venv/bin/pip install --no-cache-dir -r requirements-fast.txt
COPY pyproject.toml README.md LICENSE gunicorn.conf.py ./
COPY orchestrator/ orchestrator/
RUN /opt/venv/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && /opt/venv/bin/pip install --no-deps --no-index /wheels/*.whl

FROM python:3.11-slim-bookworm
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ORCHESTRATOR_HOST=0.0.0.0 \
    PORT=8080
# A number, so that Kubernetes can tell that it isn't root. Nothing is written but to /tmp.
USER 10001:10001
WORKDIR /app
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-m", "orchestrator.probe"]
CMD ["orchestrator", "serve"]
