# The app, the upkeep and the migrations in one image: `docker run IMAGE COMMAND` is `daybook COMMAND`.

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
COPY requirements/build.txt requirements/run.txt requirements/
RUN python -m venv /daybook \
    && /daybook/bin/pip install --require-hashes -r requirements/run.txt \
    && python -m pip install --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY api api
COPY sql sql
COPY migrations migrations
RUN python -m pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels . \
    && /daybook/bin/pip install --no-deps --no-index /wheels/*.whl \
    && /daybook/bin/python -m pip uninstall --yes pip

FROM python:3.13-slim
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin daybook
COPY --from=build /daybook /daybook
ENV PATH="/daybook/bin:$PATH" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["daybook"]
CMD ["serve", "--host", "0.0.0.0"]
