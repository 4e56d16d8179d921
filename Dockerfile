# How to use it: docs/how-to/docker.md. What is run is what the README says; tests/docs/test_docker.py compares.
#   docker build -t cascade-kp .                  a CPU; with --build-arg BASE=nvidia/cuda:... a GPU
#   docker build -t cascade-kp-check --target check .     "Try it": make demo, and make test when it is run
ARG BASE=python:3.11-slim

FROM ${BASE} AS source
# A second index for pip, such as one with PyTorch for CPUs only.
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# A CUDA base brings no Python, others one that cannot make environments; of a Python base its own is used.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
        $(python3 -c 'import ensurepip' 2> /dev/null || echo python3 python3-venv) \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and f"BASE: needs Python 3.11 or newer, has {v}")'
RUN useradd --create-home cascade && mkdir /src /work /opt/venv && chown cascade /src /work /opt/venv
USER cascade
WORKDIR /src
COPY --chown=cascade . .

FROM source AS check
RUN make demo
CMD ["make", "test"]

FROM source
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
RUN pip install .
WORKDIR /work
ENTRYPOINT ["cascade-kp"]
CMD ["--help"]
