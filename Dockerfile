# A streamq worker. Give it REDIS_URL, QUEUE_NAME or QUEUE_NAMES, and STREAMQ_SIGNING_KEYS; own handlers are mounted or
# copied into /app, which comes first on the import path, as does another config/queues.yaml.
#
# Debian and not Alpine: the wheels with compiled parts are built for glibc.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/ requirements/
# The tools that build the package stay in an environment of their own and in this stage.
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --requirement requirements/build.txt \
    && python -m venv /opt/streamq \
    && /opt/streamq/bin/pip install --require-hashes --requirement requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY streamq/ streamq/
COPY workers/ workers/
RUN /opt/build/bin/hatchling build --target wheel --directory /tmp/dist \
    && /opt/streamq/bin/pip install --no-deps --no-index /tmp/dist/*.whl \
    && /opt/streamq/bin/pip uninstall --yes pip setuptools

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="streamq" \
      org.opencontainers.image.description="An async worker framework on Redis Streams" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/streamq/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
RUN groupadd --system --gid 10001 streamq \
    && useradd --system --uid 10001 --gid streamq --home-dir /app --shell /usr/sbin/nologin streamq
COPY --from=build /opt/streamq /opt/streamq
WORKDIR /app
COPY config/ config/
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
EXPOSE 9090
# The worker drains for up to 25 s after this signal: give it more than Docker's 10 s (`docker stop --time 40`).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9090/livez', timeout=4)"]
CMD ["streamq", "worker", "--http", "0.0.0.0:9090"]
