# Two stages: the first has a compiler and makes wheels, the second has neither compiler nor pip cache.
# BASE is any image with Python 3.11 or newer, or with apt-get on Debian 12 or 13: a local one will do.
#
#   docker build -t vhostuser .
#   docker run --rm --network host --device /dev/net/tun --cap-drop ALL --read-only \
#       -v /run/vhostuser:/run/vhostuser vhostuser serve -s /run/vhostuser/vm1.sock --port tap:vm1
#
# The container runs as uid 10001: make the tap outside with `ip tuntap add vm1 mode tap user 10001 multi_queue`
# and let that uid write to /run/vhostuser.
ARG BASE=debian:trixie-slim

FROM ${BASE} AS build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates gcc libc6-dev python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /build
WORKDIR /source
COPY . .
# Our wheel and those of what it depends on, for exactly this Python.
RUN /build/bin/pip wheel --no-cache-dir --wheel-dir /wheels .

FROM ${BASE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="vhostuser" \
      org.opencontainers.image.description="A vhost-user network back-end server" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    python3 -m venv /opt/vhostuser \
    && /opt/vhostuser/bin/pip install --no-cache-dir --no-index --find-links /wheels vhostuser \
    && ln -s /opt/vhostuser/bin/vhostuser /opt/vhostuser/bin/vhostuser-net /usr/local/bin/
# A number, so that Kubernetes can check runAsNonRoot; no entry in passwd is needed.
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/vhostuser"]
CMD ["serve", "--help"]
