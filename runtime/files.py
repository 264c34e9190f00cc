"""Writing files so that an interruption never leaves half of one under its final name."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import FoldcamError

_LONGEST_NAME = 255


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block succeeds.

    The temporary name keeps the suffix of `path`, because OpenCV chooses its
    encoder by it. Missing parent folders are made.

    Raises:
        FoldcamError: the folder cannot be written or the disk is full.
    """
    with user_errors_for(path):
        if path.is_dir():
            raise FoldcamError(f"{path} is a folder: give the name of a file.")
        if path.exists() and not path.is_file():
            # Renaming onto /dev/null would, for root, take the device away.
            raise FoldcamError(f"{path} is a device or a pipe: give the name of a file.")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{temporary_stem(path)}.", suffix=f".partial{path.suffix}", dir=path.parent
        )
        os.close(handle)
    temporary = Path(name)
    try:
        with user_errors_for(path):
            yield temporary
            give_usual_mode(temporary)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_special(path: Path) -> None:
    """Refuse what only looks like a file: to open a pipe waits for somebody who writes.

    A path that does not exist passes: whoever reads it says so.

    Raises:
        FoldcamError: it is a pipe, a device or a socket.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise FoldcamError(
            f"{path} is a pipe, a device or a socket: give the name of a regular file."
        )


def temporary_stem(path: Path) -> str:
    """What the temporary names of a file begin with: its own stem, cut where that is too long.

    A name may have 255 bytes, and the temporary one adds a few.
    """
    room = _LONGEST_NAME - len(os.fsencode(f"..{'x' * 8}.partial{path.suffix}"))
    return os.fsencode(path.stem)[:room].decode("utf-8", "ignore")


def hidden_beside(path: Path, kind: str) -> Path:
    """Where something that belongs to a file is kept beside it: `.birds.onnx.resume`.

    A name that would be too long is cut, and its hash keeps it apart from others.

    Args:
        path: the file.
        kind: what is kept there, such as `resume`.
    """
    name, room = os.fsencode(path.name), _LONGEST_NAME - len(f"..{kind}")
    if len(name) > room:
        digest = hashlib.sha256(name).hexdigest()[:12]
        name = name[: room - len(digest) - 1].decode("utf-8", "ignore").encode() + b"."
        name += digest.encode()
    return path.with_name(f".{os.fsdecode(name)}.{kind}")


def give_usual_mode(path: Path) -> None:
    """Make a temporary file as readable as the user's umask has it: mkstemp makes it private."""
    path.chmod(0o666 & ~_umask())


@contextmanager
def user_errors_for(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write `path` into a FoldcamError."""
    try:
        yield
    except OSError as error:
        raise FoldcamError(write_failure(path, error)) from error


def write_failure(path: Path, error: OSError) -> str:
    """One sentence for the user about why `path` could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"No space left on the disk of {path.parent}: free some, or write elsewhere."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path.parent} cannot be written: choose another folder or change its permissions."
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{path.parent} is a file where a folder is needed: choose another output path."
    return f"{path} cannot be written: {error.strerror or error}."


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _umask() -> int:
    # The only way to read the umask is to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
