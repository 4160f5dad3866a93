package kubelet

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// probing runs one probe of a container until ctx ends, and tells result each time its verdict changes.
func (c *container) probing(ctx context.Context, probe *corev1.Probe, result func(ok bool)) {
	if !wait(ctx, seconds(probe.InitialDelaySeconds, 0)) {
		return
	}
	good, bad := 0, 0
	for {
		if err := c.probeOnce(ctx, probe); err == nil {
			good, bad = good+1, 0
			if good == max(1, int(probe.SuccessThreshold)) {
				result(true)
			}
		} else {
			if ctx.Err() != nil {
				return
			}
			good, bad = 0, bad+1
			c.note("probe failed: %v", err)
			if bad == max(1, int(probe.FailureThreshold)) {
				result(false)
			}
		}
		period := seconds(probe.PeriodSeconds, 10)
		if good == 0 && bad < 30 { // as Knative's queue proxy hopes for: soon after the start, not after ten seconds
			period = min(period, time.Second)
		}
		if !wait(ctx, period) {
			return
		}
	}
}

func seconds(n int32, otherwise int) time.Duration {
	if n == 0 {
		return time.Duration(otherwise) * time.Second
	}
	return time.Duration(n) * time.Second
}

func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (c *container) probeOnce(ctx context.Context, probe *corev1.Probe) error {
	ctx, cancel := context.WithTimeout(ctx, seconds(probe.TimeoutSeconds, 1)+time.Second) // a loaded machine's second is short
	defer cancel()
	switch {
	case probe.HTTPGet != nil:
		return c.httpGet(ctx, probe.HTTPGet)
	case probe.TCPSocket != nil:
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(c.pod.ip, c.port(probe.TCPSocket.Port)))
		if err == nil {
			conn.Close()
		}
		return err
	case probe.Exec != nil:
		return c.enter(ctx, probe.Exec.Command).Run()
	case probe.GRPC != nil:
		conn, err := grpc.NewClient(net.JoinHostPort(c.pod.ip, strconv.Itoa(int(probe.GRPC.Port))), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		request := &health.HealthCheckRequest{}
		if probe.GRPC.Service != nil {
			request.Service = *probe.GRPC.Service
		}
		got, err := health.NewHealthClient(conn).Check(ctx, request)
		if err == nil && got.Status != health.HealthCheckResponse_SERVING {
			err = fmt.Errorf("got %s", got.Status)
		}
		return err
	}
	return nil
}

var prober = &http.Client{
	Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}, // as the kubelet: probes prove nothing
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func (c *container) httpGet(ctx context.Context, get *corev1.HTTPGetAction) error {
	scheme, host := "http", get.Host
	if get.Scheme == corev1.URISchemeHTTPS {
		scheme = "https"
	}
	if host == "" {
		host = c.pod.ip
	}
	r, err := http.NewRequestWithContext(ctx, "GET", scheme+"://"+net.JoinHostPort(host, c.port(get.Port))+get.Path, nil)
	if err != nil {
		return err
	}
	r.Header.Set("User-Agent", "kube-probe/1.34")
	for _, h := range get.HTTPHeaders {
		if http.CanonicalHeaderKey(h.Name) == "Host" {
			r.Host = h.Value
		}
		r.Header.Add(h.Name, h.Value)
	}
	answer, err := prober.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode < 200 || answer.StatusCode >= 400 {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 300))
		return fmt.Errorf("got %s: %s", answer.Status, text)
	}
	return nil
}

// port is a number, or a container port's by its name.
func (c *container) port(p intstr.IntOrString) string {
	if p.Type == intstr.Int {
		return strconv.Itoa(int(p.IntVal))
	}
	for _, of := range c.pod.containers() {
		for _, named := range of.spec.Ports {
			if named.Name == p.StrVal {
				return strconv.Itoa(int(named.ContainerPort))
			}
		}
	}
	return p.StrVal
}
