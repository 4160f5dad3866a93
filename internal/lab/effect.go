package lab

import "net/url"

// PodProxy is the URL of an HTTP proxy that calls as a pod.
func (s *System) PodProxy(namespace, name string) (*url.URL, error) {
	pod, err := s.lookupPod(namespace, name)
	if err != nil {
		return nil, err
	}
	return url.Parse(pod.Proxy)
}

// WithoutEffect says which EnvoyFilters change no route, and why.
func (s *System) WithoutEffect() []string { return s.current.Load().world.WithoutEffect() }
