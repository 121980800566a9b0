#!/bin/sh
# socat: an echo server with a process per connection, as a shell user has it in one line.
#
# Usage: run.sh PORT echo cat|pipe
#
# socat listens, accepts and forks; what the child does is the second address, and neither is the cheaper one always:
#   cat   the child becomes cat on the socket itself: one read and one write per message, but an exec per connection.
#   pipe  the child stays socat and sends what it reads through a pipe to itself: no exec, but per message three calls
#         of select, two reads, two writes, and a look for signals around each. It moves 4 KiB at a time: select calls a
#         pipe writable that has room for one page, and a longer write would wait for ever for its own reader.
#
# Left out: everything else. SIGTERM ends the listener; a child ends when its client does. The listener closes what it
# hands to a child, so the limit on open files does not matter: the one on processes does.
set -eu

fail() {
    echo "socat: $1" >&2
    exit 1
}

[ $# -eq 3 ] || fail "usage: run.sh PORT echo cat|pipe"
case $1 in
    '' | *[!0-9]*) fail "no port between 1 and 65535: '$1'" ;;
esac
[ "$1" -ge 1 ] && [ "$1" -le 65535 ] || fail "no port between 1 and 65535: '$1'"
[ "$2" = echo ] || fail "the only mode is echo, not '$2'"
case $3 in
    cat) answer=EXEC:cat,nofork ;;
    pipe) answer=PIPE ;;
    *) fail "neither cat nor pipe: '$3'" ;;
esac
command -v socat >/dev/null || fail "no socat found"

export LC_ALL=C # else each cat would load its locale
exec socat -b 4096 "TCP4-LISTEN:$1,bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=1024" "$answer"
