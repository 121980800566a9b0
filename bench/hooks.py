"""The Python function whose calls are measured: the same one in our server, and in the peers' mode `function`."""


def reply(message: bytes) -> bytes:
    return b"system: " + message


def reply_batch(messages: list[bytes]) -> list[bytes]:
    return [b"system: " + message for message in messages]
