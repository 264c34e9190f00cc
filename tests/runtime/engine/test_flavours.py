"""Which TensorRT is found, and what is said where none is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from foldcam.runtime.engine.flavours import Flavour, find_flavour, installed_versions, release_of
from foldcam.runtime.system.errors import FoldcamError


def modules(**versions):
    """A machine with these modules: a version, an exception to raise, or a shell (None)."""

    def load(name):
        found = versions.get(name, ModuleNotFoundError(f"No module named {name!r}", name=name))
        if isinstance(found, Exception):
            raise found
        if found is None:
            return SimpleNamespace()
        return SimpleNamespace(__version__=found, Builder=object)

    return load


def test_auto_prefers_the_general_one():
    both = modules(tensorrt="10.3.0", tensorrt_rtx="1.7.1.116")
    assert find_flavour("auto", both).title == "TensorRT 10.3.0"
    assert find_flavour("rtx", both).title == "TensorRT-RTX 1.7.1.116"
    assert find_flavour("auto", modules(tensorrt_rtx="1.7")).name == "tensorrt_rtx"
    assert installed_versions(both) == {"tensorrt": "10.3.0", "tensorrt_rtx": "1.7.1.116"}
    assert installed_versions(modules()) == {}


def test_what_to_install_is_said_for_every_platform():
    with pytest.raises(FoldcamError) as caught:
        find_flavour("auto", modules())
    for part in ("JetPack", "--system-site-packages", "pip install tensorrt", "foldcam[rtx]"):
        assert part in str(caught.value)
    with pytest.raises(FoldcamError, match=r"TensorRT-RTX is not installed: for an RTX card"):
        find_flavour("rtx", modules(tensorrt="10.3.0"))


def test_a_broken_one_is_told_from_a_missing_one():
    broken = ImportError("libnvinfer.so.10: cannot open shared object file\nmore")
    with pytest.raises(FoldcamError, match=r"cannot be imported \(libnvinfer.so.10: .*file\)"):
        find_flavour("tensorrt", modules(tensorrt=broken))
    part = ModuleNotFoundError("No module named 'tensorrt_libs'", name="tensorrt_libs")
    with pytest.raises(FoldcamError, match="tensorrt is installed but cannot be imported"):
        find_flavour("tensorrt", modules(tensorrt=part))
    with pytest.raises(FoldcamError, match="a shell without the library"):
        find_flavour("tensorrt", modules(tensorrt=None))
    assert find_flavour("auto", modules(tensorrt=broken, tensorrt_rtx="1.7.1")).rtx


@pytest.mark.parametrize(
    ("name", "version", "typed"),
    [
        ("tensorrt", "8.6.2", False),
        ("tensorrt", "10.3.0", False),
        ("tensorrt", "10.11.0.33", False),
        ("tensorrt", "10.12.0.36", True),
        ("tensorrt", "10.16.2", True),
        ("tensorrt", "11.4.1", True),
        ("tensorrt_rtx", "1.7.1.116", True),
    ],
)
def test_typing_is_strong_where_it_is_complete(name, version, typed):
    assert Flavour(name, version, None).strongly_typed is typed


def test_members_are_looked_up_by_name_and_may_be_missing(fake):
    old, new = (Flavour("tensorrt", v, fake.make(v)) for v in ("10.3.0", "11.4.1"))
    assert int(old.member("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")) == 1
    assert int(new.member("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")) == 0
    assert new.member("BuilderFlag", "FP16") is None
    assert new.member("NoSuchEnumeration", "FP16") is None


def test_release_numbers_come_before_what_follows_them():
    assert release_of("10.0.0b6") == (10, 0, 0)
    assert release_of("8.6.2.post1") == (8, 6, 2)
    assert release_of("unknown") == ()
