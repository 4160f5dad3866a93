package authservice

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// settings is the ConfigMap, checked.
type settings struct {
	issuer      string   // OIDC_PROVIDER
	authURL     string   // OIDC_AUTH_URL: where browsers find the provider; "" is what the provider says
	scopes      []string // OIDC_SCOPES and openid
	redirectURL string   // REDIRECT_URL as the provider knows it
	callback    string   // its path
	skip        []string // SKIP_AUTH_URI: prefixes of paths
	userClaim   string   // USERID_CLAIM
	userHeader  string   // USERID_HEADER
	userPrefix  string   // USERID_PREFIX
}

// parseSettings reads the variables of 28c59ef (main.go) that Kubeflow's
// ConfigMap sets. PORT and STORE_PATH are accepted and not used: the lab does
// the listening, and the original does not read PORT either (its variable is
// SERVER_PORT). Of e236439, Kubeflow 1.7 and 1.8, it reads what that ConfigMap sets
// too (settings.go there): SKIP_AUTH_URLS in SKIP_AUTH_URI's place, and with
// AUTHSERVICE_URL_PREFIX the callback is below that prefix.
func parseSettings(in map[string]string) (settings, error) {
	s := settings{userClaim: "email", userHeader: "kubeflow-userid"} // defaults of 28c59ef
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(in)) { // sorted: errors in a fixed order
		if err := s.set(name, in[name]); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	required := []string{"OIDC_PROVIDER", "OIDC_SCOPES", "REDIRECT_URL"}
	if in["AUTHSERVICE_URL_PREFIX"] != "" {
		required = required[:2]
	}
	for _, name := range required {
		if strings.TrimSpace(in[name]) == "" {
			errs = append(errs, fmt.Errorf("%s: missing", name))
		}
	}
	if !slices.Contains(s.scopes, "openid") {
		s.scopes = append(s.scopes, "openid")
	}
	return s, errors.Join(errs...)
}

func (s *settings) set(name, value string) error {
	switch name {
	case "OIDC_PROVIDER":
		s.issuer = value
		return absoluteURL(value)
	case "OIDC_AUTH_URL":
		s.authURL = value
		return pathOrURL(value)
	case "OIDC_SCOPES":
		s.scopes = strings.Fields(value)
	case "REDIRECT_URL":
		s.redirectURL = value
		if err := pathOrURL(value); err != nil {
			return err
		}
		u, err := url.Parse(value)
		if err != nil || u.Path == "" || u.RawQuery != "" {
			return errors.New("want a path, or a URL with one, without a query")
		}
		s.callback = u.Path
	case "AUTHSERVICE_URL_PREFIX":
		// Unless REDIRECT_URL, which is read later, says where.
		s.redirectURL = strings.TrimSuffix(value, "/") + "/oidc/callback"
		s.callback = s.redirectURL
		return pathOrURL(s.redirectURL)
	case "AFTER_LOGOUT_URL":
		if value != "/" {
			return fmt.Errorf("got %q, only / is supported", value)
		}
	case "SKIP_AUTH_URI", "SKIP_AUTH_URLS":
		s.skip = strings.Fields(value)
		for _, prefix := range s.skip {
			if !strings.HasPrefix(prefix, "/") {
				return fmt.Errorf("got %q, want paths that begin with /", prefix)
			}
		}
	case "USERID_CLAIM":
		s.userClaim = value
		return nonEmpty(value)
	case "USERID_HEADER":
		s.userHeader = value
		if !isHeaderName(value) {
			return fmt.Errorf("got %q, want the name of a header", value)
		}
	case "USERID_PREFIX":
		s.userPrefix = value
		return headerSafe(value)
	case "PORT", "STORE_PATH":
	default:
		return errors.New("unknown setting")
	}
	return nil
}

func nonEmpty(value string) error {
	if value == "" {
		return errors.New("is empty")
	}
	return nil
}

func absoluteURL(value string) error {
	u, err := url.Parse(value)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
		return fmt.Errorf("got %q, want an http or https URL", value)
	}
	return nil
}

// pathOrURL allows the relative URLs that Kubeflow uses: the gateway that a
// browser talks to serves both Dex and the callback.
func pathOrURL(value string) error {
	if returnPath(value) == value || absoluteURL(value) == nil {
		return nil
	}
	return fmt.Errorf("got %q, want a path or an http or https URL", value)
}

func isHeaderName(name string) bool {
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return name != ""
}

// headerSafe refuses what could end a header, or would not arrive as it was
// sent: blanks at its ends are dropped on the way, so that " a@b" became "a@b".
func headerSafe(value string) error {
	if strings.TrimSpace(value) != value {
		return errors.New("begins or ends with a blank")
	}
	for _, c := range []byte(value) {
		if c < ' ' || c == 0x7f {
			return errors.New("has a control character")
		}
	}
	return nil
}
