package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lan is a network in user space. Each host is a network namespace with one TUN
// interface, and this process carries every packet from one to another, late or
// never if the link says so: what iptables and tc netem do, on any kernel.
// Namespaces and interfaces have no names outside this process and end with it,
// however it ends.
type lan struct {
	prefix [3]byte

	mu    sync.RWMutex
	hosts map[netip.Addr]*host
	links map[[2]*host]link // from, to; one not there is perfect
}

// link says what happens to packets on their way from one host to another.
type link struct {
	cut           bool    // none arrives, and nobody is told
	loss          float64 // of 1
	delay, jitter time.Duration
}

// host is a machine on a lan; nil is the machine that the test runs on.
type host struct {
	lan  *lan
	addr netip.Addr
	tun  *os.File
	ns   int // of its network namespace; -1: the test's own
}

// newLan makes a network on which the test's own machine is, and skips the test
// where that is not permitted.
func newLan(t *testing.T) *lan {
	t.Helper()
	l := &lan{prefix: [3]byte{198, byte(18 + rand.N(2)), byte(rand.N(256))}, hosts: map[netip.Addr]*host{}, links: map[[2]*host]link{}}
	t.Cleanup(l.close)
	if _, err := l.join(254, false); errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
		t.Skipf("needs root and /dev/net/tun to make networks: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	return l
}

// host adds a machine.
func (l *lan) host(t *testing.T) *host {
	t.Helper()
	l.mu.RLock()
	n := len(l.hosts)
	l.mu.RUnlock()
	h, err := l.join(byte(n), true)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// outside is the machine of the test, where the clients are.
func (l *lan) outside() *host {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.hosts[netip.AddrFrom4([4]byte{l.prefix[0], l.prefix[1], l.prefix[2], 254})]
}

func (l *lan) join(last byte, own bool) (*host, error) {
	h := &host{lan: l, addr: netip.AddrFrom4([4]byte{l.prefix[0], l.prefix[1], l.prefix[2], last}), ns: -1}
	fail := make(chan error)
	go func() {
		runtime.LockOSThread() // with a namespace of its own the thread ends with this goroutine
		if !own {
			defer runtime.UnlockOSThread()
		}
		fail <- h.plugIn(own)
	}()
	if err := <-fail; err != nil {
		return nil, fmt.Errorf("making host %v: %w", h.addr, err)
	}
	l.mu.Lock()
	l.hosts[h.addr] = h
	l.mu.Unlock()
	go h.carry()
	return h, nil
}

// plugIn makes the interface, in the namespace of the calling thread or a new one.
func (h *host) plugIn(own bool) (err error) {
	if own {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if h.ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		if err := configure("lo", netip.AddrFrom4([4]byte{127, 0, 0, 1}), 8); err != nil {
			return err
		}
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ifr, err := unix.NewIfreq("banyan%d")
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err == nil {
		err = configure(ifr.Name(), h.addr, 24)
	}
	if err != nil {
		_ = unix.Close(fd) // err says what went wrong
		return err
	}
	h.tun = os.NewFile(uintptr(fd), "tun") // not before TUNSETIFF: only now can it be polled
	return nil
}

// configure gives an interface its address and takes it up.
func configure(name string, addr netip.Addr, bits int) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	mask := [4]byte{255}
	for i := range bits / 8 {
		mask[i] = 255
	}
	set := func(call uint, value any) {
		ifr, e := unix.NewIfreq(name)
		switch v := value.(type) {
		case [4]byte:
			e = errors.Join(e, ifr.SetInet4Addr(v[:]))
		case uint16:
			ifr.SetUint16(v)
		}
		err = errors.Join(err, e, unix.IoctlIfreq(s, call, ifr))
	}
	set(unix.SIOCSIFADDR, addr.As4())
	set(unix.SIOCSIFNETMASK, mask)
	set(unix.SIOCSIFFLAGS, uint16(unix.IFF_UP|unix.IFF_RUNNING))
	return err
}

// carry takes what the host sends to where it goes.
func (h *host) carry() {
	buf := make([]byte, 64<<10)
	for {
		n, err := h.tun.Read(buf)
		if err != nil {
			return // closed
		}
		if packet := buf[:n]; n >= 20 && packet[0]>>4 == 4 {
			h.lan.send(h, netip.AddrFrom4([4]byte(packet[16:20])), packet)
		}
	}
}

func (l *lan) send(from *host, dst netip.Addr, packet []byte) {
	l.mu.RLock()
	to := l.hosts[dst]
	way := l.links[[2]*host{from, to}]
	l.mu.RUnlock()
	if to == nil || way.cut || way.loss > 0 && rand.Float64() < way.loss {
		return
	}
	if way.delay == 0 && way.jitter == 0 {
		_, _ = to.tun.Write(packet) // lost, if the host is gone
		return
	}
	late := slices.Clone(packet)
	time.AfterFunc(way.delay+rand.N(way.jitter+1), func() { _, _ = to.tun.Write(late) })
}

// set makes the links between all of a and all of b so, both ways.
func (l *lan) set(a, b []*host, way link) {
	l.oneWay(a, b, way)
	l.oneWay(b, a, way)
}

// oneWay makes the links from all of a to all of b so.
func (l *lan) oneWay(a, b []*host, way link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, from := range a {
		for _, to := range b {
			l.links[[2]*host{from, to}] = way
		}
	}
}

// heal makes every link perfect.
func (l *lan) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.links)
}

func (h *host) String() string { return h.addr.String() }

// start starts a command on the host.
func (h *host) start(cmd *exec.Cmd) error {
	if h == nil {
		return cmd.Start()
	}
	fail := make(chan error)
	go func() { fail <- h.startThere(cmd) }()
	return <-fail
}

// startThere gives its thread back as it was: the death of a thread would be
// that of the processes it started (endWithParent).
func (h *host) startThere(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	here, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(here)
	if err := unix.Setns(h.ns, unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = cmd.Start()
	if back := unix.Setns(here, unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, back)
	}
	runtime.UnlockOSThread()
	return err
}

func (l *lan) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.hosts {
		_ = h.tun.Close() // they end with the process anyway
		if h.ns >= 0 {
			_ = unix.Close(h.ns)
		}
	}
}

// endWithParent makes the kernel kill the process when the test ends, however it ends.
func endWithParent(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
