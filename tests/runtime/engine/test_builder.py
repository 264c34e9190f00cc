"""One way of building for every version: what is asked of the builder, and how it fails."""

from __future__ import annotations

import _thread
import errno
import hashlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from foldcam.runtime.engine import builder as builder_module
from foldcam.runtime.engine.builder import build_engine, cache_path, engine_path
from foldcam.runtime.engine.manifest import manifest_path, read_manifest
from foldcam.runtime.engine.options import BuildOptions, Profile, profiles_for
from foldcam.runtime.engine.precision import Types, hold_to
from foldcam.runtime.engine.preflight import load_engine
from foldcam.runtime.engine.progress import BuildAbandonedError, BuildLine, BuildState
from foldcam.runtime.system.errors import FoldcamError


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    """Timing caches of a test stay in its folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compile_tiny(make_flavour, make_model, orin, tmp_path):
    """`compile_tiny("10.3.0", BuildOptions(...), half=True)` builds; `.flavour` is the fake."""
    made = SimpleNamespace(flavour=None, out=tmp_path / "out" / "tiny.engine", model=None)

    def build(version, options=None, facts=orin, line=None, **settings):
        made.flavour = make_flavour(version, **settings)
        made.model = made.model or make_model("tiny.onnx")
        options = options or BuildOptions()
        facts = replace(facts, tensorrt={"tensorrt": version})
        return build_engine(made.model, made.out, options, made.flavour, facts=facts, line=line)

    build.made = made
    return build


def calls(made, name):
    return [value for kind, value in made.flavour.module.calls if kind == name]


@pytest.mark.parametrize(
    ("version", "flags", "typing"),
    [
        ("8.6.2", 1 << 0, "weak"),  # EXPLICIT_BATCH is bit 0
        ("10.3.0", 0, "weak"),
        ("10.13.3", 1 << 1, "strong"),
        ("10.16.2", 1 << 1, "strong"),
        ("11.4.1", 1 << 0, "strong"),  # STRONGLY_TYPED moved there
    ],
)
@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_every_version_is_asked_for_what_it_has(version, flags, typing, kind, compile_tiny):
    settings = {"half": kind == "fp16", "quantized": kind == "int8"}
    built = compile_tiny(version, **settings)
    made = compile_tiny.made
    assert calls(made, "create_network") == [flags]
    asked = {
        ("weak", "fp16"): {"FP16", "PREFER_PRECISION_CONSTRAINTS"},
        ("weak", "int8"): {"INT8"},
    }.get((typing, kind), set())
    assert calls(made, "build") == [asked]
    assert (built.manifest.precision, built.manifest.typing) == (kind, typing)


def test_a_weakly_typed_build_may_not_lower_what_the_file_keeps_in_float32(compile_tiny):
    compile_tiny("8.6.2", half=True)
    module = compile_tiny.made.flavour.module
    layers, single = module.network.layers, module.DataType.FLOAT
    pinned = {name for name, layer in layers.items() if layer.precision is not None}
    # conv2 reports float32, but what it is given is float16 in the file.
    assert pinned == {"mean"}
    assert layers["mean"].precision == single
    assert layers["mean"].output_types == {0: single}


def test_quantized_layers_and_what_is_joined_with_them_are_not_pinned(fake, make_flavour):
    """INT8 beside FP16 in a weakly typed build: rounded -> conv -> relu stay free for int8."""
    flavour = make_flavour("10.3.0")
    kinds, types = flavour.module.LayerType, flavour.module.DataType

    def value(name, dtype=types.FLOAT):
        return fake.tensor(name, dtype, (1, 4))

    image, small, back, first, active, after = (
        value(name) for name in ("image", "small", "back", "first", "active", "after")
    )
    half = value("half", types.HALF)
    layers = [
        fake.Layer("quantize", kinds.QUANTIZE, [image], [small]),
        fake.Layer("dequantize", kinds.DEQUANTIZE, [small], [back]),
        fake.Layer("conv", kinds.CONVOLUTION, [back], [first]),
        fake.Layer("relu", kinds.ACTIVATION, [first], [active]),
        fake.Layer("mean", kinds.REDUCE, [active], [after]),
        fake.Layer("other relu", kinds.ACTIVATION, [after], [value("last")]),
        fake.Layer("to half", kinds.CAST, [image], [half]),
    ]
    network = SimpleNamespace(num_layers=len(layers), get_layer=layers.__getitem__)
    config = SimpleNamespace(set_flag=lambda flag: None)
    hold_to(Types(fp16=True, int8=True), network, config, SimpleNamespace(), flavour)
    assert {layer.name for layer in layers if layer.precision is not None} == {
        "mean", "other relu"
    }  # fmt: skip


def test_a_slow_type_is_said(compile_tiny):
    notes = compile_tiny("10.3.0", half=True, fast=False).notes
    assert notes == ["this GPU has no fast FP16: parts of the engine run in a wider type"]


def test_a_model_that_lost_its_float16_is_refused(compile_tiny, make_model, contract_with):
    document = {**json.loads(contract_with().to_json()), "precision": "fp16"}
    compile_tiny.made.model = make_model("half.onnx", metadata=json.dumps(document))
    with pytest.raises(FoldcamError, match="promise fp16 and its graph has no float16"):
        compile_tiny("10.16.2")
    assert compile_tiny("10.16.2", half=True).manifest.precision == "fp16"


def test_profiles_and_workspace_follow_options_and_free_memory(compile_tiny, orin):
    compile_tiny("10.3.0", BuildOptions(profiles_for([1, 4])))
    config = compile_tiny.made.flavour.module.config
    assert config.profiles == [
        {"image": ([1, 3, 8, 8], [1, 3, 8, 8], [1, 3, 8, 8])},
        {"image": ([2, 3, 8, 8], [4, 3, 8, 8], [4, 3, 8, 8])},
    ]
    # Half of what is free where GPU and builder share it, more where they do not.
    assert list(config.limits.values()) == [2 << 30]
    card = replace(orin, gpu=replace(orin.gpu, integrated=False))
    compile_tiny("10.3.0", facts=card)
    assert list(compile_tiny.made.flavour.module.config.limits.values()) == [int((4 << 30) * 0.8)]
    compile_tiny("10.3.0", BuildOptions(workspace=64 << 20))
    assert list(compile_tiny.made.flavour.module.config.limits.values()) == [64 << 20]
    unknown = replace(orin, gpu=replace(orin.gpu, free_bytes=None))
    compile_tiny("10.3.0", facts=unknown)
    assert compile_tiny.made.flavour.module.config.limits == {}


def test_the_manifest_says_what_was_built_and_fits_this_machine(compile_tiny, orin):
    built = compile_tiny("10.3.0")
    made = compile_tiny.made
    plan = built.engine.read_bytes()
    manifest = read_manifest(built.engine)
    assert manifest == built.manifest
    assert manifest.plan.sha256 == hashlib.sha256(plan).hexdigest()
    assert manifest.model.sha256 == hashlib.sha256(made.model.read_bytes()).hexdigest()
    assert manifest.target.compute_capabilities == ("8.7",)
    assert (manifest.platform.l4t, manifest.target.device) == ("36.4.3", "Orin")
    assert [tensor.shape for tensor in manifest.inputs] == [("N", 3, 8, 8)]
    assert load_engine(built.engine, orin).plan == plan
    assert str(made.model.parent) not in manifest_path(built.engine).read_text()


def test_measured_kernels_are_kept_for_the_next_build(compile_tiny, cache_home):
    compile_tiny("10.3.0")
    made = compile_tiny.made
    path = cache_path(made.flavour, "Orin", "8.7")
    assert path.is_relative_to(cache_home)
    assert path.read_bytes() == b"+measured"
    compile_tiny("10.3.0")
    assert calls(made, "create_timing_cache") == [b"+measured"]
    # Another version does not see it, and one that is refused is begun anew.
    compile_tiny("10.4.0")
    assert calls(made, "create_timing_cache") == [b""]
    compile_tiny("10.3.0", accepts_cache=False)
    assert calls(made, "create_timing_cache") == [b"+measured+measured", b""]
    before = path.read_bytes()
    compile_tiny("10.3.0", BuildOptions(timing_cache=False))
    assert calls(made, "create_timing_cache") == []
    assert path.read_bytes() == before


def test_the_dla_is_used_where_there_is_one_and_the_rest_is_listed(compile_tiny):
    built = compile_tiny(
        "10.3.0", BuildOptions(dla_core=1), half=True, dla_cores=2, on_dla=("conv1", "conv2")
    )
    config = compile_tiny.made.flavour.module.config
    assert (config.DLA_core, config.default_device_type.name) == (1, "DLA")
    assert "GPU_FALLBACK" in config.flags
    assert built.manifest.dla_fallback == ("to half", "to single", "mean", "topk")


@pytest.mark.parametrize(
    ("options", "settings", "words"),
    [
        (BuildOptions(dla_core=0), {"half": True}, "no DLA on this device"),
        (BuildOptions(dla_core=2), {"half": True, "dla_cores": 2}, "has the cores 0 to 1"),
        (BuildOptions(dla_core=0), {"dla_cores": 1}, "model is fp32"),
        (
            BuildOptions((Profile(1, 1, 4),), dla_core=0),
            {"half": True, "dla_cores": 1},
            "one fixed batch size",
        ),
        (BuildOptions(compute_capabilities=("8.9",)), {}, "for no other: leave out"),
    ],
)
def test_an_option_that_does_not_apply_is_refused(options, settings, words, compile_tiny):
    with pytest.raises(FoldcamError, match=words):
        compile_tiny("10.3.0", options, **settings)
    assert not calls(compile_tiny.made, "build")
    assert not compile_tiny.made.out.exists()


def test_the_parsers_reasons_come_with_the_nodes(compile_tiny):
    errors = [
        SimpleNamespace(
            desc=lambda: "antialias is not\n supported.",
            node_name=lambda: "resize_3",
            node_operator=lambda: "Resize",
        ),
        SimpleNamespace(desc=lambda: "In node 7 with name: pad_1: unsupported"),  # 8.6
    ]
    with pytest.raises(FoldcamError) as caught:
        compile_tiny("8.6.2", errors=errors)
    assert str(caught.value) == (
        f"{compile_tiny.made.model} is refused by the parser of TensorRT 8.6.2: node 'resize_3' "
        "(Resize): antialias is not supported; In node 7 with name: pad_1: unsupported. What "
        f"would avoid it: foldcam check {compile_tiny.made.model}"
    )


def test_none_from_the_builder_becomes_the_loggers_reason(compile_tiny):
    with pytest.raises(FoldcamError, match=r"cannot be compiled by TensorRT 10.3.0: no kernel; "):
        compile_tiny("10.3.0", failure="no kernel.")
    with pytest.raises(FoldcamError, match=r"OutOfMemory.*smaller --workspace"):
        compile_tiny("10.3.0", failure="Error Code 2: OutOfMemory (requested 5 bytes)")
    assert not compile_tiny.made.out.exists()


def test_a_builder_that_does_not_start_says_what_the_driver_said(compile_tiny):
    with pytest.raises(
        FoldcamError, match=r"does not start .*with error: 35\): it needs an NVIDIA"
    ):
        compile_tiny("10.3.0", starts=False)


def test_progress_comes_from_the_monitor_and_from_the_clock_without_one(compile_tiny):
    seen = []

    def meanwhile(config):
        seen.append(config.progress_monitor)

    compile_tiny("8.6.2", during_build=meanwhile)
    assert seen == [None]
    compile_tiny("10.3.0", during_build=meanwhile)
    assert seen[1] is not None


def test_the_line_shows_time_and_phase(monkeypatch):
    stream, clock = io.StringIO(), iter([0.0, 1.0, 16.0, 40.0])
    monkeypatch.setattr(
        "foldcam.runtime.system.standard_streams.time.monotonic", lambda: next(clock)
    )
    line, state = BuildLine(stream), BuildState()
    line.say("compiling")
    line.tick(state)  # one second: too early for a log
    state.start("Building engine", 4)
    state.start("Timing\ttactics", 10)
    state.step("Timing\ttactics", 2)
    line.tick(state)
    state.finish("Timing\ttactics")
    state.finish("Building engine")
    line.tick(state)
    assert stream.getvalue() == (
        "compiling\n16 s  Building engine 0/4 > Timing\\ttactics 3/10\n40 s\n"
    )


class Silent(BuildLine):
    """A line whose stream nobody reads."""

    def __init__(self):
        super().__init__(io.StringIO())


def test_ctrl_c_stops_the_builder_and_leaves_nothing(compile_tiny):
    def meanwhile(config):
        _thread.interrupt_main()
        while not stopped(config):
            pass

    def stopped(config):
        return not config.progress_monitor.step_complete("Building engine", 0)

    line = Silent()
    with pytest.raises(KeyboardInterrupt) as caught:
        compile_tiny("10.3.0", during_build=meanwhile, line=line)
    assert not isinstance(caught.value, BuildAbandonedError)
    assert "stopping at the builder's next step" in line._stream.getvalue()
    assert list(compile_tiny.made.out.parent.iterdir()) == []


def test_a_second_ctrl_c_does_not_wait_for_a_builder_that_cannot_stop(compile_tiny):
    import threading

    release = threading.Event()

    class Impatient(Silent):
        def say(self, text):
            super().say(text)
            if text.startswith("stopping"):
                _thread.interrupt_main()

    def meanwhile(config):
        _thread.interrupt_main()
        release.wait(20)

    try:
        with pytest.raises(BuildAbandonedError):
            compile_tiny("8.6.2", during_build=meanwhile, line=Impatient())
    finally:
        release.set()
    assert list(compile_tiny.made.out.parent.iterdir()) == []


@pytest.fixture
def full_disk(monkeypatch):
    """A disk that is full after the first bytes of the plan."""

    def write_bytes(path, content):
        with path.open("wb") as stream:
            stream.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    return lambda: monkeypatch.setattr(Path, "write_bytes", write_bytes)


def test_a_full_disk_leaves_the_old_engine_as_it_was(compile_tiny, full_disk, orin):
    built = compile_tiny("10.3.0")
    before = sorted((p.name, p.read_bytes()) for p in built.engine.parent.iterdir())
    full_disk()
    with pytest.raises(FoldcamError, match="No space left on the disk of"):
        compile_tiny("10.3.0", BuildOptions(profiles_for([2]), timing_cache=False))
    assert sorted((p.name, p.read_bytes()) for p in built.engine.parent.iterdir()) == before
    assert load_engine(built.engine, orin)


def test_too_little_space_is_said_before_minutes_are_spent(compile_tiny, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(FoldcamError, match="No space left"):
        compile_tiny("10.3.0")
    assert compile_tiny.made.flavour.module.calls == []


def test_the_output_may_not_be_the_model_or_a_folder(compile_tiny, tmp_path, make_model):
    made = compile_tiny.made
    made.out = made.model = make_model("tiny.onnx")
    before = made.model.read_bytes()
    with pytest.raises(FoldcamError, match="where a model belongs"):
        compile_tiny("10.3.0")
    made.out = tmp_path / "link.engine"
    made.out.hardlink_to(made.model)
    with pytest.raises(FoldcamError, match="where a model belongs"):
        compile_tiny("10.3.0")
    photo = made.out = tmp_path / "photo.jpg"
    photo.write_bytes(b"a photograph")
    with pytest.raises(FoldcamError, match="no name of an engine"):
        compile_tiny("10.3.0")
    assert photo.read_bytes() == b"a photograph"
    made.out = tmp_path / "folder.engine"
    made.out.mkdir()
    with pytest.raises(FoldcamError, match="is a folder"):
        compile_tiny("10.3.0")
    made.out = tmp_path / "tiny.onnx" / "x.engine"
    with pytest.raises(FoldcamError, match="is a file where a folder is needed"):
        compile_tiny("10.3.0")
    assert made.model.read_bytes() == before


def test_a_model_with_external_data_is_refused_until_it_is_one_file(compile_tiny, make_model):
    """The parser gets bytes: it would look for the weights in the working directory."""
    made = compile_tiny.made
    made.model = make_model("tiny.onnx")
    onnx.save(onnx.load(made.model), made.model, save_as_external_data=True, location="w.bin",
              size_threshold=0)  # fmt: skip
    with pytest.raises(FoldcamError, match=r"has weights in other files \(w\.bin\)"):
        compile_tiny("10.3.0")
    assert calls(made, "parse") == []
    # As the message says.
    onnx.save_model(onnx.load_model(made.model), made.model.with_name("one.onnx"))
    made.model = made.model.with_name("one.onnx")
    compile_tiny("10.3.0")
    assert len(calls(made, "parse")) == 1


def test_an_engine_goes_beside_its_model_unless_told():
    assert engine_path(Path("models/birds.v2.onnx")) == Path("models/birds.v2.engine")


def test_a_bug_in_the_builders_thread_is_not_swallowed(compile_tiny, monkeypatch):
    def broken(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(builder_module, "types_of", broken)
    with pytest.raises(ZeroDivisionError):
        compile_tiny("10.3.0")
