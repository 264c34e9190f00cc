"""Preflight: everything that does not fit is said before a byte reaches the deserialiser."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foldcam.runtime.engine.device import DeviceFacts, Gpu, Host
from foldcam.runtime.engine.manifest import FileRecord, Target, manifest_path, read_manifest
from foldcam.runtime.engine.options import BuildOptions, Profile
from foldcam.runtime.engine.preflight import check_engine, load_engine
from foldcam.runtime.system.errors import FoldcamError

PORTABLE = {
    "flavour": "tensorrt_rtx",
    "version": "1.7.1.116",
    "target": Target("", ("8.0", "8.6", "8.9", "12.0", "12.1"), True),
    "platform": Host("x86_64", "Linux", ""),
}


class Deserializer:
    """What would run a plan. Only bytes that passed may come here."""

    def __init__(self) -> None:
        self.plans: list[bytes] = []

    def start(self, engine: Path, device: DeviceFacts, onnx: Path | None = None) -> None:
        self.plans.append(load_engine(engine, device, onnx).plan)


def doctored(engine: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the JSON document of a manifest."""
    path = manifest_path(engine)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def set_in(*keys: Any, value: Any) -> Callable[[Path], None]:
    """A damage: one value of the manifest replaced."""

    def damage(engine: Path) -> None:
        def change(document: Any) -> None:
            for key in keys[:-1]:
                document = document[key]
            document[keys[-1]] = value

        doctored(engine, change)

    return damage


def drop(key: str) -> Callable[[Path], None]:
    return lambda engine: doctored(engine, lambda document: document.pop(key))


def manifest_text(text: str) -> Callable[[Path], None]:
    return lambda engine: manifest_path(engine).write_text(text) and None


def plan_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda engine: engine.write_bytes(change(engine.read_bytes())) and None


def unlink(name: str) -> Callable[[Path], None]:
    return lambda engine: engine.with_name(name).unlink()


def into_folder(engine: Path) -> None:
    engine.unlink()
    engine.mkdir()


def into_pipe(engine: Path) -> None:
    engine.unlink()
    os.mkfifo(engine)


def changed_model(engine: Path) -> None:
    model = engine.with_name("tiny.onnx")
    model.write_bytes(model.read_bytes() + b"\x0a\x00")


def flipped(plan: bytes) -> bytes:
    return plan[:500] + bytes([plan[500] ^ 1]) + plan[501:]


REBUILD = "runtime build "
DAMAGES: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "no plan": (unlink("tiny.engine"), ("does not exist", REBUILD)),
    "plan is a folder": (into_folder, ("is a folder",)),
    "plan is a pipe": (into_pipe, ("is a device or a pipe",)),
    "plan empty": (plan_bytes(lambda plan: b""), ("is empty", "1024 bytes", REBUILD)),
    "plan cut off": (plan_bytes(lambda plan: plan[:-1]), ("cut off", "1023 of the 1024", REBUILD)),
    "plan added to": (plan_bytes(lambda plan: plan + b"x"), ("1025 bytes", "says 1024", REBUILD)),
    "plan changed": (plan_bytes(flipped), ("was changed after it was built", "785b0751", REBUILD)),
    "no manifest": (unlink("tiny.engine.json"), ("has no manifest", "tiny.engine.json", REBUILD)),
    "manifest empty": (manifest_text(""), ("is not JSON", REBUILD)),
    "manifest cut off": (manifest_text('{"schema_version": 1, '), ("is not JSON", REBUILD)),
    "manifest too deep": (manifest_text("[" * 100_000), ("is not JSON", REBUILD)),
    "manifest a list": (manifest_text("[]"), ("is a list where an object is needed",)),
    "huge integer": (manifest_text(f'{{"a": {"9" * 5000}}}'), ("is not JSON",)),
    "other schema": (set_in("schema_version", value=2), ("version 2", "reads 1", REBUILD)),
    "flavour missing": (drop("flavour"), ("flavour is missing",)),
    "flavour unknown": (set_in("flavour", value="openvino"), ("'openvino'", "tensorrt_rtx")),
    "precision unknown": (set_in("precision", value="fp8"), ("'fp8'", "fp32, fp16, int8")),
    "sizes of another type": (set_in("plan", "bytes", value="1024"), ("plan.bytes", "a string")),
    "negative size": (set_in("plan", "bytes", value=-1), ("plan.bytes is -1",)),
    "profile out of order": (
        set_in("options", "profiles", value=[[4, 2, 1]]),
        ("options.profiles[0] has the batch sizes 4, 2, 1, which must be",),
    ),
    "no profile": (
        set_in("options", "profiles", value=[]), ("options.profiles has 0 values where at least 1",)
    ),
    "capability no number": (
        set_in("target", "compute_capabilities", value=["orin"]),
        ("target.compute_capabilities[0] is 'orin' where text of the form",),
    ),
    "model elsewhere": (set_in("model", "name", value="../x.onnx"), ("not the plain name",)),
    "metadata edited": (
        set_in("metadata", "transfer", value=2), ("metadata in it were changed", REBUILD)
    ),
    "metadata gone": (drop("metadata"), ("metadata is missing",)),
    "tensor renamed": (
        set_in("outputs", 1, "name", value="map"), ("'heatmap' is missing", REBUILD)
    ),
    "tensor retyped": (
        set_in("outputs", 2, "dtype", value="int64"), ("int64 [N, 2]", "int32 [N, 2]", REBUILD)
    ),
    "tensor resized": (
        set_in("inputs", 0, "shape", value=["N", 3, 9, 8]), ("[N, 3, 9, 8]", "[N, 3, 8, 8]")
    ),
    "batch fixed": (set_in("inputs", 0, "shape", value=[1, 3, 8, 8]), ("fixed at 1", REBUILD)),
    "model changed": (changed_model, ("another tiny.onnx", REBUILD)),
}  # fmt: skip


def test_an_engine_that_fits_is_handed_over_as_it_was_checked(make_engine, orin):
    engine, deserializer = make_engine(), Deserializer()
    deserializer.start(engine, orin)
    assert deserializer.plans == [engine.read_bytes()]
    assert check_engine(engine, orin).version == "10.3.0"


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_and_nothing_is_deserialized(name, make_engine, orin):
    damage, parts = DAMAGES[name]
    engine, deserializer = make_engine(), Deserializer()
    damage(engine)
    with pytest.raises(FoldcamError) as caught:
        deserializer.start(engine, orin)
    assert not deserializer.plans
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def elsewhere(
    host: dict[str, str] | None = None, **changes: Any
) -> Callable[[DeviceFacts], DeviceFacts]:
    """A machine that differs from the Orin."""
    return lambda orin: replace(orin, host=replace(orin.host, **(host or {})), **changes)


MACHINES: dict[str, tuple[dict[str, Any], Callable[[DeviceFacts], DeviceFacts], tuple[str, ...]]]
MACHINES = {
    "no TensorRT": ({}, elsewhere(tensorrt={}), ("TensorRT 10.3.0", "found: none", REBUILD)),
    "other flavour": (
        {},
        elsewhere(tensorrt={"tensorrt_rtx": "1.7.1"}),
        ("needs TensorRT 10.3.0", "found: tensorrt_rtx 1.7.1"),
    ),
    "older TensorRT": (
        {}, elsewhere(tensorrt={"tensorrt": "8.6.2"}), ("TensorRT 10.3.0", "8.6.2", REBUILD)
    ),
    "newer patch": (
        {}, elsewhere(tensorrt={"tensorrt": "10.3.1"}), ("TensorRT 10.3.0", "10.3.1", REBUILD)
    ),
    "other machine": ({}, elsewhere({"machine": "x86_64"}), ("for aarch64", "x86_64", REBUILD)),
    "other system": ({}, elsewhere({"system": "Windows"}), ("on Linux", "Windows", REBUILD)),
    "other JetPack": ({}, elsewhere({"l4t": "36.5.0"}), ("36.4.3", "36.5.0", REBUILD)),
    "no JetPack": ({}, elsewhere({"l4t": ""}), ("36.4.3", "no Jetson Linux", REBUILD)),
    "no GPU": ({}, elsewhere(gpu=None), ("compute capability 8.7", "finds none")),
    "other GPU": (
        {}, elsewhere(gpu=Gpu("Thor", "11.0", True, None)), ("8.7", "Thor has 11.0", REBUILD)
    ),
    "RTX of another release": (
        PORTABLE, elsewhere(tensorrt={"tensorrt_rtx": "1.6.0"}), ("RTX 1.7.1.116", "1.6.0")
    ),
    "RTX on a GPU between": (
        PORTABLE,
        elsewhere(tensorrt={"tensorrt_rtx": "1.7.1.116"}, gpu=Gpu("H100", "9.0", False, None)),
        ("8.0, 8.6, 8.9, 12.0, 12.1 and later", "H100 has 9.0"),
    ),
    "RTX for named GPUs": (
        {**PORTABLE, "target": Target("", ("8.6", "8.9"), False)},
        elsewhere(tensorrt={"tensorrt_rtx": "1.7.1.116"}, gpu=Gpu("5090", "12.0", False, None)),
        ("capability 8.6, 8.9 and", "5090 has 12.0"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_that_does_not_fit_is_named(name, make_engine, orin):
    changes, move, parts = MACHINES[name]
    engine, deserializer = make_engine(**changes), Deserializer()
    with pytest.raises(FoldcamError) as caught:
        deserializer.start(engine, move(orin))
    assert not deserializer.plans
    for part in parts:
        assert part in str(caught.value)


def test_every_kind_has_its_own_sentence(make_engine, orin):
    sentences = []
    for damage, _ in DAMAGES.values():
        engine = make_engine()
        damage(engine)
        with pytest.raises(FoldcamError) as caught:
            load_engine(engine, orin)
        sentences.append(str(caught.value).replace(str(engine), "ENGINE"))
    for changes, move, _ in MACHINES.values():
        engine = make_engine(**changes)
        with pytest.raises(FoldcamError) as caught:
            load_engine(engine, move(orin))
        sentences.append(str(caught.value).replace(str(engine), "ENGINE"))
    # Three ways of being no JSON, and nothing else, share one.
    assert len(set(sentences)) >= len(sentences) - 3 >= 36


@pytest.mark.parametrize("capability", ["8.0", "8.9", "12.1", "13.0"])
def test_a_portable_engine_runs_on_every_gpu_it_was_built_for(capability, make_engine, orin):
    engine = make_engine(**PORTABLE)
    here = replace(
        orin,
        tensorrt={"tensorrt_rtx": "1.7.1.116"},
        gpu=Gpu("a card", capability, False, None),
        host=Host("x86_64", "Windows", ""),
    )
    assert load_engine(engine, here).plan == engine.read_bytes()


def test_the_command_that_fixes_it_repeats_the_options(make_engine, orin):
    options = BuildOptions((Profile(1, 2, 4),), workspace=512 << 20, dla_core=1)
    engine = make_engine(options=options)
    with pytest.raises(FoldcamError) as caught:
        load_engine(engine, replace(orin, tensorrt={"tensorrt": "10.4.0"}))
    model = engine.with_name("tiny.onnx")
    assert str(caught.value).endswith(
        f"runtime build {model} --out {engine} --flavour tensorrt --min-batch 1 --opt-batch 2 "
        "--max-batch 4 --workspace 512 --dla 1"
    )


def test_precision_of_the_metadata_must_be_the_engines(make_engine, orin):
    def alone(**changes: Any) -> Path:
        engine = make_engine(**changes)
        engine.with_name("tiny.onnx").unlink()
        return engine

    metadata = {**read_manifest(make_engine()).metadata, "precision": "fp16"}
    with pytest.raises(FoldcamError, match="computes in fp32 and the model's metadata say fp16"):
        load_engine(alone(metadata=metadata), orin)
    assert load_engine(alone(metadata=metadata, precision="fp16"), orin)
    # A quantized network is int8 whatever its float parts are.
    assert load_engine(alone(metadata=metadata, precision="int8"), orin)


def test_a_model_of_another_precision_is_named_before_its_hash(
    make_engine, make_model, contract_with, orin
):
    document = {**json.loads(contract_with().to_json()), "precision": "fp16"}
    half = make_model("half.onnx", metadata=json.dumps(document))
    with pytest.raises(FoldcamError, match=r"computes in fp32 and .*half.onnx is now fp16"):
        load_engine(make_engine(), orin, half)


def test_a_model_that_the_user_names_is_compared_and_one_beside_as_well(
    make_engine, make_model, orin
):
    engine = make_engine()
    model = engine.with_name("tiny.onnx")
    other = make_model("other.onnx", change=lambda made: setattr(made, "doc_string", "other"))
    assert load_engine(engine, orin, model)
    with pytest.raises(FoldcamError, match=r"built from another tiny.onnx .* than .*other.onnx"):
        load_engine(engine, orin, other)
    # Only the engine was copied to the device: there is nothing to compare.
    model.unlink()
    assert load_engine(engine, orin)


def test_files_are_checked_without_a_device(make_engine):
    engine = make_engine(version="99.0")
    assert check_engine(engine, None).version == "99.0"
    engine.write_bytes(b"x" * 1024)
    with pytest.raises(FoldcamError, match="was changed"):
        check_engine(engine, None)


def test_a_plan_too_small_for_any_engine_is_refused(make_engine, orin):
    tiny = b"ftrt"
    engine = make_engine(plan=FileRecord("tiny.engine", 4, hashlib.sha256(tiny).hexdigest()))
    engine.write_bytes(tiny)
    with pytest.raises(FoldcamError, match="4 bytes, too few for any engine"):
        load_engine(engine, orin)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_value_anywhere_in_a_manifest_is_accepted_or_refused_in_one_sentence(
    data, make_engine, orin, tmp_path
):
    engine = tmp_path / "shared" / "tiny.engine"
    if not engine.parent.exists():
        made = make_engine()
        shutil.copytree(made.parent, engine.parent)
        manifest_path(engine).rename(tmp_path / "original.json")
    document = json.loads((tmp_path / "original.json").read_text())
    place: Any = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(place[key], (dict, list)) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = data.draw(JSON)
        break
    manifest_path(engine).write_text(json.dumps(document))
    sentence = ""
    try:
        load_engine(engine, orin)
    except FoldcamError as error:
        sentence = str(error)
    assert "\n" not in sentence
