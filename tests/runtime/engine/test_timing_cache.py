"""The timing cache: kept per version and GPU, and only taken where nobody else can write."""

from __future__ import annotations

from pathlib import Path

import pytest

from foldcam.runtime.engine.builder import cache_path, load_cache, store_cache
from foldcam.runtime.engine.flavours import Flavour

FLAVOUR = Flavour("tensorrt", "10.3.0", None)


def test_its_name_holds_all_that_it_depends_on():
    path = cache_path(FLAVOUR, "Orin (nvgpu)/../x", "8.7", {"XDG_CACHE_HOME": "/c"})
    assert path == Path("/c/foldcam/timing/tensorrt-10.3.0-sm8.7-Orin-nvgpu-..-x.cache")
    for environment in ({}, {"XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "relative"}):
        assert cache_path(FLAVOUR, "Orin", "8.7", environment).is_relative_to(
            Path.home() / ".cache" / "foldcam"
        )


def test_what_was_stored_is_loaded_and_private(tmp_path):
    path = tmp_path / "foldcam" / "timing" / "a.cache"
    assert load_cache(path) == (b"", "")
    assert store_cache(path, b"measured") == ""
    assert load_cache(path) == (b"measured", "")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("who", ["file", "folder"])
def test_a_cache_that_others_can_write_is_not_taken(who, tmp_path):
    path = tmp_path / "timing" / "a.cache"
    store_cache(path, b"measured")
    (path if who == "file" else path.parent).chmod(0o777)
    content, problem = load_cache(path)
    assert content == b""
    assert "others can write" in problem


def test_a_cache_that_cannot_be_kept_is_a_note_and_no_failure(tmp_path):
    (tmp_path / "foldcam").write_text("a file in the way")
    problem = store_cache(tmp_path / "foldcam" / "timing" / "a.cache", b"x")
    assert problem.startswith("the timing cache is not kept: ")
