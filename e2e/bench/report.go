package main

import (
	"fmt"
	"io"
	"slices"
)

// report is the result: medians over the rounds.
type report struct {
	Variants []row `json:"variants"`
}

type row struct {
	Name    string     `json:"name"`
	Median  window     `json:"median"`
	ToNoop  float64    `json:"authorizerToNoop"` // median of the rounds' ratios
	OfNone  float64    `json:"throughputOfNone"`
	Rounds  []window   `json:"rounds"`
	LowHigh [2]float64 `json:"authorizerToNoopRange"`
	Added   float64    `json:"p99AddedMilliseconds"` // to no authorizer's, median of the rounds
}

func summarize(variants []*variant) report {
	var r report
	none, noop := variants[0].Windows, variants[1].Windows
	for _, v := range variants {
		out := row{Name: v.Name, Rounds: v.Windows, Median: window{
			PerSecond: median(v.Windows, func(w window) float64 { return w.PerSecond }), P50: median(v.Windows, func(w window) float64 { return w.P50 }),
			Resident: median(v.Windows, func(w window) float64 { return w.Resident }),
			P99:      median(v.Windows, func(w window) float64 { return w.P99 }), Authorizer: median(v.Windows, func(w window) float64 { return w.Authorizer }),
			Envoy: median(v.Windows, func(w window) float64 { return w.Envoy }), Requests: int(median(v.Windows, func(w window) float64 { return float64(w.Requests) })),
		}}
		var toNoop, ofNone, added []float64
		for i, w := range v.Windows {
			if noop[i].Authorizer > 0 {
				toNoop = append(toNoop, w.Authorizer/noop[i].Authorizer)
			}
			ofNone = append(ofNone, w.PerSecond/none[i].PerSecond)
			added = append(added, w.P99-none[i].P99)
		}
		out.ToNoop, out.OfNone, out.Added = middle(toNoop), middle(ofNone), middle(added)
		if len(toNoop) > 0 {
			out.LowHigh = [2]float64{slices.Min(toNoop), slices.Max(toNoop)}
		}
		r.Variants = append(r.Variants, out)
	}
	return r
}

func median(ws []window, of func(window) float64) float64 {
	values := make([]float64, 0, len(ws))
	for _, w := range ws {
		values = append(values, of(w))
	}
	return middle(values)
}

func middle(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

func (r report) print(w io.Writer) {
	fmt.Fprintf(w, "| variant | authorizer us/check | x no-op (min-max) | Envoy us/req | req/s | of none | p50 ms | p99 ms (added) | MB |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, v := range r.Variants {
		m := v.Median
		asked, ratio := "-", "-"
		if m.Authorizer > 0 {
			asked = fmt.Sprintf("%.0f", m.Authorizer)
			ratio = fmt.Sprintf("%.2f (%.2f-%.2f)", v.ToNoop, v.LowHigh[0], v.LowHigh[1])
		}
		fmt.Fprintf(w, "| %s | %s | %s | %.0f | %.0f | %.2f | %.1f | %.1f (%+.1f) | %.0f |\n", v.Name, asked, ratio, m.Envoy, m.PerSecond, v.OfNone, m.P50, m.P99, v.Added, m.Resident)
	}
}
