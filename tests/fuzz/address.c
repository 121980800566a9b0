/* address.c: an address that is taken is the one that was written.
 * A numeric address, shown as a peer's, can be typed again and is the same. A unix path is kept whole or refused.
 *
 * Input: whether it is a path (odd) or an address, two bytes of a port, and then the text, which ends at a 0. */
#include "core/address.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/un.h>

#include "fuzz.h"
#include "server/peer.h"

static struct kqn_peer peer_of_text(const char *host, int port, int *rc)
{
    union kqn_address address;
    socklen_t len = 0;
    *rc = kqn_address_tcp(&address, &len, host, port);
    if (*rc < 0)
        return (struct kqn_peer){0};
    bool is_v4 = address.any.sa_family == AF_INET;
    REQUIRE(is_v4 || address.any.sa_family == AF_INET6);
    REQUIRE(len == (is_v4 ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6)));
    return kqn_peer_of(&address);
}

static void require_shown_can_be_typed(const char *host, int port)
{
    int rc;
    struct kqn_peer peer = peer_of_text(host, port, &rc);
    if (rc < 0) {
        REQUIRE(rc == -EINVAL);
        return;
    }
    REQUIRE(peer.port == port);
    char shown[KQN_PEER_TEXT_MAX], text[KQN_PEER_TEXT_MAX];
    kqn_peer_host(&peer, shown);
    struct kqn_peer again = peer_of_text(shown, port, &rc);
    REQUIRE(rc == 0);
    REQUIRE(memcmp(peer.address, again.address, sizeof(peer.address)) == 0);
    size_t text_len = kqn_peer_text(&peer, text);
    REQUIRE(text_len == strlen(text) && text_len < KQN_PEER_TEXT_MAX);
    REQUIRE(strcmp(text, "unix") == 0 || strstr(text, shown) != NULL);
}

static void require_path_is_kept(const char *path)
{
    union kqn_address address;
    socklen_t len = 0;
    const struct sockaddr_un *made = (const struct sockaddr_un *)(const void *)&address;
    size_t path_len = strlen(path);
    int rc = kqn_address_unix(&address, &len, path);
    if (path_len == 0 || path_len >= sizeof(made->sun_path)) {
        REQUIRE(rc == -ENAMETOOLONG);
        return;
    }
    REQUIRE(rc == 0);
    REQUIRE(len == sizeof(*made) && made->sun_family == AF_UNIX);
    REQUIRE(strcmp(made->sun_path, path) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct input input = {bytes, len};
    bool is_path = take_byte(&input) % 2;
    int port = take_byte(&input) << 8;
    port |= take_byte(&input);
    char *text = text_of(input.bytes, input.len);
    if (is_path)
        require_path_is_kept(text);
    else
        require_shown_can_be_typed(text, port);
    free(text);
    return 0;
}
