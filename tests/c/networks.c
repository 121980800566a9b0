/* networks.c: who may talk, by the rule of networks.h, for a test that knows the answers.
 *
 *     networks < QUESTIONS
 *
 * A question is a line: `+PREFIX_BITS/ADDRESS` (allowed) or `-PREFIX_BITS/ADDRESS` (denied) for each network, then the
 * peers' ADDRESSes, with spaces between; every address is IPv6, as 32 hexadecimal digits. The answer is a line, with `1` or
 * `0` for each peer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/networks.h"

enum {
    MAX_NETWORKS = 64,
};

static void parse_address(const char *digits, uint8_t address[16])
{
    for (int i = 0; i < 16; i++) {
        char byte[3] = {digits[2 * i], digits[2 * i + 1], 0};
        address[i] = (uint8_t)strtoul(byte, NULL, 16);
    }
}

static void answer(char *line)
{
    struct kqn_network list[MAX_NETWORKS];
    int count = 0;
    char *word = strtok(line, " \n");
    for (; word && (*word == '+' || *word == '-'); word = strtok(NULL, " \n")) {
        if (count == MAX_NETWORKS)
            abort();
        list[count].allowed = *word == '+';
        list[count].prefix_bits = atoi(word + 1);
        parse_address(strchr(word, '/') + 1, list[count++].address);
    }
    struct kqn_networks networks;
    if (kqn_networks_open(&networks, list, count) < 0)
        abort();
    for (; word; word = strtok(NULL, " \n")) {
        struct kqn_peer peer = {.port = 1};
        parse_address(word, peer.address);
        putchar(kqn_networks_allow(&networks, &peer) ? '1' : '0');
    }
    putchar('\n');
    kqn_networks_close(&networks);
}

int main(void)
{
    char line[8192];
    while (fgets(line, sizeof(line), stdin))
        answer(line);
    return 0;
}
