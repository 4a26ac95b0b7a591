# A worker: docker run -e STBASS_BROKER_URL=redis://… stbass stbass worker -e anthropic
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY stbass stbass
COPY celery_app celery_app
# Components that read and write Parquet files or SQL tables need more: parquet, sql.
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir ".[celery,dataflow,observe]"

FROM python:3.12-slim
RUN useradd --uid 10001 --create-home stbass
COPY --from=build /venv /venv
COPY examples /home/stbass/examples
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER stbass
WORKDIR /home/stbass
# What does not run a worker switches this off (see docker-compose.yml).
HEALTHCHECK --interval=30s --timeout=15s --start-period=20s --retries=3 \
    CMD celery -A celery_app inspect ping --destination "celery@$HOSTNAME" --timeout 5
CMD ["stbass", "worker", "-e", "anthropic"]
