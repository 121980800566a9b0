/* peer.h: a client's address, as small as a connection can carry it. */
#ifndef KQN_PEER_H
#define KQN_PEER_H
#include <stdbool.h>
#include <stdint.h>

#include "api.h"
#include "core/sys.h"

struct kqn_peer {
    uint8_t address[16]; /* IPv6, or IPv4 mapped into it; all 0: no address, as a unix socket's client */
    uint16_t port;
};

struct kqn_peer kqn_peer_of(const union kqn_address *address);

bool kqn_peer_is_unix(const struct kqn_peer *peer);
bool kqn_peer_is_v4(const struct kqn_peer *peer);

/* "192.0.2.1", "2001:db8::1". */
void kqn_peer_host(const struct kqn_peer *peer, char out[KQN_PEER_TEXT_MAX]);

/* "192.0.2.1:5000", "[2001:db8::1]:5000", "unix"; returns its length. */
size_t kqn_peer_text(const struct kqn_peer *peer, char out[KQN_PEER_TEXT_MAX]);
#endif
