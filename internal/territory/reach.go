package territory

import (
	"slices"

	networking "istio.io/api/networking/v1alpha3"
)

// reach tells which Gateways are at a door for certain and which may be: of
// those configured, the ones whose servers this package understands; of all
// others, those that select pods which the door's Gateways may select too.
func (c *compiler) reach(gateways []string) (sure, maybe map[string]bool) {
	sure, maybe = map[string]bool{}, map[string]bool{}
	tls := 0
	for _, name := range gateways {
		if g := c.gateways[name]; g != nil && hasTLS(g) {
			tls++
		}
	}
	for _, name := range gateways {
		g := c.gateways[name]
		switch {
		case g == nil: // no such Gateway: nothing is bound to it
		case everyHost(g) && !c.odd[name] && (tls == 0 || len(gateways) == 1):
			sure[name] = true
		default:
			maybe[name] = true
		}
	}
	elsewhere := map[string]bool{}
	for _, d := range c.cfg.Doors {
		elsewhere[d.Gateway] = true
	}
	for name, other := range c.gateways {
		if elsewhere[name] {
			continue
		}
		for _, mine := range gateways {
			if g := c.gateways[mine]; g == nil || overlap(g.GetSelector(), other.GetSelector()) {
				maybe[name] = true
			}
		}
	}
	return sure, maybe
}

func hasTLS(g *networking.Gateway) bool {
	return slices.ContainsFunc(g.GetServers(), func(s *networking.Server) bool { return s.GetTls() != nil })
}

// everyHost tells whether all servers take every host of every namespace.
func everyHost(g *networking.Gateway) bool {
	for _, s := range g.GetServers() {
		if len(s.GetHosts()) != 1 || s.GetHosts()[0] != "*" && s.GetHosts()[0] != "*/*" {
			return false
		}
	}
	return len(g.GetServers()) > 0
}

// overlap tells whether one pod could bear both label sets.
func overlap(a, b map[string]string) bool {
	for k, v := range a {
		if w, ok := b[k]; ok && v != w {
			return false
		}
	}
	return true
}
