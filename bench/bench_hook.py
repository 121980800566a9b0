"""The Python function whose calls the hook scenario measures: the same one for kqnative and for uvloop."""


def reply(message: bytes) -> bytes:
    return b"system: " + message


def reply_batch(messages: list[bytes]) -> list[bytes]:
    return [b"system: " + message for message in messages]
