package explain

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/topology"
)

// kind of program that answers a gateway's checks.
type program string

const (
	authservice program = "authservice"
	oauth2Proxy program = "oauth2-proxy"
	posterndApp program = "posternd"
)

// login is a program that answers checks, as far as the manifests tell.
type login struct {
	program  program
	service  string // as the cluster names it
	settings map[string]string
}

// said is what a login answers, or why that cannot be told.
type said struct {
	status       int
	headers      envoy.Headers
	assumed      string
	undetermined string
}

// loginOf finds what runs behind a cluster: by its pods' image, as a kubelet
// does, else by the Service's name.
func (s *System) loginOf(cluster string) login {
	l := login{service: backendOf(cluster)}
	namespace, _, _ := strings.Cut(l.service, "/")
	var pod *topology.Pod
	if eps, err := s.world.Topology.Cluster(cluster); err == nil && len(eps[0].Pod.Containers) > 0 {
		pod = eps[0].Pod
	}
	hint := l.service
	if pod != nil {
		hint, namespace = pod.Containers[0].Image, pod.Namespace
	}
	switch {
	case strings.Contains(hint, "authservice"):
		l.program = authservice
		l.settings = s.configMap(namespace, func(name string, data map[string]string) bool {
			_, ok := data["OIDC_PROVIDER"]
			return ok
		})
	case strings.Contains(hint, "oauth2-proxy"):
		l.program = oauth2Proxy
		data := s.configMap(namespace, func(_ string, data map[string]string) bool { _, ok := data["oauth2_proxy.cfg"]; return ok })
		l.settings = oauth2Settings(data["oauth2_proxy.cfg"])
		if pod != nil {
			oauth2Flags(l.settings, pod.Containers[0].Args)
		}
	case strings.Contains(hint, "posternd"):
		l.program = posterndApp
	}
	return l
}

func (s *System) configMap(namespace string, is func(string, map[string]string) bool) map[string]string {
	for o, cm := range manifest.Of[*corev1.ConfigMap](s.world.Set) {
		if o.Meta.Namespace == namespace && is(o.Meta.Name, cm.Data) {
			return cm.Data
		}
	}
	return map[string]string{}
}

var (
	cfgComment = regexp.MustCompile(`(?m)^\s*#.*$`)
	cfgLine    = regexp.MustCompile(`(?ms)^\s*([a-z0-9_]+)\s*=\s*(\[.*?\]|"[^"]*"|\S+)`)
	cfgString  = regexp.MustCompile(`"([^"]*)"`)
)

// oauth2Settings reads oauth2_proxy.cfg as far as explain looks: strings, bare
// words, and lists of strings, which are joined by newlines.
func oauth2Settings(cfg string) map[string]string {
	out := map[string]string{}
	for _, m := range cfgLine.FindAllStringSubmatch(cfgComment.ReplaceAllString(cfg, ""), -1) {
		value := m[2]
		if strings.HasPrefix(value, "[") || strings.HasPrefix(value, `"`) {
			var list []string
			for _, s := range cfgString.FindAllStringSubmatch(value, -1) {
				list = append(list, s[1])
			}
			value = strings.Join(list, "\n")
		}
		out[m[1]] = value
	}
	return out
}

// oauth2Flags puts oauth2-proxy's flags over the settings of its file, as the program
// does. A flag is called as the setting of the file, with dashes and, where there may be
// several, in the singular (pkg/apis/options: flag and cfg of each field).
func oauth2Flags(settings map[string]string, args []string) {
	lists := map[string][]string{}
	for _, a := range args {
		name, value, valued := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if !strings.HasPrefix(a, "-") {
			continue
		}
		if !valued {
			value = "true"
		}
		switch name = strings.ReplaceAll(name, "-", "_"); name {
		case "skip_auth_route", "api_route":
			lists[name+"s"] = append(lists[name+"s"], value)
		case "skip_auth_regex":
			lists[name] = append(lists[name], value)
		default:
			settings[name] = value
		}
	}
	for name, list := range lists {
		settings[name] = strings.Join(list, "\n")
	}
}

// question is what a login is asked.
type question struct {
	method, path string
	headers      envoy.Headers
}

// answer is the login's answer: the stated one, or as this program answers the
// session of a person, or nobody's.
func (l login) answer(c Call, q question) said {
	if c.Authz != nil {
		a := said{status: c.Authz.Status, assumed: fmt.Sprintf("%s answers %d, as stated", l.service, c.Authz.Status)}
		for _, h := range c.Authz.Headers {
			a.headers.Add(strings.ToLower(h[0]), h[1])
		}
		return a
	}
	path, _, _ := strings.Cut(q.path, "?")
	switch l.program {
	case authservice:
		return l.authservice(c.Session, path, q)
	case oauth2Proxy:
		return l.oauth2(c.Session, path, q)
	}
	return said{undetermined: "the answer of authorizer " + l.service + " is not known: state it (--authz STATUS)"}
}

// The logins' cookies; oauth2-proxy's unless cookie_name says otherwise.
const (
	sessionCookie       = "authservice_session"
	defaultOAuth2Cookie = "_oauth2_proxy"
)

// sessionCookieName is the cookie in which a client of these manifests shows a
// session.
func (s *System) sessionCookieName() string {
	for _, wl := range s.world.Topology.Workloads() {
		if len(wl.Pods) > 0 && len(wl.Pods[0].Containers) > 0 && strings.Contains(wl.Pods[0].Containers[0].Image, "oauth2-proxy") {
			data := s.configMap(wl.Namespace, func(_ string, data map[string]string) bool { _, ok := data["oauth2_proxy.cfg"]; return ok })
			return orElse(oauth2Settings(data["oauth2_proxy.cfg"])["cookie_name"], defaultOAuth2Cookie)
		}
	}
	return sessionCookie
}

func carries(q question, cookie string) bool {
	cookies, _ := q.headers.Get("cookie")
	for part := range strings.SplitSeq(cookies, ";") {
		if name, _, _ := strings.Cut(strings.TrimSpace(part), "="); name == cookie {
			return true
		}
	}
	return false
}

// authservice answers as arrikto/oidc-authservice does.
func (l login) authservice(session, path string, q question) said {
	setting := func(name, otherwise string) string {
		if v := l.settings[name]; v != "" {
			return v
		}
		return otherwise
	}
	for _, prefix := range strings.Fields(setting("SKIP_AUTH_URI", "/dex")) {
		if strings.HasPrefix(path, prefix) {
			return said{status: 200, assumed: fmt.Sprintf("%s lets every path that begins with %s through without looking (SKIP_AUTH_URI)", l.service, prefix)}
		}
	}
	callback := setting("REDIRECT_URL", "/login/oidc")
	switch {
	case path == callback || strings.HasSuffix(callback, path) && strings.Contains(callback, "://") && path != "/", path == "/logout", path == "/authservice/logout":
		return said{undetermined: fmt.Sprintf("path %s is %s's own: what it answers is not known (--authz STATUS)", path, l.service)}
	case q.method == "OPTIONS":
		return said{undetermined: l.service + ": authservice of Kubeflow 1.3 to 1.6 answers OPTIONS with 200 by itself, others judge it (--authz STATUS)"}
	case session != "" && carries(q, sessionCookie):
		header := strings.ToLower(setting("USERID_HEADER", "kubeflow-userid"))
		user := l.settings["USERID_PREFIX"] + session
		return said{status: 200, headers: envoy.Headers{{Name: header, Value: user}}, assumed: fmt.Sprintf("%s knows the session of %s: 200 with %s: %s", l.service, session, header, user)}
	}
	if undetermined := l.shows(q, sessionCookie, "x-auth-token"); undetermined != "" && session == "" {
		return said{undetermined: undetermined}
	}
	location := setting("OIDC_AUTH_URL", strings.TrimSuffix(setting("OIDC_PROVIDER", "/dex"), "/")+"/auth")
	return said{status: 302, headers: envoy.Headers{{Name: "location", Value: location}},
		assumed: fmt.Sprintf("no session: %s answers 302 to %s (its query is left out)", l.service, location)}
}

// oauth2 answers as oauth2-proxy does (pkg/middleware and oauthproxy.go).
func (l login) oauth2(session, path string, q question) said {
	for _, list := range []string{l.settings["skip_auth_routes"], l.settings["skip_auth_regex"]} {
		for _, expr := range strings.Fields(list) {
			if re, err := regexp.Compile(expr); err == nil && re.MatchString(path) {
				return said{status: 200, assumed: fmt.Sprintf("%s lets paths that match %s through without looking", l.service, expr)}
			}
		}
	}
	if strings.HasPrefix(path, "/oauth2/") {
		return said{undetermined: fmt.Sprintf("path %s is %s's own: what it answers is not known (--authz STATUS)", path, l.service)}
	}
	cookie := orElse(l.settings["cookie_name"], defaultOAuth2Cookie)
	if session != "" && carries(q, cookie) {
		if l.settings["set_authorization_header"] == "true" {
			return said{undetermined: fmt.Sprintf("%s answers the session of %s with a token of the identity provider, which is not known here (--authz '200,authorization=Bearer TOKEN')", l.service, session)}
		}
		return said{status: 200, headers: envoy.Headers{{Name: "x-auth-request-user", Value: session}, {Name: "x-auth-request-email", Value: session}},
			assumed: fmt.Sprintf("%s knows the session of %s", l.service, session)}
	}
	credentials := []string{}
	if l.settings["skip_jwt_bearer_tokens"] == "true" {
		credentials = append(credentials, "authorization")
	}
	if undetermined := l.shows(q, cookie, credentials...); undetermined != "" && session == "" {
		return said{undetermined: undetermined}
	}
	return l.signIn(path, q)
}

// signIn is oauth2-proxy's answer to nobody (ErrNeedsLogin in oauthproxy.go).
func (l login) signIn(path string, q question) said {
	accept, _ := q.headers.Get("accept")
	api := strings.Contains(accept, "application/json")
	for _, expr := range strings.Fields(l.settings["api_routes"]) {
		if re, err := regexp.Compile(expr); err == nil && re.MatchString(path) {
			api = true
		}
	}
	switch {
	case api:
		return said{status: 401, assumed: "no session: " + l.service + " answers 401 to API calls"}
	case l.settings["skip_provider_button"] == "true":
		location := orElse(l.settings["login_url"], "/dex/auth")
		return said{status: 302, headers: envoy.Headers{{Name: "location", Value: location}},
			assumed: fmt.Sprintf("no session: %s answers 302 to %s (its query is left out)", l.service, location)}
	}
	return said{status: 403, headers: envoy.Headers{{Name: "content-type", Value: "text/html; charset=utf-8"}},
		assumed: "no session: " + l.service + " answers 403 with its sign-in page (skip_provider_button is not set)"}
}

// shows tells that a request carries what could be a session, which nobody here
// can look up.
func (l login) shows(q question, cookie string, headers ...string) string {
	const hint = ": state it (--session USER, or --authz STATUS)"
	cookies, _ := q.headers.Get("cookie")
	for part := range strings.SplitSeq(cookies, ";") {
		if name, _, _ := strings.Cut(strings.TrimSpace(part), "="); strings.HasPrefix(name, cookie) {
			return fmt.Sprintf("whether %s knows the session of the request's cookie %s is not known", l.service, name) + hint
		}
	}
	for _, name := range headers {
		if _, ok := q.headers.Get(name); ok {
			return fmt.Sprintf("whether %s takes the request's %s is not known", l.service, name) + hint
		}
	}
	return ""
}
