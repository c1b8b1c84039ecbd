# The Turnwire server in a container. Off loopback the server refuses to start until it knows who may speak to it, so
# the image is run with TURNWIRE_AUTH set, and with a model's key:
#
#   docker build --tag turnwire .
#   docker run --publish 8000:8000 --volume turnwire:/data --env TURNWIRE_AUTH=anonymous turnwire
#
# (`anonymous` makes everyone one user: for a trial. `api_key` and `jwt` are for the real thing.) The embedded store
# keeps its data in /data, which must belong to user 10001; with TURNWIRE_REDIS_URL set, nothing is kept there.

# Both stages are the same image: the environment built in the first runs on the interpreter of the second.
FROM python:3.13-slim AS build

ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never

WORKDIR /build
COPY requirements.lock ./
# uv's version and hashes are in the lock, as in the Makefile.
RUN awk '/^[^ #]/ { wanted = /^uv==/ } wanted' requirements.lock > uv.lock \
    && pip install --no-cache-dir --require-hashes --no-deps --requirement uv.lock \
    && uv venv /app

# The lock holds the gate's tools too, and --require-hashes would install them all. As a constraint it pins the versions
# of what is asked for, and uv checks each file against the hashes of its pin just the same; tests/test_packaging.py
# sees to it that the lock has a pin for all that pyproject.toml asks for.
COPY pyproject.toml ./
RUN uv pip install --python /app --only-binary :all: --constraint requirements.lock --requirement pyproject.toml

COPY LICENSE ./
COPY protocol protocol
COPY server server
RUN uv pip install --python /app --no-deps --build-constraint requirements.lock . \
    && uv pip check --python /app


FROM python:3.13-slim

RUN groupadd --gid 10001 turnwire \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin turnwire \
    && install --directory --owner=10001 --group=10001 --mode=0700 /data

COPY --from=build /app /app

ENV PATH=/app/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TURNWIRE_DATA_DIR=/data

# A number, so that an orchestrator can see that it is not root.
USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8000

# Without a proxy: urllib would ask the one in http_proxy for 127.0.0.1 too.
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python", "-c", "from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:8000/livez', timeout=2).close()"]

# SIGTERM drains: running answers get their time, so grant the container more than the usual 10 s before SIGKILL.
CMD ["turnwire", "serve", "--host", "0.0.0.0", "--port", "8000"]
