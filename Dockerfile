# One image for the HTTP process and for the workers: `hive serve` and `hive worker`.
FROM python:3.13-slim

RUN useradd --uid 1000 --create-home hive && install -d -o hive -g root -m 0775 /store /var/lib/hive

WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY hive ./hive
COPY workers ./workers
RUN pip install --no-cache-dir .

USER hive
ENV HIVE_STORE=/store HIVE_HOME=/var/lib/hive PYTHONUNBUFFERED=1
VOLUME ["/store", "/var/lib/hive"]
EXPOSE 8080
ENTRYPOINT ["hive"]
CMD ["serve", "--host", "0.0.0.0", "--allow-remote", "--port", "8080"]
