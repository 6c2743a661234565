//go:build !linux

package cli

// notifySystemd tells the service manager how the node is, where there is systemd.
func notifySystemd(string) {}
