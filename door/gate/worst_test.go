package gate

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
)

// worst encodes a message with the worst in every field: text that is none, control
// bytes, long and empty ones, the largest numbers, many of what is repeated.
func worst(m protoreflect.MessageDescriptor, depth int) (b []byte) {
	texts := []string{"\xff\x00\x1b[2J\xe2\x80\xae", strings.Repeat("\xc0", 4096), ""}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		n := 1
		if f.IsList() || f.IsMap() {
			n = 40
		}
		for k := range n {
			switch f.Kind() {
			case protoreflect.StringKind, protoreflect.BytesKind:
				b = protowire.AppendString(protowire.AppendTag(b, f.Number(), protowire.BytesType), texts[k%len(texts)])
			case protoreflect.MessageKind, protoreflect.GroupKind:
				if depth > 0 && k < 3 {
					b = protowire.AppendBytes(protowire.AppendTag(b, f.Number(), protowire.BytesType), worst(f.Message(), depth-1))
				}
			case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
				b = protowire.AppendFixed64(protowire.AppendTag(b, f.Number(), protowire.Fixed64Type), 1<<64-1)
			case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
				b = protowire.AppendFixed32(protowire.AppendTag(b, f.Number(), protowire.Fixed32Type), 1<<32-1)
			default:
				b = protowire.AppendVarint(protowire.AppendTag(b, f.Number(), protowire.VarintType), 1<<64-1)
			}
		}
	}
	return b
}

// TestTheWorstMessageFailsItsOwnCallOnly: every request of every method of the API is
// sent with the worst in each field, and with less than all of it. Each is answered,
// none takes the connection from the calls after it.
func TestTheWorstMessageFailsItsOwnCallOnly(t *testing.T) {
	n := newNet(t, 1)
	id := n.jobIn(1)
	jobs := banyanv1connect.NewJobsClient(n.user(t), n.nodes[1].url, decoded)
	if _, err := submit(t.Context(), jobs, id, 1); err != nil {
		t.Fatal(err)
	}
	methods := 0
	for _, file := range []protoreflect.FileDescriptor{banyanv1.File_banyan_v1_jobs_proto, banyanv1.File_banyan_v1_kv_proto, banyanv1.File_banyan_v1_cluster_proto} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for k := range service.Methods().Len() {
				m := service.Methods().Get(k)
				methods++
				whole := worst(m.Input(), 3)
				for _, body := range [][]byte{whole, whole[:len(whole)/2], bytes.Repeat([]byte{0xff}, 64)} {
					kind := "application/proto"
					if m.IsStreamingClient() || m.IsStreamingServer() {
						kind = "application/connect+proto"
						body = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...)
					}
					url := n.nodes[1].url + "/" + string(service.FullName()) + "/" + string(m.Name())
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(body))
					if err != nil {
						t.Fatal(err)
					}
					req.Header.Set("Content-Type", kind)
					req.Header.Set("Connect-Protocol-Version", "1")
					res, err := n.user(t).Do(req)
					if err != nil {
						t.Errorf("%s: %v", m.FullName(), err)
						continue
					}
					answer, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
					res.Body.Close()
					if err != nil || res.StatusCode != http.StatusOK && !bytes.Contains(answer, []byte(`"code"`)) || len(res.Header.Get("Content-Type")) == 0 {
						t.Errorf("%s: status %d, %.200q, %v", m.FullName(), res.StatusCode, answer, err)
					}
					if _, err := jobs.Get(t.Context(), connect.NewRequest(&banyanv1.GetJobRequest{JobId: id})); err != nil {
						t.Fatalf("after %s: %v", m.FullName(), err)
					}
				}
			}
		}
	}
	if methods < 20 {
		t.Errorf("only %d methods", methods)
	}
}
