// gnet: an echo server on gnet, the event-loop framework that Go users take when the net package is not fast enough.
//
// Usage: gnet PORT echo; built with -tags poll_opt, gnet's own quicker way to find a connection by its event.
//
// One event loop of level-triggered epoll, reading up to 64 KiB into the loop's one buffer; an answer that the socket
// does not take at once waits in a buffer of the connection's own. Left out: limits, timeouts and draining; gnet's own
// log says one line at the start. SIGTERM ends the process by its default action, and Go's runtime raises the limit on
// open files to the hard one. The backlog is the system's net.core.somaxconn: gnet knows no other.
package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/panjf2000/gnet/v2"
)

type server struct {
	gnet.BuiltinEventEngine
}

func (server) OnTraffic(connection gnet.Conn) gnet.Action {
	input, err := connection.Next(-1)
	if err != nil {
		return gnet.Close
	}
	if _, err := connection.Write(input); err != nil {
		return gnet.Close
	}
	return gnet.None
}

func fail(reason any) {
	fmt.Fprintln(os.Stderr, "gnet:", reason)
	os.Exit(1)
}

// readPort checks the arguments, of which the port is all that varies.
func readPort(arguments []string) int {
	if len(arguments) != 2 {
		fail("usage: gnet PORT echo")
	}
	port, err := strconv.Atoi(arguments[0])
	if err != nil || port < 1 || port > 65535 {
		fail(fmt.Sprintf("no port between 1 and 65535: %q", arguments[0]))
	}
	if arguments[1] != "echo" {
		fail(fmt.Sprintf("the only mode is echo, not %q", arguments[1]))
	}
	return port
}

func main() {
	address := fmt.Sprintf("tcp4://127.0.0.1:%d", readPort(os.Args[1:]))
	// One loop for the one core that it may use. The thread of its own is as in gnet's own benchmark; with SO_REUSEPORT
	// the loop accepts for itself, where gnet would else start a second one that only accepts and hands over: a quarter of
	// the processor time of a short connection.
	fail(gnet.Run(&server{}, address,
		gnet.WithNumEventLoop(1), gnet.WithLockOSThread(true), gnet.WithReusePort(true)))
}
