package cli

import (
	"net"
	"os"
	"strings"
)

// notifySystemd tells the service manager how the node is (sd_notify(3)), if
// one started it. Nobody else is told: tasks do not get the socket's name.
func notifySystemd(state string) {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" || !strings.ContainsAny(name[:1], "/@") {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return // the manager is gone; it starts no one else by this word
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state)) // as above
}
