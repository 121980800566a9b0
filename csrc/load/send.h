/* send.h: messages on their way out of a connection. */
#ifndef KQN_LOAD_SEND_H
#define KQN_LOAD_SEND_H
#include "load/conn.h"

/* How many messages it may send now. */
uint32_t kqn_load_conn_room(const struct kqn_driver *driver, const struct kqn_load_conn *conn);

/* Sends up to so many messages, which there is room for, in one write; returns how many. In an open loop they are the
 * next of the schedule, which moves on; in a closed loop they are meant to go now. */
uint32_t kqn_load_conn_send(struct kqn_driver *driver, struct kqn_load_conn *conn, uint32_t count);

/* In a closed loop: sends all that there is room for. */
void kqn_load_conn_fill(struct kqn_driver *driver, struct kqn_load_conn *conn);

/* Puts it among those that are ready, if it has room. */
void kqn_load_conn_offer(struct kqn_driver *driver, struct kqn_load_conn *conn);

/* Sends what comes next, after something has happened that makes room. */
void kqn_load_conn_go_on(struct kqn_driver *driver, struct kqn_load_conn *conn);

/* Writes on what the socket did not take. */
void kqn_load_conn_write_on(struct kqn_driver *driver, struct kqn_load_conn *conn);
#endif
