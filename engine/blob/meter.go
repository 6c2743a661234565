package blob

import "banyan/obs/metric"

// meter is what a node's blobs count.
type meter struct{ copied, bad, failed metric.Counter }

func newMeter(s *metric.Set) meter {
	const name, help = "banyan_blob_repairs_total", "Chunks of blobs that were copied to a node that lacked them, found bad here, or could not be mended."
	return meter{
		copied: s.Counter(name, help, "what", "copied"),
		bad:    s.Counter(name, help, "what", "bad"),
		failed: s.Counter(name, help, "what", "failed"),
	}
}

func (m *meter) mended(d Mended) {
	m.copied.Add(d.Copied)
	m.failed.Add(d.Failed)
}

func (r *Replicated) readMeter(m *metric.Reading) {
	m.Gauge("banyan_blob_transfers", "Chunks in memory, being read or written; beyond a limit others wait.", float64(len(r.Local.sem)))
	thin := 0.0
	if r.thin.Load() {
		thin = 1
	}
	m.Gauge("banyan_blobs_thin", "1 while chunks known here lack copies.", thin)
}
