// go_net: an echo server on Go's net package, a goroutine per connection: how Go programs do it by default.
//
// Usage: go_net PORT echo
//
// Go's runtime polls epoll (edge-triggered) beneath code that looks blocking. GOMAXPROCS is left alone, so there are as
// many running goroutines as the process may use cores. Left out: logging, limits, timeouts and draining; SIGTERM ends
// the process by its default action, and the runtime itself raises the limit on open files to the hard one. The
// backlog is the system's net.core.somaxconn: the net package knows no other.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
)

// Memory per connection against system calls per byte: io.Copy would take 32 KiB, bufio takes 4 KiB.
const bufferBytes = 16 << 10

func fail(reason any) {
	fmt.Fprintln(os.Stderr, "go_net:", reason)
	os.Exit(1)
}

// readPort checks the arguments, of which the port is all that varies.
func readPort(arguments []string) int {
	if len(arguments) != 2 {
		fail("usage: go_net PORT echo")
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

// listen leaves out what the net package would add to each accepted socket for the sake of networks less reliable than
// this one: four system calls for keep-alive, and Multipath TCP. TCP_NODELAY it sets unasked.
func listen(port int) (net.Listener, error) {
	config := net.ListenConfig{KeepAlive: -1}
	config.SetMultipathTCP(false)
	return config.Listen(context.Background(), "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
}

func echo(connection net.Conn) {
	defer connection.Close()
	buffer := make([]byte, bufferBytes)
	for {
		got, err := connection.Read(buffer)
		if err != nil {
			return
		}
		if _, err := connection.Write(buffer[:got]); err != nil {
			return
		}
	}
}

func main() {
	listener, err := listen(readPort(os.Args[1:]))
	if err != nil {
		fail(err)
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			fail(err)
		}
		go echo(connection)
	}
}
