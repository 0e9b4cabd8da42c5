# One image for the HTTP process and for the workers: `hive serve` and `hive worker`.
FROM python:3.13-slim AS built

# What builds hive, and what it needs, are compared with the digests of requirements/; no other package is fetched or built.
WORKDIR /build
COPY requirements ./requirements
RUN python -m venv --without-pip /app \
    && pip --python /app/bin/python install --no-cache-dir --require-hashes --only-binary :all: -r requirements/run.txt \
    && pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY hive ./hive
COPY workers ./workers
RUN pip wheel --no-index --no-deps --no-build-isolation --wheel-dir dist . \
    && pip --python /app/bin/python install --no-index --no-deps dist/*.whl

FROM python:3.13-slim

RUN useradd --uid 1000 --create-home hive && install -d -o hive -g root -m 0775 /store /var/lib/hive
COPY --from=built /app /app

USER hive
ENV HIVE_STORE=/store HIVE_HOME=/var/lib/hive PYTHONUNBUFFERED=1 PATH=/app/bin:$PATH
VOLUME ["/store", "/var/lib/hive"]
EXPOSE 8080
ENTRYPOINT ["hive"]
CMD ["serve", "--host", "0.0.0.0", "--allow-unauthenticated", "--port", "8080"]
