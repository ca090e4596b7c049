"""What happens inside the child: run the program, call it, send back values. Foreign code runs here.

Nothing in here can be trusted after the program has started, so nothing here decides: the child reports
values, and its reports count no more than what the comparer and the parent's clock make of them.

Frames on the pipe are ``kind (1 byte), length (u32), payload``; see `Frame`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import builtins
import contextlib
import io
import posix
import sys
from dataclasses import dataclass
from struct import Struct
from types import CodeType
from typing import Any

from promptrl_plugin.checking.codec import CodecError, encode, encode_items
from promptrl_plugin.checking.scripts import Script, compile_script, find_function
from promptrl_plugin.checking.traces import leaves_no_trace

__all__ = ["HEADER", "Frame", "Job", "Part", "TimeoutException", "run_job"]

# The program may replace builtins; the functions of this module keep their own.
globals()["__builtins__"] = dict(vars(builtins))

HEADER = Struct("<cI")
_write = posix.write
# Of the C module: the `signal` module's own functions spend microseconds on enums, here twice a call.
_setitimer, _set_handler = _signal.setitimer, _signal.signal
_ITIMER_REAL, _SIGALRM = _signal.ITIMER_REAL, _signal.SIGALRM


class Frame:
    """Kinds of frames, in the order in which a child may send them for each part."""

    READY = b"R"  #: the child is isolated and about to run the program; without it, the judge has failed
    IMPORTED = b"I"  #: the program's module level has run, the entry point is there
    BROKEN = b"X"  #: it has not; payload: encoded (exception, message, whether the program is empty)
    VALUE = b"V"  #: a call returned; payload: its encoded value
    RAISED = b"E"  #: a call raised; payload: encoded (exception, message)
    TIMEOUT = b"T"  #: a call met its time limit
    LARGE = b"L"  #: a call returned more than may be sent
    HELD = b"O"  #: a statement that is no assert ran without an exception
    DONE = b"D"  #: all calls made


@dataclass(slots=True)
class Part:
    """One group of tests, without anything that says what is right.

    Attributes:
        entry_point: Function to call; "" for assert scripts, and for a program that is a script itself (`pairs`).
        calls: Argument lists (pickled by the judge), or for assert scripts, units: a tuple of
            expressions to evaluate, or a statement to execute.
        limits: Seconds each call may take.
        total_limit: Seconds that all may take, loading the program included.
        value_limit: Bytes that one value may take.
        output_limit: Bytes that all values may take.
        setup: Code of an assert script's own.
        iterate: Send what an iterator yields (set oracle).
        pairs: The program has one of APPS's forms, see `scripts`.
    """

    entry_point: str
    calls: bytes
    limits: list[float]
    total_limit: float
    value_limit: int
    output_limit: int
    setup: str = ""
    iterate: bool = False
    pairs: bool = False


@dataclass(slots=True)
class Job:
    """One program and the groups of tests to run on it, each from a fresh state.

    The child goes on to the next part only where that state is as fresh as a new process's: see `run_job`.

    Attributes:
        program: Source text.
        parts: At least one.
        fail_fast: Stop a part at the first exception or timeout.
    """

    program: str
    parts: tuple[Part, ...]
    fail_fast: bool = False


class TimeoutException(Exception):
    """Raised in the program when a call takes too long; an `Exception`, as EvalPlus's is."""


class _Discard(io.StringIO):
    """Takes what a program prints and forgets it; reading fails, as in EvalPlus's `swallow_io`."""

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"string argument expected, got {type(text).__name__!r}")
        return len(text)

    def read(self, *args: Any) -> Any:
        raise OSError

    def readline(self, *args: Any) -> Any:
        raise OSError

    def readlines(self, *args: Any) -> Any:
        raise OSError

    def readable(self) -> bool:
        return False


_stream = _Discard()


class _Reporter:
    """Writes frames to the pipe, each at once: what is known when the program crashes is not lost."""

    __slots__ = ("fd", "left", "value_limit")

    def __init__(self, fd: int, value_limit: int, output_limit: int) -> None:
        self.fd = fd
        self.value_limit = value_limit
        self.left = output_limit

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        data = HEADER.pack(kind, len(payload)) + payload
        sent = _write(self.fd, data)
        while sent < len(data):
            data = data[sent:]
            sent = _write(self.fd, data)

    def send_value(self, value: Any, iterate: bool) -> None:
        limit = min(self.value_limit, self.left)
        try:
            payload = encode_items(value, limit) if iterate and _is_lazy(value) else encode(value, limit)
        except CodecError:
            self.send(Frame.LARGE)
            return
        self.left -= len(payload)
        self.send(Frame.VALUE, payload)


_PLAIN = (list, tuple, set, frozenset, dict, str, bytes, bytearray, int, float, complex, type(None))


def _is_lazy(value: Any) -> bool:
    """Whether the set oracle has to iterate `value` here: iterators and programs' own iterables."""
    return not any(t in type.mro(type(value)) for t in _PLAIN) and type(value).__module__ != "numpy"


def _on_alarm(signum: int, frame: Any) -> None:
    raise TimeoutException("Timed out!")


def _text(error: BaseException) -> bytes:
    """Encoded (type name, message); a message that cannot be had is empty."""
    message = ""
    with contextlib.suppress(BaseException):
        message = str(str(error))[:300]
    return encode((type(error).__name__[:80], message), 8192)


def run_job(job: Job, calls: list[Any], fd: int) -> None:
    """Run the program and its calls, part by part, writing frames to `fd`. Never raises.

    Ends early, before a part, where the program may have left a trace in the interpreter: the rest is for
    another child.

    Args:
        job: What to run.
        calls: `Part.calls` of every part, unpickled.
        fd: Where frames go.
    """
    with contextlib.suppress(BaseException):
        code: CodeType | None = None
        for part, inputs in zip(job.parts, calls):  # noqa: B905 - same length by construction
            report = _Reporter(fd, part.value_limit, part.output_limit)
            report.send(Frame.READY)
            code = _run_part(job, part, code, inputs, report)
            if code is None:
                return


def _run_part(job: Job, part: Part, code: CodeType | None, inputs: Any, report: _Reporter) -> CodeType | None:
    """Run one part; the compiled program (`code`, unless this is the first part) if another may follow here."""
    loaded = _load(job, part, code, report)
    if loaded is None:
        return None
    namespace, code, function = loaded
    report.send(Frame.IMPORTED)
    if function is not None:
        orderly = _call_all(job, part, function, inputs, report)
    else:
        orderly = _assert_all(job, part, namespace, inputs, report)
    report.send(Frame.DONE)
    return code if orderly else None


def _silence() -> None:
    # Before every call, since the program may have put its own streams in place (EvalPlus does the same).
    global _stream
    if _stream.closed:
        _stream = _Discard()
    sys.stdout = sys.stderr = sys.stdin = _stream


def _load(
    job: Job, part: Part, code: CodeType | None, report: _Reporter
) -> tuple[dict[str, Any], CodeType | None, Any] | None:
    """Run setup and program at module level; None when that failed.

    Returns:
        The namespace, the compiled program if it leaves no trace and is wanted again, and the function to be called
        (None for assert scripts).
    """
    namespace: dict[str, Any] = {}
    given: set[str] = {"__builtins__"}
    function = None
    late_setup, setup = False, None
    first = code is None
    try:
        _silence()
        if part.setup:
            setup = _compiled(part.setup)
        script = part.pairs and not part.entry_point
        if code is None:
            code = compile_script(job.program) if script else _compiled(job.program)
        if setup is not None:
            try:
                exec(setup, namespace)
            except NameError:  # it builds objects of the program's classes
                late_setup = True
            given.update(namespace)
        if script:
            if not job.program.strip():
                raise KeyError
            function = Script(code, namespace)
        else:
            exec(code, namespace)
        if late_setup and setup is not None:
            exec(setup, namespace)
        if part.entry_point:
            name = part.entry_point
            function = find_function(job.program, namespace, name) if part.pairs else namespace[name]
    except BaseException as e:
        kind, message = type(e).__name__[:80], ""
        with contextlib.suppress(BaseException):
            message = str(str(e))[:300]
        empty = given.issuperset(namespace)
        report.send(Frame.BROKEN, encode((kind, message, empty), 8192))
        return None
    if part is job.parts[-1] or (setup is not None and not leaves_no_trace(setup)):
        return namespace, None, function
    return namespace, code if not first or leaves_no_trace(code) else None, function


def _compiled(source: str) -> CodeType:
    # As EvalPlus's `exec`, without this module's own ``from __future__ import annotations``.
    return compile(source, "<string>", "exec", dont_inherit=True)


def _call_all(job: Job, part: Part, function: Any, inputs: Any, report: _Reporter) -> bool:
    orderly = True
    for limit, args in zip(part.limits, inputs):  # noqa: B905 - same length by construction
        try:
            try:
                _setitimer(_ITIMER_REAL, limit)
                _set_handler(_SIGALRM, _on_alarm)
                _silence()
                out = function(*args)
            finally:
                _setitimer(_ITIMER_REAL, 0)
            report.send_value(out, part.iterate)
        except TimeoutException:
            orderly = False
            report.send(Frame.TIMEOUT)
            if job.fail_fast:
                break
        except BaseException as e:
            _refuse_to_guess(job, part, e)
            orderly = orderly and _is_orderly(e)
            report.send(Frame.RAISED, _text(e))
            if job.fail_fast:
                break
    return orderly


def _assert_all(job: Job, part: Part, namespace: dict[str, Any], units: Any, report: _Reporter) -> bool:
    orderly = True
    for limit, unit in zip(part.limits, units):  # noqa: B905
        failed = False
        for source in (unit,) if isinstance(unit, str) else unit:
            try:
                try:
                    _setitimer(_ITIMER_REAL, limit)
                    _set_handler(_SIGALRM, _on_alarm)
                    _silence()
                    if isinstance(unit, str):
                        exec(source, namespace)
                    else:
                        value = eval(source, namespace)
                finally:
                    _setitimer(_ITIMER_REAL, 0)
                if isinstance(unit, str):
                    report.send(Frame.HELD)
                else:
                    report.send_value(value, False)
            except TimeoutException:
                failed, orderly = True, False
                report.send(Frame.TIMEOUT)
            except BaseException as e:
                _refuse_to_guess(job, part, e)
                failed, orderly = True, orderly and _is_orderly(e)
                report.send(Frame.RAISED, _text(e))
        if failed and job.fail_fast:
            break
    return orderly


def _is_orderly(error: BaseException) -> bool:
    """Whether the interpreter is as good as new after `error`; in doubt, not."""
    return isinstance(error, Exception) and not isinstance(error, (MemoryError, RecursionError))


def _refuse_to_guess(job: Job, part: Part, error: BaseException) -> None:
    # What earlier parts left may be what memory lacked: end without a result, then the part is run alone.
    if isinstance(error, MemoryError) and part is not job.parts[0]:
        raise error
