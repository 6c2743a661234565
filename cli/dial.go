package cli

import (
	"context"
	"io"
	"net/http"

	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/pki"
)

type services struct {
	jobs    banyanv1connect.JobsClient
	kv      banyanv1connect.KVClient
	cluster banyanv1connect.ClusterClient
	blobs   banyanv1connect.BlobsClient
}

func over(c *http.Client, url string) services {
	return services{banyanv1connect.NewJobsClient(c, url), banyanv1connect.NewKVClient(c, url), banyanv1connect.NewClusterClient(c, url), banyanv1connect.NewBlobsClient(c, url)}
}

func dial(c *pki.Context) (services, error) {
	t, err := c.TLS()
	if err != nil {
		return services{}, err
	}
	return over(&http.Client{Transport: &http.Transport{TLSClientConfig: t, ForceAttemptHTTP2: true}}, "https://"+c.Addresses[0]), nil
}

func (s services) readChunks(ctx context.Context, chunks [][]byte, w io.Writer) error  { panic("todo") }
func (s services) writeBlob(ctx context.Context, r io.Reader) ([][]byte, int64, error) { panic("todo") }
