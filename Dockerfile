# A worker: docker run -e STBASS_BROKER_URL=redis://… stbass stbass worker -e anthropic
#
# Modules of your own go to /srv/stbass/modules: mount them there (docker run -v ./my_modules:/srv/stbass/modules), or
# make an image `FROM stbass` with `COPY my_modules /srv/stbass/modules`. Name them in STBASS_INCLUDE.
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY stbass stbass
# Components that read and write Parquet files or SQL tables need more: parquet, sql.
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir ".[celery,dataflow]"

FROM python:3.12-slim
RUN useradd --uid 10001 --create-home stbass
COPY --from=build /venv /venv
COPY celery_app /srv/stbass/celery_app
COPY examples /srv/stbass/examples
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/srv/stbass:/srv/stbass/modules \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER stbass
WORKDIR /srv/stbass
# Whether a healthy worker serves the endpoint. What does not run this worker says another one, or switches it off (see
# docker-compose.yml).
HEALTHCHECK --interval=30s --timeout=15s --start-period=20s --retries=3 \
    CMD stbass status -A celery_app --require anthropic
CMD ["stbass", "worker", "-A", "celery_app", "-e", "anthropic"]
