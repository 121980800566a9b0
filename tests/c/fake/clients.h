/* clients.h: those who connect to the simulated server: what each sends, how it behaves, and what it is sent.
 * A connection's bytes are nowhere copied: both its directions are counters over what the client has to send and over
 * what the model expects the server to send, which is compared as it is written. */
#ifndef KQN_FAKE_CLIENTS_H
#define KQN_FAKE_CLIENTS_H
#include "model.h"

enum manner {           /* how a client ends */
    MANNER_HALF_CLOSES, /* when it has sent all; then it reads to the end */
    MANNER_LOCK_STEPS,  /* sends on when it has all answers; then as above */
    MANNER_IDLES,       /* sends all and keeps the connection */
    MANNER_NEVER_READS,
    MANNER_RESETS, /* after so many bytes sent, 0 before anybody accepts it */
    MANNER_CLOSES, /* likewise, whatever it may be sent yet */
    MANNER_COUNT,
};
extern const char *const manner_names[MANNER_COUNT];

struct client {
    int index;
    enum manner manner;
    bool is_denied; /* by its address */
    size_t leaves_at;
    unsigned connects_at; /* step */
    size_t send_max;
    size_t take_max;
    uint8_t *input; /* all that it has to send; its memory is kept between seeds */
    size_t input_capacity;
    size_t input_len;

    /* The connection. */
    bool is_connected; /* stands in the queue of the listener, or has been accepted */
    bool is_accepted;
    bool is_done;  /* the client has nothing to do any more */
    bool is_reset; /* whoever did it */
    int error;     /* that the server's next read meets */
    int fd;        /* the server's descriptor; -1: none, or none any more */
    int loop;      /* that served it last */
    size_t sent;
    size_t in_room; /* bytes that the server's kernel holds for it at most */
    bool has_half_closed;
    bool has_closed;
    size_t read;
    bool end_is_read;
    size_t written;
    size_t taken;
    size_t out_room;
    bool server_shut;
    bool server_closed;

    /* For the judge. */
    struct model model;
    int64_t accepted_ns;
    int64_t progress_ns; /* as a coarse clock sees it: when the wait before the last byte returned */
    int64_t begun_ns;    /* likewise, of the unfinished message */
    int64_t shut_ns;
    bool was_refused; /* a change of its knotes failed, or memory for it */
    bool was_put_off; /* since the stop a read said EAGAIN that had something */
    bool was_broken;  /* the server has been told of an error */
    bool connected_before_stop;
    size_t sent_before_stop;
    enum kqn_reason reason; /* for which the server ended it */
    bool has_reason;
};

enum {
    MAX_CLIENTS = 48,
};

struct clients {
    struct client list[MAX_CLIENTS];
    int count;
    struct client *queue[MAX_CLIENTS]; /* those who wait to be accepted */
    int queue_len;
    unsigned step; /* of the run */
    bool are_calm; /* the time of misbehaviour is over */
};
extern struct clients clients;

/* Makes so many of them for a server with these rules. Each has about so many bytes to send at most, and connects in
 * one of so many steps. */
void clients_begin(const struct rules *rules, int count, size_t bytes_each, unsigned steps);

/* Whether it could do something now; and one thing that it does, if so. */
bool client_can_act(const struct client *client);
void client_act(struct client *client);

/* From now on everybody goes the way that ends well, where the server would not end it anyway. */
void clients_calm_down(bool idle_ones_are_ended);

bool clients_are_done(void);

/* The network or the other side has broken the connection. */
void client_reset(struct client *client, int error);

void clients_free(void);
#endif
