"""The user's function: where it is found, whether it can be one, and what its exceptions become."""

import sys
import threading
import traceback
from collections.abc import Callable
from time import monotonic
from types import ModuleType
from typing import Any

from kqnative.errors import ConfigError

MOST_CAUSES = 64  # kept apart at a time; a hook that invents causes shares the last place
FIRST_LINE_MAX = 500
TRACEBACK_MAX = 16_384  # characters of a traceback that are logged


def load(name: str, field: str) -> Callable[..., Any]:
    """The function that `module:attribute.path` names. Raises ConfigError, which names the field."""
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise ConfigError(f"{field}: {name!r} is not module:function")
    found: Any = _import(module_name, field)
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise ConfigError(f"{field}: {module_name} has no {path}") from None
    return check(found, f"{field}: {name}")


def check(function: Any, label: str) -> Callable[..., Any]:
    """The function itself if the loops can call it. Raises ConfigError under this label."""
    import inspect

    if not callable(function):
        raise ConfigError(f"{label} is not callable, but {type(function).__name__}")
    kinds = (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    if any(kind(one) for kind in kinds for one in (function, getattr(function, "__call__", None))):  # noqa: B004
        raise ConfigError(f"{label} is async; a hook is a plain function, called in the loop's thread")
    return function  # type: ignore[no-any-return]


def _import(name: str, field: str) -> ModuleType:
    import importlib
    import os

    directory = os.getcwd()
    if sys.path[:1] not in ([directory], [""]):
        sys.path.insert(0, directory)
    try:
        return importlib.import_module(name)
    except SyntaxError as error:
        raise ConfigError(f"{field}: {error.filename}:{error.lineno}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        what = traceback.format_exception_only(error)[-1].strip()
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"{field}: there is no module {error.name}; looked in {directory} first") from error
        raise ConfigError(f"{field}: importing {name} failed: {what}{_where(error)}") from error


def _where(error: BaseException) -> str:
    """The last line of the user's that led here: of the import machinery's own there is nothing to learn."""
    frames = [one for one in traceback.extract_tb(error.__traceback__)[1:] if "importlib" not in one.filename]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


Cause = tuple[str, str, int]


class Errors:
    """What the C core calls with a hook's exception, in the loop's thread; another thread takes the log lines out.

    The hook's loop must not pay for a flood: one traceback a second and cause is made, the rest are counted.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: dict[Cause, float] = {}  # when the last traceback of this cause was made
        self._left_out: dict[Cause, int] = {}
        self._texts: list[str] = []  # at most MOST_CAUSES a second

    def __call__(self, error: BaseException) -> None:
        now = monotonic()
        cause = _cause(error)
        with self._lock:
            if cause not in self._begun and len(self._begun) >= MOST_CAUSES:
                cause = ("other", "", 0)
            if now - self._begun.get(cause, -1.0) < 1.0 or len(self._texts) >= MOST_CAUSES:
                self._left_out[cause] = self._left_out.get(cause, 0) + 1
                return
            self._begun[cause] = now
        text = _text(error)
        with self._lock:
            self._texts.append(text)

    def take(self, *, last: bool = False) -> list[str]:
        """The texts since the last call, and what was left out of each second that is over (of all: last)."""
        now = monotonic()
        with self._lock:
            texts, self._texts = self._texts, []
            over = [cause for cause, begun in self._begun.items() if last or now - begun >= 1.0]
            for cause in over:
                del self._begun[cause]
            gone = [cause for cause in self._left_out if cause not in self._begun]
            left_out = [(cause, self._left_out.pop(cause)) for cause in gone]
        return texts + [_left_out_text(cause, count) for cause, count in left_out]


def _cause(error: BaseException) -> Cause:
    trace = error.__traceback__
    if trace is None:
        return (type(error).__qualname__, "", 0)
    while trace.tb_next is not None:
        trace = trace.tb_next
    return (type(error).__qualname__, trace.tb_frame.f_code.co_filename, trace.tb_lineno)


def _text(error: BaseException) -> str:
    """The exception in a line, then its traceback."""
    try:
        only = "".join(traceback.format_exception_only(error)).strip()
        whole = "".join(traceback.format_exception(error)).strip()
    except Exception:  # an exception class of the user's whose own parts raise
        return f"{type(error).__qualname__}, which cannot be shown"
    first = only.partition("\n")[0][:FIRST_LINE_MAX]
    if error.__traceback__ is None:
        return first
    return f"{first}\n{whole if len(whole) <= TRACEBACK_MAX else '…' + whole[-TRACEBACK_MAX:]}"


def _left_out_text(cause: Cause, count: int) -> str:
    name, filename, line = cause
    where = f" at {filename}:{line}" if filename else ""
    return f"{name}{where}: {count} more left out"
