# Serves as a user without rights, with the store on a volume; docs/deploy.md says more:
#   docker build -t corolla . && docker run -p 50051:50051 -p 9095:9095 -v my-store:/store corolla
# The root file system may be read-only (--read-only --tmpfs /tmp): only /store and /tmp are written.
FROM python:3.11-slim AS build

WORKDIR /src
RUN python -m venv /opt/corolla
ENV PATH=/opt/corolla/bin:$PATH

# The libraries first, so that a change of our code does not fetch them again.
COPY pyproject.toml constraints.txt LICENSE ./
RUN touch README.md && mkdir corolla \
    && pip install --no-cache-dir --disable-pip-version-check -c constraints.txt '.[serve,postgresql]'

COPY . .
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --force-reinstall .


FROM python:3.11-slim

RUN useradd --uid 10001 --user-group --no-create-home --home-dir /store --shell /usr/sbin/nologin corolla \
    && install -d -o corolla -g corolla -m 0750 /store
COPY --from=build /opt/corolla /opt/corolla

# Plain text inside the container's network; where it is shared, set COROLLA_TLS_CERTIFICATE and COROLLA_TLS_KEY.
# Settings are best given as such variables, which the health check reads too.
ENV PATH=/opt/corolla/bin:$PATH \
    COROLLA_HOST=0.0.0.0 \
    COROLLA_INSECURE=true \
    COROLLA_STORE=/store \
    OMP_WAIT_POLICY=passive \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

WORKDIR /store
USER 10001:10001
VOLUME ["/store"]

# gRPC; and over HTTP the status page, /metrics for Prometheus, and the probes /healthz (it lives) and /readyz (it serves).
EXPOSE 50051 9095

# SIGTERM: takes no new work, finishes what it has, stops.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-m", "serving.client.health"]

ENTRYPOINT ["corolla"]
CMD ["serve"]
