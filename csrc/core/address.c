#include "core/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/un.h>

int kqn_address_unix(union kqn_address *out, socklen_t *len, const char *path)
{
    struct sockaddr_un *address = (struct sockaddr_un *)(void *)out;
    size_t path_len = strlen(path);
    if (path_len == 0 || path_len >= sizeof(address->sun_path))
        return -ENAMETOOLONG;
    memset(out, 0, sizeof(*out));
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, path_len + 1);
    *len = sizeof(*address);
    return 0;
}

int kqn_address_tcp(union kqn_address *out, socklen_t *len, const char *host, int port)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)(void *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)(void *)out;
    memset(out, 0, sizeof(*out));
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        *len = sizeof(*v4);
        return 0;
    }
    memset(out, 0, sizeof(*out));
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) != 1)
        return -EINVAL;
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons((uint16_t)port);
    *len = sizeof(*v6);
    return 0;
}
