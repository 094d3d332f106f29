# diffusion@home in a container: `dah`, as a user without rights, in a folder that need not be writable.
#
#   docker build --tag diffusion-at-home .                                        NVIDIA cards: torch's own index has CUDA in it
#   docker build --tag diffusion-at-home:cpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
#
# compose.yaml runs a coordinator or a worker of it.

FROM python:3.11-slim-bookworm AS build
# Where torch is taken from; everything else comes from PyPI, all of it at the versions in constraints.txt.
ARG TORCH_INDEX=https://pypi.org/simple
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/dah
WORKDIR /src
COPY constraints.txt ./
RUN /opt/dah/bin/pip install --constraint constraints.txt --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple torch
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY diffusion_at_home diffusion_at_home
COPY coordinator coordinator
COPY worker worker
RUN /opt/dah/bin/pip install --constraint constraints.txt '.[all]'

FROM python:3.11-slim-bookworm
# The emoji data set is drawn from this font and the lists of this package; the rest of the image needs neither.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends fonts-noto-color-emoji unicode-data libfribidi0 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home --shell /usr/sbin/nologin dah \
    && install --directory --owner dah --group dah /data
COPY --from=build /opt/dah /opt/dah
# All that it keeps is below /data: the worker's key, unsent work and downloads; a coordinator's runs and data sets.
ENV PATH=/opt/dah/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    XDG_CONFIG_HOME=/data/config XDG_STATE_HOME=/data/state XDG_CACHE_HOME=/data/cache CUDA_CACHE_PATH=/data/cache/cuda
USER dah
WORKDIR /data
VOLUME /data
STOPSIGNAL SIGTERM
ENTRYPOINT ["dah"]
CMD ["--help"]
