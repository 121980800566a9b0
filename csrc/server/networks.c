#include "server/networks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    V4_MAPPED_BITS = 96,
};

static int by_specificity(const void *left, const void *right)
{
    const struct kqn_network *one = left, *other = right;
    return other->prefix_bits - one->prefix_bits;
}

int kqn_networks_open(struct kqn_networks *networks, const struct kqn_network *list, int count)
{
    *networks = (struct kqn_networks){.allows_others = true};
    if (count == 0)
        return 0;
    size_t size = (size_t)count * sizeof(*list);
    networks->list = kqn_sys_alloc(size);
    if (!networks->list)
        return -ENOMEM;
    memcpy(networks->list, list, size);
    networks->count = count;
    qsort(networks->list, (size_t)count, sizeof(*list), by_specificity);
    for (int i = 0; i < count; i++)
        networks->allows_others = networks->allows_others && !list[i].allowed;
    return 0;
}

void kqn_networks_close(struct kqn_networks *networks)
{
    kqn_sys_free(networks->list);
    *networks = (struct kqn_networks){0};
}

static bool contains(const struct kqn_network *network, const uint8_t address[16])
{
    int whole_bytes = network->prefix_bits / 8;
    int bits_left = network->prefix_bits % 8;
    if (memcmp(network->address, address, (size_t)whole_bytes) != 0)
        return false;
    return bits_left == 0 || (network->address[whole_bytes] ^ address[whole_bytes]) >> (8 - bits_left) == 0;
}

/* A look at each: good for some hundreds of them; thousands belong in a firewall. */
bool kqn_networks_allow(const struct kqn_networks *networks, const struct kqn_peer *peer)
{
    int least_bits = kqn_peer_is_v4(peer) ? V4_MAPPED_BITS : 0;
    for (int i = 0; i < networks->count && networks->list[i].prefix_bits >= least_bits; i++)
        if (contains(&networks->list[i], peer->address))
            return networks->list[i].allowed;
    return networks->allows_others;
}
