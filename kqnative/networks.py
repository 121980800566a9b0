"""Networks whose clients may connect, or may not: from their text to what the C core compares."""

from collections.abc import Iterator

from kqnative.errors import ConfigError
from kqnative.options import shown

Network = tuple[bytes, int, bool]  # 16 bytes of an IPv6 address, bits of its prefix, whether it is allowed

_V4_MAPPED = bytes(10) + b"\xff\xff"


def of(allow: str | None, deny: str | None) -> list[Network]:
    """What both options name together. IPv4 becomes IPv6, mapped. Raises ConfigError."""
    allowed = list(_parse(allow or "", "allow"))
    denied = list(_parse(deny or "", "deny"))
    both = sorted(set(allowed) & set(denied))
    if both:
        raise ConfigError(f"allow and deny name the same network, {_text(*both[0])}: leave it out of one")
    return [(*one, True) for one in allowed] + [(*one, False) for one in denied]


def _parse(text: str, label: str) -> Iterator[tuple[bytes, int]]:
    import ipaddress

    for word in text.split(",") if text else []:
        try:
            network = ipaddress.ip_network(word.strip())
        except ValueError as error:
            why = ": it has host bits set" if "host bits" in str(error) else ""
            raise ConfigError(f"{label}: {shown(word)} is not a network like 10.0.0.0/8 or ::1{why}") from None
        if isinstance(network, ipaddress.IPv4Network):
            yield _V4_MAPPED + network.network_address.packed, 96 + network.prefixlen
        elif network.network_address.scope_id is not None:
            raise ConfigError(f"{label}: {shown(word)} names an interface; leave that out")
        else:
            yield network.network_address.packed, network.prefixlen


def _text(address: bytes, prefix_bits: int) -> str:
    import ipaddress

    if address.startswith(_V4_MAPPED) and prefix_bits >= 96:
        return str(ipaddress.IPv4Network((address[12:], prefix_bits - 96)))
    return str(ipaddress.IPv6Network((address, prefix_bits)))
