# One image for every Celery process of the pool; docker-compose.yml says which process a container is.
# Build arguments: BASE_IMAGE, any Linux with Python 3.10 to 3.13 as `python3`, and PIP_ARGS, options for pip install.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG PIP_ARGS=""
# Dependencies first, from the metadata alone: a change of the code does not install them again.
# The pattern copies a wheelhouse if there is one; a pattern that matches nothing is no error (BuildKit wants the
# folder before a pattern to exist, hence the pattern in the first).
COPY constraints.txt buil[d]/wheels /wheels/
COPY pyproject.toml README.md LICENSE /src/
# A virtual environment, since a distribution's own Python refuses packages from outside (PEP 668).
RUN python3 -m venv /opt/celeriac \
 && /opt/celeriac/bin/pip install --no-cache-dir --disable-pip-version-check ${PIP_ARGS} -c /wheels/constraints.txt /src
COPY . /src/
RUN /opt/celeriac/bin/pip install --no-cache-dir --disable-pip-version-check ${PIP_ARGS} \
    --no-deps --force-reinstall /src

FROM ${BASE_IMAGE}
# beat keeps its schedule below /var/lib/celeriac; a fresh volume takes over the owner of the folder it covers
RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/celeriac --shell /usr/sbin/nologin celeriac \
 && install -d -o celeriac -g celeriac /var/lib/celeriac
COPY --from=build /opt/celeriac /opt/celeriac
ENV PATH=/opt/celeriac/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /opt/celeriac
USER celeriac
CMD ["celery", "-A", "tasks", "worker", "--queues", "celery"]
