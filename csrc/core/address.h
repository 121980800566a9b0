/* address.h: where to listen or to connect, from text. Numeric addresses only: names are Python's business. */
#ifndef KQN_ADDRESS_H
#define KQN_ADDRESS_H
#include "core/sys.h"

/* 0; -EINVAL: the host is no numeric address. */
int kqn_address_tcp(union kqn_address *out, socklen_t *len, const char *host, int port);

/* 0; -ENAMETOOLONG: the path is longer than a unix socket's may be, or empty. */
int kqn_address_unix(union kqn_address *out, socklen_t *len, const char *path);
#endif
