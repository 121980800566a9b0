/* send.h: messages on their way out of a connection. */
#ifndef KQN_LOAD_SEND_H
#define KQN_LOAD_SEND_H
#include "load/conn.h"

/* How many messages it may send now. */
static inline uint32_t kqn_load_conn_room(const struct kqn_driver *driver, const struct kqn_load_conn *conn)
{
    if (conn->state != KQN_LOAD_CONN_OPEN || conn->broken || kqn_load_conn_thinks(conn) || conn->unwritten_len > 0)
        return 0;
    uint32_t room = (uint32_t)driver->settings->depth - conn->in_flight;
    uint32_t every = (uint32_t)driver->settings->reconnect_every;
    return every > 0 && every - conn->sent < room ? every - conn->sent : room;
}

/* Sends up to so many messages, which there is room for, in one write; returns how many. In an open loop they are the
 * next of the schedule, which moves on; in a closed loop they are meant to go now. */
uint32_t kqn_load_conn_send(struct kqn_driver *driver, struct kqn_load_conn *conn, uint32_t count);

/* In a closed loop: sends all that there is room for. */
void kqn_load_conn_fill(struct kqn_driver *driver, struct kqn_load_conn *conn);

/* Puts it among those that are ready, if it has room. */
void kqn_load_conn_offer(struct kqn_driver *driver, struct kqn_load_conn *conn);

/* Sends what comes next, after something has happened that makes room. */
static inline void kqn_load_conn_go_on(struct kqn_driver *driver, struct kqn_load_conn *conn)
{
    if (driver->is_open_loop)
        kqn_load_conn_offer(driver, conn);
    else
        kqn_load_conn_fill(driver, conn);
}

/* Writes on what the socket did not take. */
void kqn_load_conn_write_on(struct kqn_driver *driver, struct kqn_load_conn *conn);
#endif
