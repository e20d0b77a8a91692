# The images of rayfleet: `docker build --target operator .` and `docker build --target serving .`
#
# Build arguments:
#   BASE_IMAGE  a Debian with Python 3.11, its venv module and pip
#   EXTRAS      the model libraries of the serving image: extras of pyproject.toml, with commas between them
#
# A file ca-certificates.crt in the build context is trusted while packages are fetched. It is copied into the build
# stages alone, so the images do not hold it. Docker's builder works with BuildKit and without; without, it builds every
# stage above its target, so what only the serving image needs comes last.

ARG BASE_IMAGE=python:3.11-slim-bookworm


# What both builds start from. Packages come first and from empty folders: a changed line of code installs none again.
FROM ${BASE_IMAGE} AS build
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ca-certificates.crt* ./
RUN python3 -m venv --without-pip /opt/rayfleet \
    && mkdir operator serving \
    && if [ -f ca-certificates.crt ]; then mkdir -p /etc && printf '[global]\ncert = /build/ca-certificates.crt\n' > /etc/pip.conf; fi
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore


FROM build AS build-operator
RUN python3 -m pip --python /opt/rayfleet/bin/python install -c constraints.txt ".[operator]"
COPY operator operator
COPY serving serving
RUN python3 -m pip --python /opt/rayfleet/bin/python install --no-deps --force-reinstall .


# What both images start from. Some Python images come without the standard library's byte code; nothing could write it
# later, and each Ray worker would compile hundreds of modules at its start.
FROM ${BASE_IMAGE} AS base
RUN python3 -m compileall -q -x 'lib2to3|/tests?/|-packages' "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
    && rm -rf /root/.cache
ENV PATH=/opt/rayfleet/bin:$PATH PYTHONUNBUFFERED=1


FROM base AS operator
RUN groupadd --gid 65532 rayfleet && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin rayfleet
COPY --from=build-operator /opt/rayfleet /opt/rayfleet
ENV PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /tmp
EXPOSE 8080 8081
ENTRYPOINT ["rayfleet", "operator"]


FROM build AS build-serving
ARG EXTRAS=pytorch,sklearn,onnx,xgboost,transformers
RUN python3 -m pip --python /opt/rayfleet/bin/python install -c constraints.txt ".[serving${EXTRAS:+,$EXTRAS}]"
COPY serving serving
# Without the control path, and so without its command. The one that runs HAProxy is made here, because the image itself
# can be read-only from its first moment.
RUN python3 -m pip --python /opt/rayfleet/bin/python install --no-deps --force-reinstall . \
    && rm /opt/rayfleet/bin/rayfleet \
    && /opt/rayfleet/bin/python -m rayfleet_serving.environment /opt/rayfleet/haproxy


# KubeRay's probes and start command want bash and wget.
FROM base AS serving
RUN if ! { command -v bash && command -v wget && [ -f /etc/ssl/certs/ca-certificates.crt ]; } >/dev/null; then \
        apt-get update -qq \
        && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends bash ca-certificates wget >/dev/null \
        && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log; \
    fi \
    && groupadd --gid 1000 ray && useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash ray \
    && mkdir -m 0755 /var/cache/rayfleet && chown ray:ray /var/cache/rayfleet
COPY --from=build-serving /opt/rayfleet /opt/rayfleet
# rayfleet_serving/environment.py says why.
ENV RAYFLEET_CACHE_DIR=/var/cache/rayfleet \
    RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S=1 \
    RAY_SERVE_ENABLE_DIRECT_INGRESS=1 \
    RAY_SERVE_ENABLE_HA_PROXY=1 \
    RAY_SERVE_HAPROXY_BINARY_PATH=/opt/rayfleet/haproxy/haproxy \
    RAY_SERVE_HAPROXY_METRICS_ENABLED=0 \
    RAY_SERVE_HAPROXY_RETRY_ON="conn-failure empty-response" \
    RAY_SERVE_HAPROXY_TUNE_BUFSIZE=65536 \
    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=rayfleet_serving.router.shortcut:middlewares \
    RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE=1 \
    RAY_SERVE_STOP_FAILED_ROLLING_UPDATES=1 \
    RAY_SERVE_THROUGHPUT_OPTIMIZED=1 \
    RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
WORKDIR /home/ray
CMD ["bash"]
