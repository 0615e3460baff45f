# One image for every service; EXTRA=cuda13 has the CUDA build of JAX, for the GPU worker.

FROM python:3.11.14-slim-bookworm AS build
ARG EXTRA=cpu
RUN python -m venv /opt/retrograd
ENV PATH=/opt/retrograd/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
# before the source: a change of code does not install the dependencies again
COPY requirements*.lock ./
RUN pip install --no-deps --requirement "requirements-${EXTRA}.lock"
COPY pyproject.toml README.md LICENSE ./
COPY core core
COPY api api
COPY worker worker
COPY retrograd retrograd
COPY migrations migrations
RUN pip install --no-deps .

FROM python:3.11.14-slim-bookworm
RUN groupadd --gid 10001 retrograd \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/retrograd --create-home --shell /usr/sbin/nologin retrograd \
    && install -d -m 700 -o retrograd -g retrograd /storage
COPY --from=build /opt/retrograd /opt/retrograd
# safe path: only installed packages are imported, nothing from the working folder
ENV PATH=/opt/retrograd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    JAX_COMPILATION_CACHE_DIR=/var/lib/retrograd/jax
WORKDIR /var/lib/retrograd
USER 10001:10001
CMD ["retrograd", "--help"]
