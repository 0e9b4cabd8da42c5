# One image for the HTTP process and for the workers: `hive serve` and `hive worker`. docs/compose.md says how it is run.
#
# The base is pinned by its exact version. To pin it by digest, ask your registry for it (docker buildx imagetools inspect
# python:3.13.14-slim) and build with --build-arg PYTHON_IMAGE=python:3.13.14-slim@sha256:...
#
# With --build-arg EXTRAS=serve it has an engine for models in memory too (docs/serving.md), which is 106 MB more; with EXTRAS=buckets
# what signs URLs of objects in buckets (docs/sources.md).
ARG PYTHON_IMAGE=python:3.13.14-slim

FROM ${PYTHON_IMAGE} AS build
# What builds hive, and what it needs, are compared with the digests of requirements/; no other package is fetched or built.
WORKDIR /build
COPY requirements/run.txt requirements/serve.txt requirements/buckets.txt requirements/build.txt ./requirements/
RUN python -m venv --without-pip /app \
    && pip --python /app/bin/python install --no-cache-dir --require-hashes --only-binary :all: -r requirements/run.txt \
    && pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY hive ./hive
COPY workers ./workers
RUN pip wheel --no-index --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /app/bin/python install --no-index --no-deps dist/*.whl \
    && find /app -type d \( -name tests -o -path '*/pygments/*' -name __pycache__ -o -path '*/huggingface_hub/inference/*' \
        -name __pycache__ -o -path '*/huggingface_hub/cli/__pycache__' -o -path '*/huggingface_hub/serialization/__pycache__' \
        -o -path '*/redis/multidb/__pycache__' -o -path '*/rq/cli/__pycache__' \) \
        -prune -exec rm -r {} + \
    && find /app/lib -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pxi' -o -name '*.pyi' -o -name '*.c' -o -name '*.h' \) -delete
# Last, so that both images are one build up to here.
ARG EXTRAS
RUN if [ -n "${EXTRAS}" ]; then \
        pip --python /app/bin/python install --no-cache-dir --require-hashes --only-binary :all: -r "requirements/${EXTRAS}.txt"; \
    fi

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="hive" \
      org.opencontainers.image.description="A self-hosted model download service" \
      org.opencontainers.image.version="0.3.0.dev0" \
      org.opencontainers.image.licenses="Apache-2.0"
# Some platforms give each container a uid of its own, in group 0: what hive writes is that group's too.
RUN useradd --uid 1000 --gid 0 --no-create-home --home-dir /var/lib/hive hive \
    && install -d -o hive -g root -m 0775 /store /var/lib/hive
# What the engine is linked with, and slim bases lack.
ARG EXTRAS
RUN if [ "${EXTRAS}" = serve ] && ! ldconfig -p | grep -q libgomp.so.1; then \
        apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*; \
    fi
COPY --from=build /app /app
# What is imported is compiled: the base has no compiled standard library, and on a root that can only be read each start, and
# each health check, would compile it anew.
RUN /app/bin/python -c "import hive, importlib, pkgutil, workers; [importlib.import_module(m.name) for p in (hive, workers) \
    for m in pkgutil.walk_packages(p.__path__, p.__name__ + '.') if not m.name.endswith(('__main__', 'xllamacpp_server'))]"

USER 1000:0
ENV HIVE_STORE=/store HIVE_HOME=/var/lib/hive HOME=/var/lib/hive PYTHONUNBUFFERED=1 PATH=/app/bin:$PATH
EXPOSE 8080
# Of the HTTP process; workers are asked with `hive worker --alive`. urllib would ask HTTP_PROXY.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8080, timeout=4); c.request('GET', '/readyz'); exit(c.getresponse().status != 200)"]
ENTRYPOINT ["hive"]
# Without a key it does not start: docker run ... hive key new, or --allow-unauthenticated where something guards it.
CMD ["serve", "--host", "0.0.0.0", "--port", "8080"]
