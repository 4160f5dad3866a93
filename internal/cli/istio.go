package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"postern.dev/postern/internal/translate"
	"postern.dev/postern/internal/world"
)

// istioFlags say which Istio translates the manifests, and what it would have
// fetched.
type istioFlags struct {
	version string
	nearest bool
	jwks    []string
}

func (f *istioFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.version, "istio-version", "", "translate with this Istio: a `VERSION`, a line such as 1.17, or newest (default: istiod's in the manifests)")
	c.Flags().BoolVar(&f.nearest, "istio-nearest", false, "where there is no translator for that line, take the nearest there is; every answer then says so")
	c.Flags().StringArrayVar(&f.jwks, "jwks", nil, "the keys of a token issuer, which a cluster fetches and this does not: `ISSUER=FILE` of a key set (repeatable)")
}

// given tells whether any of the flags was.
func (f *istioFlags) given() bool { return f.version != "" || f.nearest || len(f.jwks) > 0 }

// keys reads the key sets by issuer.
func (f *istioFlags) keys() (map[string]string, error) {
	out := map[string]string{}
	for _, text := range f.jwks {
		issuer, name, ok := strings.Cut(text, "=")
		if !ok || issuer == "" || name == "" {
			return nil, withHint(fmt.Errorf("got --jwks %q, want ISSUER=FILE", text), "for example --jwks http://dex.auth.svc.cluster.local:5556/dex=keys.json")
		}
		if _, twice := out[issuer]; twice {
			return nil, fmt.Errorf("got --jwks for issuer %s twice, want one key set", issuer)
		}
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		set, err := io.ReadAll(io.LimitReader(file, world.MaxJWKS+1))
		if err = errors.Join(err, file.Close()); err != nil {
			return nil, err
		}
		if err := world.CheckJWKS(set); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out[issuer] = string(set)
	}
	return out, nil
}

// hintNearest says what else there is when a line has no translator.
func hintNearest(err error) error {
	if errors.Is(err, translate.ErrNoLine) {
		return withHint(err, "--istio-nearest takes the nearest line there is, and every answer says so")
	}
	return err
}
