# docker build -t unflip .     docs/install.md has the arguments, and how it is run
ARG BASE=python:3.12-slim

# The wheel is built apart: the image holds neither the sources nor what builds them.
FROM ${BASE} AS build
RUN python3 -c 'import ensurepip, venv' 2>/dev/null \
    || (apt-get update && apt-get install -y --no-install-recommends python3 python3-venv)
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python3 -m venv /build && /build/bin/pip wheel --no-deps --wheel-dir /wheels .

FROM ${BASE}
ARG APT=""
ARG EXTRAS=""
ARG PIP_ARGS=""
RUN packages="${APT}"; python3 -c 'import ensurepip, venv' 2>/dev/null || packages="${packages} python3 python3-venv"; \
    if [ -n "${packages}" ]; then \
        apt-get update && apt-get install -y --no-install-recommends ${packages} && rm -rf /var/lib/apt/lists/*; \
    fi
COPY --from=build /wheels /wheels
RUN python3 -m venv /opt/unflip \
    && /opt/unflip/bin/pip install --no-cache-dir ${PIP_ARGS} "$(echo /wheels/unflip-*.whl)${EXTRAS:+[${EXTRAS}]}" \
    && /opt/unflip/bin/unflip --version

# Whoever it is run as (--user) has a home for caches, and a name, which PyTorch asks for.
RUN useradd --uid 10001 --no-create-home unflip && install -d -m 1777 /home/unflip && install -d -o unflip /data
ENV PATH=/opt/unflip/bin:$PATH HOME=/home/unflip USER=unflip PYTHONUNBUFFERED=1
USER unflip
WORKDIR /data
EXPOSE 7860
ENTRYPOINT ["unflip"]
CMD ["--help"]
