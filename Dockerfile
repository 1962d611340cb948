# sctnet serve in a container: on a CPU, as a user without rights, with a file system that is only read.
#
#     docker build -t sctnet .
#     docker run --rm --read-only --cap-drop ALL -p 8000:8000 -v "$PWD/runs/streets:/model:ro" sctnet
#
# Not built where it was written; tests/test_container.py starts the server the way it does.
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY constraints.txt pyproject.toml README.md LICENSE /source/
COPY src /source/src
RUN python -m venv /env && /env/bin/pip install --no-cache-dir -c /source/constraints.txt \
      --extra-index-url https://download.pytorch.org/whl/cpu "/source[serve]"

FROM python:3.12-slim
COPY --from=build /env /env
# Nothing may be written: no bytecode, no caches, no home.
ENV PATH=/env/bin:$PATH PYTHONDONTWRITEBYTECODE=1 HOME=/nonexistent
USER 65534:65534
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/health/ready')"]
ENTRYPOINT ["sctnet", "serve"]
CMD ["/model", "--host", "0.0.0.0", "--port", "8000"]
