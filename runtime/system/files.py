"""Writing files so that an interruption never leaves half of one under its final name."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foldcam.runtime.system.errors import FoldcamError
from foldcam.runtime.system.strict_json import finite

# What file systems say that have no second names, such as those of memory cards.
_WITHOUT_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_LONGEST_NAME = 255
_LOOK_S = 0.01


@contextmanager
def atomic_path(path: Path, another: Callable[[], Path] | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block succeeds.

    The temporary name keeps the suffix of `path`, because OpenCV chooses its
    encoder by it. Missing parent folders are made.

    Args:
        another: gives another name in the same folder if the name is taken by then, and is asked
            again until one is free; None replaces the file that has the name.
    """
    import tempfile  # loads compression and more: too much for what only reads

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
            _make_usual(temporary)
            if another is None:
                temporary.replace(path)
            else:
                _rename_to_free(temporary, path, another)
    finally:
        temporary.unlink(missing_ok=True)


def refuse_special(path: Path) -> None:
    """Refuse what only looks like a file: to open a pipe waits for somebody who writes.

    A path that does not exist passes: whoever reads it says so.
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
        kind: what is kept there, such as `resume`.
    """
    name, room = os.fsencode(path.name), _LONGEST_NAME - len(f"..{kind}")
    if len(name) > room:
        digest = hashlib.sha256(name).hexdigest()[:12]
        name = name[: room - len(digest) - 1].decode("utf-8", "ignore").encode() + b"."
        name += digest.encode()
    return path.with_name(f".{os.fsdecode(name)}.{kind}")


def open_own_file(path: Path) -> int | None:
    """Open for reading what can only be this user's own file, without following a link.

    Returns:
        A file descriptor; None for a link, a file with a second name, a device, a pipe, a
        folder, or another user's.

    Raises:
        OSError: it does not exist or cannot be read.
    """
    try:
        # Without waiting, which a pipe would do.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):
            return None
        raise
    status = os.fstat(file)
    own = status.st_uid == os.geteuid() and status.st_nlink == 1
    if stat.S_ISREG(status.st_mode) and own:
        return file
    os.close(file)
    return None


def give_usual_mode(file: int) -> None:
    """Make a temporary file as readable as the user's umask has it: mkstemp makes it private.

    Args:
        file: a descriptor, which names one file for good; a path may become a link meanwhile.
    """
    os.fchmod(file, 0o666 & ~_umask())


def _rename_to_free(temporary: Path, path: Path, another: Callable[[], Path]) -> None:
    while True:
        try:
            # Unlike a rename it fails where the name is taken, also by another process just now.
            os.link(temporary, path, follow_symlinks=False)
            return
        except FileExistsError:
            path = another()
        except OSError as error:
            if error.errno not in _WITHOUT_LINKS:
                raise
            break
    while os.path.lexists(path):
        path = another()
    temporary.rename(path)


def _make_usual(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        give_usual_mode(file)
    finally:
        os.close(file)


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Write JSON to read, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


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
        return no_room(path.parent)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path.parent} cannot be written: choose another folder or change its permissions."
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{path.parent} is a file where a folder is needed: choose another output path."
    return f"{path} cannot be written: {error.strerror or error}."


def no_room(folder: Path) -> str:
    """One sentence for the user about a full disk."""
    return f"No space left on the disk of {folder}: free some, or write elsewhere."


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


def cache_root(environment: Mapping[str, str] = os.environ) -> Path:
    """`$XDG_CACHE_HOME/foldcam` or `~/.cache/foldcam` (XDG Base Directory Specification)."""
    named = environment.get("XDG_CACHE_HOME", "")
    # The specification has relative paths ignored.
    return (Path(named) if Path(named).is_absolute() else Path.home() / ".cache") / "foldcam"


def lock_before(file: int, deadline: float) -> bool:
    """Lock a file once nobody else does; whether that was possible."""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_S)
        except OSError:
            return False


def digest_of(document: Any) -> str:
    """Hexadecimal SHA-256 of a document in its canonical form.

    That is `json.dumps(document, sort_keys=True, separators=(",", ":"))` of the document as it
    is read back from its file, in which numbers that are not finite are null.
    """
    text = json.dumps(finite(document), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
