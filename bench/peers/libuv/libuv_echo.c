/* libuv_echo.c: an echo server on libuv, as its careful users write one.
 * Usage: libuv_echo PORT echo
 * One loop, one buffer that all reads share, and uv_try_write() first: only what the socket does not take at once is
 * copied and queued with uv_write(). It leaves out a log, timeouts, limits, and backpressure: a client that sends
 * without reading is read on, and its answers are queued. */
#include <arpa/inet.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "../shared.h"

enum {
    READ_BYTES = 65536,
};

struct unsent {
    uv_write_t request;
    char bytes[];
};

static char read_buffer[READ_BYTES];

static void die(const char *what, int rc)
{
    fprintf(stderr, "libuv_echo: %s: %s\n", what, uv_strerror(rc));
    exit(1);
}

static void on_closed(uv_handle_t *handle)
{
    free(handle);
}

static void end(uv_stream_t *client)
{
    if (!uv_is_closing((uv_handle_t *)client))
        uv_close((uv_handle_t *)client, on_closed);
}

static void lend_buffer(uv_handle_t *handle, size_t suggested_bytes, uv_buf_t *buffer)
{
    (void)handle;
    (void)suggested_bytes;
    *buffer = uv_buf_init(read_buffer, sizeof(read_buffer));
}

static void on_written(uv_write_t *request, int status)
{
    uv_stream_t *client = request->handle;
    free(request->data);
    if (status < 0)
        end(client);
}

static int queue_unsent(uv_stream_t *client, const char *bytes, size_t len)
{
    struct unsent *unsent = malloc(sizeof(*unsent) + len);
    if (unsent == NULL)
        return UV_ENOMEM;
    memcpy(unsent->bytes, bytes, len);
    unsent->request.data = unsent;
    uv_buf_t buffer = uv_buf_init(unsent->bytes, (unsigned)len);
    int rc = uv_write(&unsent->request, client, &buffer, 1, on_written);
    if (rc < 0)
        free(unsent);
    return rc;
}

static void on_read(uv_stream_t *client, ssize_t got, const uv_buf_t *buffer)
{
    if (got < 0) {
        end(client);
        return;
    }
    if (got == 0) /* nothing there after all */
        return;
    uv_buf_t answer = uv_buf_init(buffer->base, (unsigned)got);
    int rc = uv_try_write(client, &answer, 1);
    size_t taken = rc > 0 ? (size_t)rc : 0;
    if (rc >= 0 || rc == UV_EAGAIN)
        rc = taken < (size_t)got ? queue_unsent(client, buffer->base + taken, (size_t)got - taken) : 0;
    if (rc < 0)
        end(client);
}

static void on_connection(uv_stream_t *listener, int status)
{
    if (status < 0)
        return;
    uv_tcp_t *client = malloc(sizeof(*client));
    if (client == NULL)
        return;
    uv_tcp_init(listener->loop, client);
    if (uv_accept(listener, (uv_stream_t *)client) < 0 || uv_tcp_nodelay(client, 1) < 0 ||
        uv_read_start((uv_stream_t *)client, lend_buffer, on_read) < 0)
        end((uv_stream_t *)client);
}

int main(int argc, char **argv)
{
    struct sockaddr_in address;
    uv_tcp_t listener;
    int port = argc == 3 ? atoi(argv[1]) : 0;
    if (port < 1 || port > UINT16_MAX || strcmp(argv[2], "echo") != 0) {
        fprintf(stderr, "usage: libuv_echo PORT echo\n");
        return 2;
    }
    raise_descriptors();
    signal(SIGPIPE, SIG_IGN);
    uv_ip4_addr("127.0.0.1", port, &address);
    int rc = uv_tcp_init(uv_default_loop(), &listener);
    if (rc == 0)
        rc = uv_tcp_bind(&listener, (const struct sockaddr *)&address, 0);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&listener, BACKLOG, on_connection);
    if (rc < 0)
        die("listening", rc);
    return uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}
