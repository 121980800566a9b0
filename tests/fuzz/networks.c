/* networks.c: of the networks that an address lies in, the one with the longest prefix decides.
 * Here that is looked up bit by bit in the list as it was given.
 *
 * Input: the peer's address, the number of networks (to 31), and for each its prefix, whether it is allowed (odd), how
 * many bytes of its address are the peer's own, and the others. */
#include "server/networks.h"

#include <stdbool.h>

#include "fuzz.h"

enum {
    MAX_NETWORKS = 31,
    ADDRESS_BYTES = 16,
    V4_MAPPED_BITS = 96,
};

struct verdict {
    int prefix_bits; /* of the longest that fits; -1: none */
    bool allows;
    bool denies; /* both: the same network was given twice, and either may decide */
};

static int bit_at(const uint8_t *address, int index)
{
    return address[index / 8] >> (7 - index % 8) & 1;
}

static bool contains(const struct kqn_network *network, const struct kqn_peer *peer)
{
    if (kqn_peer_is_v4(peer) && network->prefix_bits < V4_MAPPED_BITS)
        return false;
    for (int i = 0; i < network->prefix_bits; i++)
        if (bit_at(network->address, i) != bit_at(peer->address, i))
            return false;
    return true;
}

static struct verdict look_up(const struct kqn_network *list, int count, const struct kqn_peer *peer)
{
    struct verdict verdict = {.prefix_bits = -1};
    bool any_allowed = false;
    for (int i = 0; i < count; i++) {
        any_allowed = any_allowed || list[i].allowed;
        if (!contains(&list[i], peer) || list[i].prefix_bits < verdict.prefix_bits)
            continue;
        if (list[i].prefix_bits > verdict.prefix_bits)
            verdict = (struct verdict){.prefix_bits = list[i].prefix_bits};
        verdict.allows = verdict.allows || list[i].allowed;
        verdict.denies = verdict.denies || !list[i].allowed;
    }
    if (verdict.prefix_bits < 0)
        verdict = (struct verdict){.allows = !any_allowed, .denies = any_allowed};
    return verdict;
}

/* Most of the networks that anybody could make up hold no part of an address, so they begin like the peer's. */
static struct kqn_network take_network(struct input *input, const struct kqn_peer *peer)
{
    struct kqn_network network = {.prefix_bits = take_byte(input) % (8 * ADDRESS_BYTES + 1)};
    network.allowed = take_byte(input) % 2;
    int own = take_byte(input) % (ADDRESS_BYTES + 1);
    for (int i = 0; i < ADDRESS_BYTES; i++)
        network.address[i] = i < own ? peer->address[i] : take_byte(input);
    return network;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct input input = {bytes, len};
    struct kqn_peer peer = {0};
    for (int i = 0; i < ADDRESS_BYTES; i++)
        peer.address[i] = take_byte(&input);
    struct kqn_network list[MAX_NETWORKS] = {0};
    int count = take_byte(&input) % (MAX_NETWORKS + 1);
    for (int i = 0; i < count; i++)
        list[i] = take_network(&input, &peer);

    struct kqn_networks networks;
    REQUIRE(kqn_networks_open(&networks, list, count) == 0);
    struct verdict verdict = look_up(list, count, &peer);
    bool allowed = kqn_networks_allow(&networks, &peer);
    REQUIRE(allowed ? verdict.allows : verdict.denies);
    kqn_networks_close(&networks);
    return 0;
}
