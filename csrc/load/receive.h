/* receive.h: answers on their way in: read once an event, counted or compared where they pass by, and recorded. */
#ifndef KQN_LOAD_RECEIVE_H
#define KQN_LOAD_RECEIVE_H
#include "load/conn.h"

/* A READ event of an open connection. EV_EOF only means that the end will be read some time. */
void kqn_load_conn_receive(struct kqn_driver *driver, struct kqn_load_conn *conn, const struct kevent *event);
#endif
