/* sys.h: every system call but the poller's, the clocks and the allocator.
 * The seam for tests: a test build links a scripted sys.c in place of the real one. Functions return what the call
 * returns, with -errno for its failures. Sockets are always non-blocking and close-on-exec, and never descriptors 0 to
 * 2: where a process was started without them, what it prints would go to a client. */
#ifndef KQN_SYS_H
#define KQN_SYS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

union kqn_address {
    struct sockaddr any;
    struct sockaddr_storage storage;
};

int64_t kqn_sys_monotonic_ns(void);
uint64_t kqn_sys_wall_ms(void); /* since 1970, UTC */
void kqn_sys_sleep_ns(int64_t duration_ns);
int64_t kqn_sys_thread_cpu_ns(void);    /* processor time of the calling thread; 0 where nobody can say */
void kqn_sys_want_precise_timers(void); /* for the calling thread's waits, where a system would round them up */

enum {
    KQN_LINE_BYTES = 128, /* of Apple's caches; on x86 two lines, which are fetched together */
};

/* A field that threads write or wait for must not stand on a cache line with what another thread uses for each
 * message. */
#define KQN_BEGINS_LINE(type, field)                                                                                   \
    _Static_assert(offsetof(struct type, field) % KQN_LINE_BYTES == 0, #field " shares a cache line")

void *kqn_sys_alloc(size_t size);       /* NULL: no memory, as with the next two */
void *kqn_sys_alloc_lines(size_t size); /* begins where a cache line does */
void *kqn_sys_realloc(void *memory, size_t size);
void kqn_sys_free(void *memory);

int kqn_sys_socket(int family);
int kqn_sys_listener_options(int fd, int family);
int kqn_sys_bind(int fd, const union kqn_address *address, socklen_t len);
int kqn_sys_listen(int fd, int backlog);
int64_t kqn_sys_backlog_limit(void);
int kqn_sys_connect(int fd, const union kqn_address *address, socklen_t len);
int kqn_sys_local_address(int fd, union kqn_address *out);
int kqn_sys_accept(int fd, union kqn_address *peer);
ssize_t kqn_sys_read(int fd, void *bytes, size_t len);
ssize_t kqn_sys_write(int fd, const void *bytes, size_t len); /* never raises SIGPIPE; nor does the next */
/* Writes two pieces, the first perhaps empty, as if they lay one behind the other. */
ssize_t kqn_sys_write_two(int fd, const void *first, size_t first_len, const void *second, size_t second_len);
/* For a socket that connects. */
int kqn_sys_client_options(int fd, int family);
/* Binds to an address and leaves the port to connect(), which can then use the same port for several servers, where
 * the system knows how (Linux); elsewhere the socket takes a port of its own. */
int kqn_sys_bind_source(int fd, const union kqn_address *address, socklen_t len);
int kqn_sys_socket_error(int fd); /* takes the error from the socket: 0 or -errno */
/* 0; -ENOTCONN: not yet; -ECONNREFUSED: the socket is connected to itself. */
int kqn_sys_check_connected(int fd);

/* Bytes that have arrived and were not read yet; -errno. */
ssize_t kqn_sys_readable(int fd);

/* Bytes that have been written and that the peer has not taken in yet; -errno: that can't be asked for here. */
ssize_t kqn_sys_unsent(int fd);

int kqn_sys_shutdown_write(int fd);
int kqn_sys_shutdown_both(int fd);
int kqn_sys_close(int fd);

/* The file of a unix socket: what stands at path, and its removal. */
struct kqn_file_id {
    uint64_t device;
    uint64_t inode;
    bool is_socket;
};
int kqn_sys_file_id(const char *path, struct kqn_file_id *out);
int kqn_sys_unlink(const char *path);

/* Raises the soft limit of descriptors towards wanted (0: all that there is), and returns the limit in force. */
int64_t kqn_sys_raise_descriptor_limit(int64_t wanted);
#endif
