package daemon

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"postern.dev/postern/internal/authorizer"
	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/credential"
)

// maxReasons bounds a label. Reasons are words of the program, never of a client's;
// this holds if one of them ever came to be.
const maxReasons = 100

// maxDisputed bounds the objects that are named.
const maxDisputed = 100

// metrics are those of one Daemon, for Prometheus. Labels have few values: no
// caller, model, host or path is one.
type metrics struct {
	registry  *prometheus.Registry
	decisions *prometheus.CounterVec
	took      prometheus.Histogram
	objects   *prometheus.GaugeVec
	reads     *prometheus.CounterVec
	stale     *prometheus.GaugeVec
	disputed  *prometheus.GaugeVec
	swap      atomic.Int64             // Unix nanoseconds of the last snapshot, 0 before
	known     func() (time.Time, bool) // of a live cluster, else nil

	mu      sync.RWMutex
	reasons map[decision]prometheus.Counter
}

// decision is one counter of decisions.
type decision struct {
	allow             bool
	territory, reason string
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_decisions_total", Help: "Checks answered."}, []string{"verdict", "territory", "reason"}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "postern_decision_seconds", Help: "Time to judge a check, the login's time included.",
			Buckets: []float64{25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 2}}),
		objects: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "postern_snapshot_objects", Help: "Objects of the snapshot in force, of the kinds Postern reads."}, []string{"kind"}),
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_reads_total", Help: "Times that files were read."}, []string{"what", "result"}),
		stale: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "postern_stale", Help: "1 while files have errors and what was read before is in force."}, []string{"what"}),
		disputed: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "postern_refused_hosts", Help: "Hosts of which it cannot be told what they lead to, by the object (VirtualService) that made it so; the hundred with the most."}, []string{"reason", "object"}),
		reasons: map[decision]prometheus.Counter{},
	}
	m.registry.MustRegister(m.decisions, m.took, m.objects, m.reads, m.stale, m.disputed,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_snapshot_age_seconds", Help: "Time since the snapshot in force was read or, of a live cluster, was last known to be as the cluster is; NaN before the first."}, m.age))
	return m
}

func (m *metrics) age() float64 {
	at := m.swap.Load()
	switch {
	case at == 0:
		return math.NaN()
	case m.known != nil:
		t, _ := m.known()
		return time.Since(t).Seconds()
	}
	return time.Since(time.Unix(0, at)).Seconds()
}

// observe counts a verdict.
func (m *metrics) observe(v authorizer.Verdict, took time.Duration) {
	m.took.Observe(took.Seconds())
	d := decision{v.Allow, v.Territory.Kind.String(), v.Reason}
	m.mu.RLock()
	c := m.reasons[d]
	m.mu.RUnlock()
	if c == nil {
		c = m.counter(d)
	}
	c.Inc()
}

func (m *metrics) counter(d decision) prometheus.Counter {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.reasons) >= maxReasons {
		d.reason = "other"
	}
	word := "refuse"
	if d.allow {
		word = "allow"
	}
	c := m.decisions.WithLabelValues(word, d.territory, d.reason)
	m.reasons[d] = c
	return c
}

// caches shows how often the caches knew the answer.
func (m *metrics) caches(all map[string][]*credential.Count) {
	for name, counts := range all {
		for result, of := range map[string]func(*credential.Count) uint64{
			"hit":  func(c *credential.Count) uint64 { return c.Hits.Load() },
			"miss": func(c *credential.Count) uint64 { return c.Misses.Load() },
		} {
			m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
				Name: "postern_cache_total", Help: "Questions to a cache.", ConstLabels: prometheus.Labels{"cache": name, "result": result},
			}, func() float64 {
				var n uint64
				for _, c := range counts {
					n += of(c)
				}
				return float64(n)
			}))
		}
	}
}

// swapped notes a new snapshot, of so many objects by kind.
func (m *metrics) swapped(kinds map[string]int) {
	m.swap.Store(time.Now().UnixNano())
	m.objects.Reset()
	for kind, n := range kinds {
		m.objects.WithLabelValues(kind).Set(float64(n))
	}
}

// live shows how a watch of a cluster goes.
func (m *metrics) live(c *cluster.Cluster) {
	m.known = c.Known
	one := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_cluster_connected", Help: "1 while the API server answers and every kind is watched."},
			func() float64 { return one(c.Connected()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_pods_age_seconds", Help: "Time since the pods' addresses were last known to be right; from 10 on no pod is recognised by its address. NaN before the first snapshot."},
			func() float64 {
				if !c.Synced() {
					return math.NaN()
				}
				return time.Since(c.PodsKnown()).Seconds()
			}),
	)
	for kind := range c.Watched() {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_cluster_watched", Help: "1 while the objects of a kind are watched, or there is no such kind.", ConstLabels: prometheus.Labels{"kind": kind}},
			func() float64 { return one(c.Watched()[kind]) }))
	}
}

// refused shows which objects keep hosts from being judged. What tenants can make is
// bounded.
func (m *metrics) refused(hosts map[[2]string]int) {
	most := slices.SortedFunc(maps.Keys(hosts), func(a, b [2]string) int {
		return cmp.Or(cmp.Compare(hosts[b], hosts[a]), slices.Compare(a[:], b[:]))
	})
	m.disputed.Reset()
	for _, k := range most[:min(len(most), maxDisputed)] {
		m.disputed.WithLabelValues(k[1], k[0]).Set(float64(hosts[k]))
	}
}

// read notes that files were read.
func (m *metrics) read(what string, err error) {
	result, stale := "ok", 0.0
	if err != nil {
		result, stale = "error", 1
	}
	m.reads.WithLabelValues(what, result).Inc()
	m.stale.WithLabelValues(what).Set(stale)
}

// expiry shows how long the port's certificates are good for.
func (m *metrics) expiry(i *identity) {
	for name, at := range map[string]func(*loadedTLS) time.Time{
		"server-certificate": func(l *loadedTLS) time.Time { return l.server },
		"client-ca":          func(l *loadedTLS) time.Time { return l.ca },
	} {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_credential_expiry_days", Help: "Days until a certificate of posternd's expires.",
			ConstLabels: prometheus.Labels{"credential": name},
		}, func() float64 { return time.Until(at(i.current.Load())).Hours() / 24 }))
	}
}
