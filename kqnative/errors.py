"""What kqnative raises. Each kind is also the built-in exception that a caller would look for."""


class KqnativeError(Exception):
    """What was asked for could not be done; the message says what, and what to do."""


class ConfigError(KqnativeError, ValueError):
    """A field is wrong; the message names the field, its value and what is allowed."""


class ListenError(KqnativeError, OSError):
    """The address could not be had; `errno` says why, the message what to do."""

    def __str__(self) -> str:
        return str(self.strerror)  # without "[Errno 98]": the sentence says it already
