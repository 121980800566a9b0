#include "server/peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

static const uint8_t v4_mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

struct kqn_peer kqn_peer_of(const union kqn_address *address)
{
    struct kqn_peer peer = {0};
    if (address->any.sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)address;
        memcpy(peer.address, v4_mapped, sizeof(v4_mapped));
        memcpy(peer.address + sizeof(v4_mapped), &v4->sin_addr, 4);
        peer.port = ntohs(v4->sin_port);
    } else if (address->any.sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)address;
        memcpy(peer.address, &v6->sin6_addr, sizeof(peer.address));
        peer.port = ntohs(v6->sin6_port);
    }
    return peer;
}

bool kqn_peer_is_unix(const struct kqn_peer *peer)
{
    static const uint8_t nobody[16];
    return memcmp(peer->address, nobody, sizeof(nobody)) == 0;
}

bool kqn_peer_is_v4(const struct kqn_peer *peer)
{
    return memcmp(peer->address, v4_mapped, sizeof(v4_mapped)) == 0;
}

void kqn_peer_host(const struct kqn_peer *peer, char out[KQN_PEER_TEXT_MAX])
{
    if (kqn_peer_is_v4(peer))
        inet_ntop(AF_INET, peer->address + sizeof(v4_mapped), out, KQN_PEER_TEXT_MAX);
    else
        inet_ntop(AF_INET6, peer->address, out, KQN_PEER_TEXT_MAX);
}

size_t kqn_peer_text(const struct kqn_peer *peer, char out[KQN_PEER_TEXT_MAX])
{
    if (kqn_peer_is_unix(peer))
        return (size_t)snprintf(out, KQN_PEER_TEXT_MAX, "unix");
    char host[KQN_PEER_TEXT_MAX];
    kqn_peer_host(peer, host);
    const char *format = kqn_peer_is_v4(peer) ? "%.45s:%u" : "[%.45s]:%u";
    return (size_t)snprintf(out, KQN_PEER_TEXT_MAX, format, host, peer->port);
}
