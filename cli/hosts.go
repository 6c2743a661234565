package cli

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"banyan"
	"banyan/node/pki"
)

// addedHost is a machine that this user has added to a cluster. How a user gets
// to a machine (names and keys of the user's ssh configuration) is the user's,
// so this stands beside the user's contexts and not in the cluster.
type addedHost struct {
	Host string `json:"host"` // as ssh takes it
	Node string `json:"node"`
	Base string `json:"base"` // the directory there of what was copied
}

// addedHosts are those of one cluster, in the order in which they were added.
type addedHosts struct {
	Version int         `json:"version"`
	Hosts   []addedHost `json:"hosts"`
}

const addedHostsVersion = 1

func hostsPath(dir, cluster string) string { return filepath.Join(dir, "hosts", cluster+".json") }

func readHosts(dir, cluster string) ([]addedHost, error) {
	path := hostsPath(dir, cluster)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var h addedHosts
	if err := json.Unmarshal(b, &h); err != nil {
		return nil, banyan.Errorf(banyan.Corrupt, "%s cannot be read: %w: move it away, and name the hosts", path, err)
	}
	if h.Version > addedHostsVersion {
		return nil, banyan.Errorf(banyan.TooNew, "%s has format %d, this banyan knows up to %d: use the newer one that wrote it", path, h.Version, addedHostsVersion)
	}
	return h.Hosts, nil
}

// changeHosts changes the list while no other command does.
func changeHosts(ctx context.Context, dir, cluster string, change func([]addedHost) []addedHost) error {
	path := hostsPath(dir, cluster)
	if err := pki.MakePrivateDir(filepath.Dir(path)); err != nil {
		return err
	}
	lock, err := lockFile(path + ".lock")
	for ; errors.Is(err, errBusy); lock, err = lockFile(path + ".lock") {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	hosts, err := readHosts(dir, cluster)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(addedHosts{addedHostsVersion, change(hosts)}, "", "  ")
	if err != nil {
		return err
	}
	return pki.WritePrivate(path, append(b, '\n'))
}

func rememberHost(ctx context.Context, dir, cluster string, h addedHost) error {
	return changeHosts(ctx, dir, cluster, func(all []addedHost) []addedHost {
		return append(slices.DeleteFunc(all, func(o addedHost) bool { return o.Host == h.Host && o.Base == h.Base }), h)
	})
}

func forgetHost(ctx context.Context, dir, cluster, node string) error {
	return changeHosts(ctx, dir, cluster, func(all []addedHost) []addedHost {
		return slices.DeleteFunc(all, func(o addedHost) bool { return o.Node == node })
	})
}

// hostsOf are those that this user added to the cluster of the command line.
func (a *app) hostsOf() (dir string, hosts []addedHost, err error) {
	if dir, err = a.configDir(); err != nil {
		return dir, nil, err
	}
	name, err := a.contextName(dir)
	if err != nil {
		return dir, nil, err
	}
	c, err := pki.LoadContext(dir, name)
	if err != nil {
		return dir, nil, err
	}
	hosts, err = readHosts(dir, c.Cluster)
	return dir, hosts, err
}

// addedHosts completes a machine that was added.
func (a *app) addedHosts() finder {
	return func(_ context.Context, _ []string, c *candidates) {
		_, hosts, _ := a.hostsOf()
		for _, h := range hosts {
			if !c.add(h.Host, h.Node) {
				return
			}
		}
	}
}
