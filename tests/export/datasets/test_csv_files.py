"""Rows of a CSV that cannot be meant are refused with their line."""

from __future__ import annotations

import pytest

from foldcam.export.datasets import Box, load_dataset
from foldcam.runtime.system.errors import FoldcamError


def csv(root, text, encoding="utf-8"):
    path = root / "list.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("path,label\n1.jpg,owl\n2.jpg,Smith, John\n", 'line 3 has 3 cells .*as in "Smith, John"'),
        ("path;label\n1.jpg;a;b\n", "line 2 has 3 cells and the header 2 columns"),
        ('path,label\n1.jpg,"owl\n2.jpg,gull\n', "line 3 is not readable as CSV"),
        ('path,label\n1.jpg,"owl\n2.jpg,"\n3.jpg,gull\n', "line 3: .*goes over several lines"),
        ("path,label,label\n1.jpg,a,b\n", "names the column label twice"),
        ("path,label,x,y\n1.jpg,a,1,2\n", "its columns x,y are a part of a box"),
        ("path,label,x,y,w,h,x1,y1,x2,y2\n", "boxes in two ways"),
        ("path,label,x,y,w,h\n1.jpg,a,1,2,0,4\n", "line 2: .*has no area"),
        ("path,label,x1,y1,x2,y2\n1.jpg,a,9,2,3,4\n", "line 2: .*right edge must lie right"),
        ("path,label,x,y,w,h\n1.jpg,a,1,2,,4\n", "line 2: x,y,w,h are not four numbers"),
        ("path,label,x,y,w,h\n1.jpg,a,0.1,0.2,0.3,0.4\n", "line 2: .*not as fractions"),
        ("path,label,x,y,w,h\n1.jpg,a,1,2,1e300,4\n", "line 2: .*larger than any picture"),
    ],
)
def test_a_row_that_cannot_be_meant_is_refused_with_its_line(text, sentence, tmp_path):
    with pytest.raises(FoldcamError, match=sentence):
        load_dataset(csv(tmp_path, text))


@pytest.mark.parametrize(
    ("columns", "cells"),
    [
        ("x,y,w,h", "1,2,30,40"),
        ("X, Y, Width, Height", "1, 2, 30, 40"),
        ("xmin,ymin,xmax,ymax", "1,2,31,42"),
        ("x1,y1,x2,y2", "1,2,31,42"),
        ("width,height,xmin,ymin,xmax,ymax", "640,480,1,2,31,42"),
    ],
)
def test_boxes_are_read_in_every_usual_way_and_which_is_said(columns, cells, tmp_path):
    data = load_dataset(csv(tmp_path, f"path,label,{columns}\n1.jpg,a,{cells}\n"))
    assert data.samples[0].crop == Box(1, 2, 30, 40)
    assert data.samples[0].box is None
    assert "1 of 1 rows have a box (" in data.notes[0]


def test_the_size_of_the_picture_alone_is_no_box(tmp_path):
    data = load_dataset(csv(tmp_path, "path,label,width,height\n1.jpg,a,640,480\n"))
    assert data.samples[0].crop is None


def test_quoted_cells_may_follow_a_blank_and_hold_separators(tmp_path):
    text = 'path, label\r\n1.jpg, "Smith, John"\r\n"2, b.jpg", "say ""hi"""\r\n\r\n,\r\n'
    data = load_dataset(csv(tmp_path, text))
    assert [(s.path.name, s.label) for s in data.samples] == [
        ("1.jpg", "Smith, John"),
        ("2, b.jpg", 'say "hi"'),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_say_what_they_are_are_read(encoding, tmp_path):
    data = load_dataset(csv(tmp_path, "path;label\n1.jpg;Größe\n", encoding))
    assert data.samples[0].label == "Größe"


def test_another_encoding_is_refused_with_its_line_and_a_way_out(tmp_path):
    with pytest.raises(FoldcamError, match=r"line 3 is not UTF-8.*iconv -f CP1252 -t UTF-8"):
        load_dataset(csv(tmp_path, "path,label\n1.jpg,a\n2.jpg,Größe\n", "cp1252"))


def test_columns_that_mean_nothing_are_said(tmp_path):
    data = load_dataset(csv(tmp_path, "id,path,label,camera\n7,1.jpg,a,3\n"))
    assert data.notes == ("The columns id, camera mean nothing here.",)
