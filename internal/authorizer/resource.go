package authorizer

import (
	"encoding/json"
	"net/http"
	"slices"

	"postern.dev/postern/internal/territory"
)

// metadataPath is where the metadata of a protected resource are (RFC 9728
// section 3): which issuers' tokens it takes.
const metadataPath = "/.well-known/oauth-protected-resource"

// resourceMetadata are the members of RFC 9728 section 2 that mean something here.
type resourceMetadata struct {
	Resource string   `json:"resource"`
	Issuers  []string `json:"authorization_servers"`
	Methods  []string `json:"bearer_methods_supported"`
	Name     string   `json:"resource_name"`
}

// origin is the model's address as the client knows it. Only the scheme is the
// client's word; it decides nothing. The host is one that the territory knows.
func origin(req Request) string {
	scheme := "http"
	if proto, ok := req.Headers.Only("x-forwarded-proto"); ok && proto == "https" {
		scheme = "https"
	}
	return scheme + "://" + territory.HostOf(req.Host) + portOf(req.Host)
}

// portOf is ":PORT" of an authority, empty when there is none.
func portOf(authority string) string {
	rest := authority[len(territory.HostOf(authority)):]
	for i := range len(rest) {
		if c := rest[i]; i > 0 && (c < '0' || c > '9') {
			return ""
		}
	}
	return rest
}

// described tells whether the metadata of a request's resource are published: a
// host of its own, and an issuer to name.
func (a *Authorizer) described(t territory.Territory) bool {
	return t.Kind == territory.Model && !t.Shared && len(a.issuers()) > 0
}

func (a *Authorizer) issuers() []string {
	var out []string
	for _, is := range a.cfg.Tokens.Issuers {
		if !slices.Contains(out, is.Issuer) {
			out = append(out, is.Issuer)
		}
	}
	return out
}

// metadata answers where the metadata are asked for. It says nothing that a
// refusal does not say, needs no credential, and never reaches the model.
func (a *Authorizer) metadata(req Request, t territory.Territory) (Verdict, bool) {
	if req.Method != http.MethodGet || req.Path != metadataPath || !a.described(t) {
		return Verdict{}, false
	}
	body, err := json.Marshal(resourceMetadata{origin(req), a.issuers(), []string{"header"}, t.Resource.String()})
	if err != nil {
		return Verdict{}, false
	}
	return Verdict{
		Reason: ResourceMetadata, Status: http.StatusOK, How: ByAnonymous, Resource: t.Resource, Body: append(body, '\n'),
		Headers: []Header{{"content-type", "application/json"}, {"cache-control", "no-store"}, {"x-content-type-options", "nosniff"}},
	}, true
}
