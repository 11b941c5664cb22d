# The HTTP API on CPUs, as a user without rights: docs/serve.md says how to build and run it.
FROM python:3.12-slim

# PyTorch first. What PyPI offers brings gigabytes of CUDA along; the address of a package index with CPU builds avoids
# that: docker build --build-arg TORCH_INDEX=ADDRESS .
ARG TORCH_INDEX=
COPY constraints.txt /tmp/constraints.txt
RUN PIP_INDEX_URL="${TORCH_INDEX:-$PIP_INDEX_URL}" pip install --no-cache-dir --constraint /tmp/constraints.txt torch

COPY pyproject.toml README.md LICENSE /tmp/conservator/
COPY src /tmp/conservator/src
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt "/tmp/conservator[serve,heif]" \
    && rm -r /tmp/conservator /tmp/constraints.txt

RUN useradd --create-home conservator && install --directory --owner conservator --mode 700 /data
USER conservator
WORKDIR /home/conservator
VOLUME /data
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz')"]

# CONSERVATOR_TOKEN must be given: without it nothing listens beyond the container.
ENTRYPOINT ["conservator", "serve", "--data", "/data", "--host", "0.0.0.0", "--port", "8000"]
