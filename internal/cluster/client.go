package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/connrotation"
)

// client is how an API server is reached.
type client struct {
	objects dynamic.Interface
	raw     rest.Interface
	// drop closes every connection, so that the next request dials anew: one that is
	// dead without a word would be noticed only after most of a minute.
	drop func()
}

// connect reads a kubeconfig's current context, or with an empty name what a pod is
// given in a cluster. It asks the API server nothing yet.
func connect(kubeconfig, agent string) (*client, error) {
	c, err := configOf(kubeconfig)
	if err != nil {
		return nil, err
	}
	c.UserAgent = agent
	c.WarningHandler = rest.NoWarnings{}
	c.QPS, c.Burst = 50, 100 // a dozen watches are opened at once
	dialer := connrotation.NewDialer((&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext)
	c.Dial = dialer.DialContext
	http, err := rest.HTTPClientFor(c)
	if err != nil {
		return nil, err
	}
	objects, err := dynamic.NewForConfigAndClient(c, http)
	if err != nil {
		return nil, err
	}
	raw, err := rest.UnversionedRESTClientForConfigAndClient(dynamic.ConfigFor(c), http)
	if err != nil {
		return nil, err
	}
	return &client{objects: objects, raw: raw, drop: dialer.CloseAll}, nil
}

func configOf(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		c, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, errors.New("no kubeconfig is given, and this is no pod of a cluster")
		}
		return c, err
	}
	file, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil {
		return nil, err
	}
	c, err := clientcmd.NewDefaultClientConfig(*file, &clientcmd.ConfigOverrides{}).ClientConfig()
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", kubeconfig, err)
	case c.ExecProvider != nil || c.AuthProvider != nil:
		return nil, fmt.Errorf("%s: its user has exec or auth-provider: no program is run here, want a token or a certificate", kubeconfig)
	}
	return c, nil
}

// get asks for a path and gives the answer's body.
func (c *client) get(ctx context.Context, path string, within time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return c.raw.Get().AbsPath(path).Do(ctx).Raw()
}
