#!/usr/bin/env bash
# Everything of foldcam that needs an NVIDIA GPU, in ten minutes and without network.
#
#   bash run.sh [--out FOLDER] [--minutes 10] [--device cpu]
#
# Needs Python 3.12 with torch (CUDA 13), numpy, onnx and pip; PYTHON names another interpreter than
# python3. Joins the pieces that lie beside it, unpacks them, and runs every step; see run.py.
# Exit status: 0 everything ran, 1 a step failed, 2 nothing failed but steps were left out,
# 3 the pieces are damaged or incomplete.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
(cd "$here" && sha256sum --quiet --check SHA256SUMS) || {
    echo "The pieces beside run.sh are damaged or incomplete: bring along those that SHA256SUMS names again." >&2
    exit 3
}
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cat "$here"/piece-* | tar --extract --directory "$work"
"${PYTHON:-python3}" "$work/run.py" --out "$here/results" "$@"
