"""What is sent: a text with escapes and fields, or a file's lines, made ready for the C core."""

import re
from dataclasses import dataclass

from kqnative.errors import ConfigError
from kqnative.options import shown

DEFAULT_SIZE = 64
FILLER = b"x"

_ESCAPE = re.compile(
    r"\\(?:[0-7]{1,3}|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|N\{[^}]*\}|[\\'\"abfnrtv]|.|$)", re.S
)


@dataclass(frozen=True, slots=True)
class Bodies:
    """Messages without their framing: some to be sent in turn, or a template and the size to fill it to."""

    fixed: tuple[bytes, ...] = ()
    template: bytes = b""
    pad: int = 0


def unescape(text: str) -> bytes:
    r"""The bytes that a text with Python's escapes stands for: \xNN is a byte, \uNNNN a character in UTF-8.

    Raises ValueError, which says what it should be.
    """
    parts, end = [], 0
    for found in _ESCAPE.finditer(text):
        parts += [_encoded(text[end : found.start()]), _one(found[0], found.start() + 1)]
        end = found.end()
    return b"".join(parts) + _encoded(text[end:])


def show(message: str | bytes) -> str:
    """A message as help and tables show it."""
    return message if isinstance(message, str) else message.decode("utf-8", "backslashreplace")


def load(framing: str, message: str | bytes | None, size: int | None, path: str | None) -> Bodies:
    """What these options come to. Raises ConfigError."""
    if path is not None:
        return Bodies(fixed=tuple(_lines_of(path, framing)))
    room = None if size is None else size - (framing == "line")
    if message is None:
        return Bodies(fixed=(FILLER * (DEFAULT_SIZE - (framing == "line") if room is None else room),))
    text = message.encode("utf-8", "surrogateescape") if isinstance(message, str) else message
    return _made(text, framing, room)


def _made(text: bytes, framing: str, room: int | None) -> Bodies:
    from kqnative import _native

    _native.check_message(text)
    has_fields = re.search(rb"\{(n|conn)\}", re.sub(rb"\{\{|\}\}", b"", text)) is not None
    body = re.sub(rb"\{\{|\}\}|\{(?:n|conn)\}", lambda found: found[0][:1] if found[0] in (b"{{", b"}}") else b"", text)
    if framing == "line" and b"\n" in body:
        raise ConfigError("--message holds a line feed; in line framing that would be two messages, and one is added")
    if framing == "stream" and not body and not has_fields and not room:
        raise ConfigError("--message is empty; in stream framing there would be nothing to send")
    if room is not None and len(body) > room:
        raise ConfigError(f"--size: the message has {len(body)} bytes already, so there are only {room} for it")
    if has_fields:
        return Bodies(template=text, pad=room or 0)
    return Bodies(fixed=(body.ljust(room or 0, FILLER),))


def _lines_of(path: str, framing: str) -> list[bytes]:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ConfigError(f"--message-file: cannot read {path}: {error.strerror}") from error
    lines = data.removesuffix(b"\n").split(b"\n")
    if not data:
        raise ConfigError(f"--message-file: {path} is empty; write a message on each line")
    if framing == "stream" and not all(lines):
        number = lines.index(b"") + 1
        raise ConfigError(f"--message-file: line {number} of {path} is empty; in stream framing it sends nothing")
    return lines


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # as the shell gave it


def _one(escape: str, position: int) -> bytes:
    kind = escape[1:2]
    if kind in "01234567" and kind:
        return bytes([int(escape[1:], 8) & 0xFF])
    if kind == "x" and len(escape) == 4:
        return bytes([int(escape[2:], 16)])
    if kind in ("u", "U", "N") and len(escape) > 2:
        try:
            return escape.encode("ascii").decode("unicode_escape").encode()
        except UnicodeError:
            pass
    elif kind and kind in "\\'\"abfnrtv":
        return escape.encode("ascii").decode("unicode_escape").encode()
    raise ValueError(
        f"a text with Python's escapes: {shown(escape)} at character {position} is none; \\\\ is a backslash"
    )
