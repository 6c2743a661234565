package member

import (
	"reflect"
	"strings"
	"testing"

	"banyan"
)

func full() meta {
	m := meta{Name: "desk", Addr: "10.0.0.1:7800", Zone: "attic", Version: "0.1.0", Slots: 8, Draining: true, Leaving: true}
	for i := range 20 {
		m.Leads = append(m.Leads, Lead{banyan.ShardID(i), uint64(i) * 1000})
	}
	return m
}

func TestMeta(t *testing.T) {
	for _, m := range []meta{{}, full(), {Disk: 1}, {Disk: 2}} {
		b, err := m.encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeMeta(b)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v, %v, want %+v", got, err, m)
		}
		for n := range b {
			if _, err := decodeMeta(b[:n]); !banyan.IsKind(err, banyan.Corrupt) {
				t.Errorf("cut to %d of %d bytes: %v", n, len(b), err)
			}
		}
	}
}

func TestMetaBounds(t *testing.T) {
	m := full()
	for len(m.Leads) < banyan.ShardsMax {
		m.Leads = append(m.Leads, Lead{banyan.ShardID(len(m.Leads)), 1 << 60})
	}
	b, err := m.encode()
	if err != nil || len(b) > metaBytesMax || len(b) < metaBytesMax-20 {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	got, err := decodeMeta(b)
	if err != nil || len(got.Leads) == 0 || !reflect.DeepEqual(got.Leads, m.Leads[:len(got.Leads)]) {
		t.Errorf("%d leads, %v", len(got.Leads), err)
	}
	m.Name = strings.Repeat("x", banyan.NameBytesMax)
	m.Zone = m.Name
	if _, err := m.encode(); !banyan.IsKind(err, banyan.Invalid) {
		t.Errorf("long names: %v", err)
	}
	b[0] = metaVersion + 1
	if _, err := decodeMeta(b); !banyan.IsKind(err, banyan.TooNew) {
		t.Errorf("a newer format: %v", err)
	}
}

func FuzzMeta(f *testing.F) {
	m := full()
	b, err := m.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{metaVersion, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		again, err := m.encode()
		if err != nil {
			return // long texts
		}
		back, err := decodeMeta(again)
		if err != nil || len(back.Leads) > len(m.Leads) || back.Name != m.Name {
			t.Fatalf("%+v, %v, want %+v", back, err, m)
		}
	})
}
