# The server on the CPU provider, with the shipped model. Build with BuildKit from the repository's root:
#   docker build --file deploy/cpu.Dockerfile --tag conveyor:cpu .
# For a build that can be repeated, name the base by digest: --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS dependencies
WORKDIR /source
COPY deploy/requirements-cpu.txt ./
RUN python -m venv --without-pip /opt/conveyor && \
    pip --python /opt/conveyor/bin/python install --no-cache-dir --requirement requirements-cpu.txt

FROM ${BASE} AS package
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY export export
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM ${BASE}
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin conveyor && \
    install --directory --owner=conveyor --group=conveyor --mode=0700 /state
# The dependencies are a layer of their own: they change less often than the code.
COPY --from=dependencies /opt/conveyor /opt/conveyor
RUN --mount=type=bind,from=package,source=/dist,target=/dist \
    pip --python /opt/conveyor/bin/python install --no-cache-dir --no-deps --no-index /dist/*.whl
COPY models /models
# Nothing is written outside /state and /tmp, so the root filesystem may be read-only.
ENV PATH=/opt/conveyor/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    CONVEYOR_HOST=0.0.0.0 \
    CONVEYOR_STATE_DIR=/state
VOLUME /state
USER 10001:10001
EXPOSE 50051 9090
ENTRYPOINT ["conveyor", "serve", "/models"]
