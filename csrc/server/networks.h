/* networks.h: who may talk to the server, by address.
 * The most specific network that an address lies in decides; one that lies in none may talk unless some network is
 * allowed by name. IPv4 networks are written as IPv6 ones, mapped (::ffff:0:0/96), as addresses of peers are; an IPv4
 * address lies in those alone, so that ::/0 means IPv6. */
#ifndef KQN_NETWORKS_H
#define KQN_NETWORKS_H
#include "server/peer.h"

struct kqn_networks {
    struct kqn_network *list; /* owned; the most specific first */
    int count;
    bool allows_others; /* who lies in none of them */
};

/* Copies the list. 0 or -ENOMEM. */
int kqn_networks_open(struct kqn_networks *networks, const struct kqn_network *list, int count);
void kqn_networks_close(struct kqn_networks *networks);

bool kqn_networks_allow(const struct kqn_networks *networks, const struct kqn_peer *peer);
#endif
