// Package pki holds the trust of a cluster: its certificate authority, the
// certificates of nodes and users and their rotation, join tokens, and the
// contexts in which a user of the command line keeps certificates.
//
// Whoever holds a certificate of the cluster's authority is known; nobody else
// is. Host names mean nothing here: a certificate names the cluster and the
// node or user in a URI, banyan://CLUSTER/node/7/NAME or
// banyan://CLUSTER/user/NAME, and both sides of a connection check that.
package pki

import (
	"crypto/x509"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"banyan"
)

// Kind says what a certificate stands for.
type Kind string

// The kinds of certificate.
const (
	Node Kind = "node"
	User Kind = "user"
)

// How long certificates live. They are renewed when a third is left.
const (
	NodeTTL = 30 * 24 * time.Hour
	UserTTL = 365 * 24 * time.Hour
)

// authorityTTL is how long the authority's own certificate lives.
const authorityTTL = 20 * 365 * 24 * time.Hour

// skew is how far the clock of a reader may be behind the signer's.
const skew = time.Hour

const uriScheme = "banyan"

// Subject is who a certificate stands for.
type Subject struct {
	Kind Kind
	Name string
	Node banyan.NodeID // 0 for users
}

// Validate says what is wrong with the subject, as an Invalid error.
func (s Subject) Validate() error {
	switch {
	case s.Kind == Node && s.Node == 0:
		return banyan.Errorf(banyan.Invalid, "a node's certificate needs a node id")
	case s.Kind == User && s.Node != 0:
		return banyan.Errorf(banyan.Invalid, "a user's certificate has no node id")
	case s.Kind != Node && s.Kind != User:
		return banyan.Errorf(banyan.Invalid, "unknown kind of certificate %q", s.Kind)
	}
	return validName(s.Name)
}

func validName(name string) error {
	bad := func(r rune) bool { return r == '/' || r == unicode.ReplacementChar || unicode.IsControl(r) }
	if name == "" || len(name) > banyan.NameBytesMax || strings.ContainsFunc(name, bad) {
		return banyan.Errorf(banyan.Invalid, "bad name %q: give 1 to %d bytes without '/' or control characters", name, banyan.NameBytesMax)
	}
	return nil
}

func validCluster(id string) error {
	if !regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`).MatchString(id) {
		return banyan.Errorf(banyan.Invalid, "bad cluster id %q: it is 1 to 64 letters, digits and '-'", id)
	}
	return nil
}

func (s Subject) uri(cluster string) *url.URL {
	path := "/" + string(s.Kind) + "/"
	if s.Kind == Node {
		path += strconv.FormatUint(uint64(s.Node), 10) + "/"
	}
	return &url.URL{Scheme: uriScheme, Host: cluster, Path: path + s.Name}
}

// SubjectOf reads whom a certificate names and of which cluster. It does not
// say that the certificate is genuine: that is for the TLS handshake.
func SubjectOf(cert *x509.Certificate) (s Subject, cluster string, err error) {
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != uriScheme {
		return s, "", banyan.Errorf(banyan.Unauthenticated, "the certificate of %q is not one of a banyan cluster", cert.Subject.CommonName)
	}
	u := cert.URIs[0]
	part := strings.Split(strings.TrimPrefix(u.Path, "/"), "/")
	switch {
	case len(part) == 3 && part[0] == string(Node):
		id, perr := strconv.ParseUint(part[1], 10, 64)
		if perr != nil {
			break
		}
		s = Subject{Kind: Node, Name: part[2], Node: banyan.NodeID(id)}
	case len(part) == 2 && part[0] == string(User):
		s = Subject{Kind: User, Name: part[1]}
	}
	if s.Validate() != nil || validCluster(u.Host) != nil {
		return Subject{}, "", banyan.Errorf(banyan.Unauthenticated, "the certificate names %q, which is neither a node nor a user of a banyan cluster", u)
	}
	return s, u.Host, nil
}

// RenewDue says that a third or less of the certificate's lifetime is left, or
// that it is not valid yet: the clock was ahead when it was made.
func RenewDue(cert *x509.Certificate, now time.Time) bool {
	life := cert.NotAfter.Sub(cert.NotBefore)
	return cert.NotAfter.Sub(now) <= life/3 || now.Before(cert.NotBefore)
}
