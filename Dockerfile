# syntax=docker/dockerfile:1
#
# The device program `runtime`, without torch and without onnx.
#
#   docker build -t foldcam .
#   docker run --rm -v "$PWD:/data" foldcam run model.onnx --file photo.jpg --save out/
#   docker run --rm --device /dev/video0 -v "$PWD:/data" foldcam run model.onnx --camera 0
#
# Build arguments choose the machine. Each of these was linted, and its pip steps were run in
# clean environments; the images themselves were not built.
#
# CUDA desktop, ONNX Runtime (run it with --gpus all):
#   docker build -t foldcam:cuda --build-arg EXTRAS=gpu \
#     --build-arg BASE_IMAGE=nvidia/cuda:12.6.3-cudnn-runtime-ubuntu22.04 .
#
# Jetson, JetPack 6 (run it with --runtime nvidia); TensorRT is the image's, and OpenCV
# is Ubuntu's, which reads GStreamer:
#   docker build -t foldcam:jetpack6 --build-arg EXTRAS= \
#     --build-arg BASE_IMAGE=nvcr.io/nvidia/l4t-jetpack:r36.4.0 \
#     --build-arg SYSTEM_PACKAGES=python3-opencv \
#     --build-arg VENV_OPTIONS=--system-site-packages \
#     --build-arg CONSTRAINTS=constraints/jetpack6.txt \
#     --build-arg EXTRA_PACKAGES=cuda-bindings==12.9.4 .
#
# Jetson, JetPack 7 (run it with --runtime nvidia --gpus all); there is no l4t-jetpack image
# any more, and 26.05 is the TensorRT image with 7.2's TensorRT 10.16 and CUDA 13.2. An engine
# must be built by the image that runs it:
#   docker build -t foldcam:jetpack7 --build-arg EXTRAS= \
#     --build-arg BASE_IMAGE=nvcr.io/nvidia/tensorrt:26.05-py3 \
#     --build-arg SYSTEM_PACKAGES=python3-opencv \
#     --build-arg VENV_OPTIONS=--system-site-packages \
#     --build-arg CONSTRAINTS=constraints/jetpack7.txt \
#     --build-arg EXTRA_PACKAGES=cuda-bindings==13.2.0 .
# The same one without constraints runs on a desktop with an NVIDIA driver.
#
# The container's user has the id 10001: add --user "$(id -u):$(id -g)" where it must write
# into a folder of yours, and on a Jetson --group-add for the owner of the GPU's devices:
# --group-add "$(getent group render | cut -d: -f3)".

ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS build
# Which of the package's extras; empty for none.
ARG EXTRAS=cpu
# Which versions; empty for constraints/py3.X.txt of the image's Python.
ARG CONSTRAINTS=
ARG VENV_OPTIONS=
# More for pip, such as the CUDA bindings that TensorRT needs beside it.
ARG EXTRA_PACKAGES=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# hadolint ignore=DL3008
RUN python3 -c 'import ensurepip' 2>/dev/null || { \
      apt-get update \
      && apt-get install --yes --no-install-recommends python3 python3-venv \
      && rm -rf /var/lib/apt/lists/*; }
WORKDIR /build
COPY . .
# The environment is copied whole, so pip itself is not left in it.
# hadolint ignore=DL3013,SC2086
RUN python3 -m venv ${VENV_OPTIONS} /foldcam \
    && /foldcam/bin/python -m pip wheel --no-deps --wheel-dir dist . \
    && minor="$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')" \
    && /foldcam/bin/python -m pip install \
         --constraint "${CONSTRAINTS:-constraints/py${minor}.txt}" \
         "$(echo dist/foldcam-*.whl)${EXTRAS:+[${EXTRAS}]}" ${EXTRA_PACKAGES} \
    && /foldcam/bin/python -m pip uninstall --yes pip

FROM ${BASE_IMAGE} AS runtime
ARG SYSTEM_PACKAGES=
# hadolint ignore=DL3008,SC2086
RUN packages="${SYSTEM_PACKAGES}"; \
    command -v python3 || packages="${packages} python3"; \
    test -z "${packages}" || { \
      apt-get update \
      && apt-get install --yes --no-install-recommends ${packages} \
      && rm -rf /var/lib/apt/lists/*; }
# The group `video` may open cameras.
RUN useradd --uid 10001 --create-home --groups video foldcam
COPY --from=build /foldcam /foldcam
ENV PATH=/foldcam/bin:${PATH} PYTHONUNBUFFERED=1
# The program answers, and neither torch nor onnx has come in with it.
RUN runtime --help >/dev/null \
    && test -z "$(find /foldcam -maxdepth 4 -type d '(' -name torch -o -name onnx ')')"
WORKDIR /data
USER 10001
HEALTHCHECK --interval=60s --timeout=20s --start-period=20s CMD ["runtime", "doctor"]
ENTRYPOINT ["runtime"]
CMD ["--help"]
