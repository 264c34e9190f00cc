"""One logger per process and flavour, whose messages reach the exception."""

from __future__ import annotations

import threading

from foldcam.runtime.engine.log import Messages, owned_logger


def test_a_flavour_has_one_logger_that_stays(make_flavour):
    first, second = make_flavour("10.3.0"), make_flavour("10.3.0")
    logger = owned_logger(first)
    # TensorRT keeps the first one of a process, so a second must not be made.
    assert owned_logger(second) is logger
    assert isinstance(logger.handle, first.module.ILogger)
    assert logger.handle.handle == "a native object"  # the base class was initialised


def test_errors_since_a_mark_without_what_is_less_than_an_error():
    messages = Messages()
    messages.add(1, "an old error")
    mark = messages.mark()
    assert messages.reason(mark) == "it gave no reason"
    for severity, text in ((4, "verbose"), (3, "info"), (2, "a warning"), (1, "an error."),
                           (1, "an error."), (0, "an\n  internal\x1b error.")):  # fmt: skip
        messages.add(severity, text)
    assert messages.errors(mark) == ["an error.", "an internal\\x1b error."]
    assert messages.reason(mark) == "an internal\\x1b error"
    assert messages.errors()[0] == "an old error"


def test_a_flood_keeps_the_latest_and_a_mark_stays_right():
    messages = Messages()
    for index in range(2000):
        messages.add(1, f"error {index}")
    mark = messages.mark()
    messages.add(1, "the last")
    assert messages.errors(mark) == ["the last"]
    assert len(messages.errors()) == 500


def test_threads_of_the_builder_may_log_at_once():
    messages = Messages()

    def write() -> None:
        for _ in range(500):
            messages.add(1, "x")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert messages.mark() == 2000


def test_the_real_logger_hears_the_real_parser(rtx):
    logger = owned_logger(rtx)
    mark = logger.messages.mark()
    builder = rtx.module.Builder(logger.handle)
    network = builder.create_network(0)
    assert not rtx.module.OnnxParser(network, logger.handle).parse(b"no model")
    assert logger.messages.errors(mark)
