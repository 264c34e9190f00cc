"""What an interrupted run left is taken up only where it can be nothing else."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from foldcam.runtime.sinks import open_outputs
from foldcam.runtime.sinks.options import OutputOptions, RecordingOptions

NAME = ".seen.abcdefgh.partial.jsonl"
CONTENT = b'{"whole": 1}\n{"cut'


def open_run(folder: Path, make_source) -> None:
    options = OutputOptions(jsonl=str(folder / "seen.jsonl"))
    for sink in open_outputs([make_source()], options, RecordingOptions(rotate_minutes=10)):
        sink.__exit__(None, None, None)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / "victim"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("how", ["symbolic", "hard", "folder", "pipe", "foreign"])
def test_a_prepared_name_leads_nowhere(how, victim, tmp_path, make_source):
    folder = tmp_path / "out"
    folder.mkdir()
    trap = folder / NAME
    if how == "symbolic":
        trap.symlink_to(victim)
    elif how == "hard":
        trap.hardlink_to(victim)
    elif how == "folder":
        trap.mkdir()
    elif how == "pipe":
        os.mkfifo(trap)
    else:
        if os.geteuid() != 0:
            pytest.skip("only root can give a file away")
        trap.write_bytes(CONTENT)
        os.chown(trap, 12345, -1)
    before = trap.lstat()
    open_run(folder, make_source)
    assert victim.read_bytes() == CONTENT
    assert victim.stat().st_mode & 0o777 == 0o600
    assert trap.lstat().st_ino == before.st_ino
    if how == "foreign":
        assert trap.read_bytes() == CONTENT


def test_a_name_that_becomes_a_link_while_it_is_looked_at(
    victim, tmp_path, make_source, monkeypatch
):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / NAME).write_bytes(CONTENT)
    from foldcam.runtime.sinks import opening

    def swap(path: Path) -> bool:
        (folder / NAME).unlink()
        (folder / NAME).symlink_to(victim)
        return real(path)

    real = opening.repair_jsonl
    monkeypatch.setattr(opening, "repair_jsonl", swap)
    open_run(folder, make_source)
    assert victim.read_bytes() == CONTENT
    assert (folder / NAME).is_symlink()


def test_a_file_of_its_own_is_recovered_readable(tmp_path, make_source):
    orphan = tmp_path / NAME
    orphan.write_bytes(CONTENT)
    orphan.chmod(0o600)
    os.utime(orphan, (time.time() - 100,) * 2)
    open_run(tmp_path, make_source)
    (found,) = tmp_path.iterdir()
    assert found.name.startswith("seen-")
    assert found.read_bytes() == b'{"whole": 1}\n'
    mask = os.umask(0)
    os.umask(mask)
    assert found.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_link_in_place_of_a_recovered_name_is_not_written_through(tmp_path, victim, make_source):
    folder = tmp_path / "out"
    folder.mkdir()
    name = "seen-20260101T000000Z-000001"
    (folder / f".{name}.abcdefgh.partial.jsonl").write_bytes(CONTENT)
    (folder / f"{name}.jsonl").symlink_to(folder / "not-there")
    open_run(folder, make_source)
    assert (folder / f"{name}.jsonl").is_symlink()
    assert not (folder / "not-there").exists()
