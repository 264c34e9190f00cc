"""Pages in one file."""

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest

from foldcam.runtime.images.page import open_page, picture_uri
from foldcam.runtime.system.errors import FoldcamError


def test_a_page_holds_title_and_body_and_asks_no_host_for_anything(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with open_page(path, "Birds <& co>", script="1;") as page:
        page.write("<h1>Birds</h1>")
    text = path.read_text("utf-8")
    assert "<title>Birds &lt;&amp; co&gt;</title>" in text
    assert "default-src 'none'" in text
    assert text.index("<h1>Birds</h1>") < text.index("<script>1;</script>") < text.index("</body>")
    assert "http:" not in text
    assert "https:" not in text


def test_a_page_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(TypeError), open_page(path, "new") as page:
        page.write(None)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]


def test_a_page_in_a_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(FoldcamError, match="is a file where a folder is needed"),
        open_page(tmp_path / "file" / "report.html", "x"),
    ):
        pass


def test_a_picture_is_made_smaller_and_keeps_its_colours() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[..., 0] = 255
    kind, data = picture_uri(image, side=20).split(",")
    assert kind == "data:image/jpeg;base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (10, 20, 3)
    assert decoded[..., 2].mean() > 240  # OpenCV's order: blue, green, red
    assert decoded[..., 0].mean() < 15
