package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"postern.dev/postern/e2e/cluster/kubelet"
)

// bringUp starts everything, in the order in which one needs the other.
func (c *cluster) bringUp(ctx context.Context) error {
	ca, err := newAuthority(filepath.Join(c.run, "pki"))
	if err != nil {
		return err
	}
	if err := c.controlPlane(ctx, ca); err != nil {
		return err
	}
	if err := c.node(ctx, ca); err != nil {
		return err
	}
	if err := c.install(ctx, ca); err != nil {
		return err
	}
	return nil
}

const insideServer = "https://" + nodeAddress + ":6443"

// controlPlane starts etcd, the API server, its controllers and the scheduler.
func (c *cluster) controlPlane(ctx context.Context, ca *authority) error {
	hosts := []string{"localhost", "127.0.0.1", nodeAddress, apiService, "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	_, _, err1 := ca.issue("apiserver", "kube-apiserver", nil, hosts)
	_, _, err2 := ca.issue("apiserver-kubelet", "kube-apiserver-kubelet-client", []string{"system:masters"}, nil)
	_, _, err3 := ca.issue("service-account", "service-accounts", nil, nil)
	_, _, err4 := ca.issue("front-proxy", "front-proxy-client", nil, nil)
	err5 := ca.kubeconfig(filepath.Join(c.state, "kubeconfig"), "https://"+doors["api"], "admin", "system:masters")
	err6 := ca.kubeconfig(c.kubeconfig(), insideServer, "admin-inside", "system:masters")
	err7 := ca.kubeconfig(ca.file("controller-manager.conf"), insideServer, "system:kube-controller-manager")
	err8 := ca.kubeconfig(ca.file("scheduler.conf"), insideServer, "system:kube-scheduler")
	err9 := ca.kubeconfig(ca.file("proxy.conf"), insideServer, "system:kube-proxy")
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7, err8, err9); err != nil {
		return err
	}
	if err := c.program("etcd", nil, "--data-dir", filepath.Join(c.run, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380"); err != nil {
		return err
	}
	if err := c.program("kube-apiserver", nil,
		"--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0", "--secure-port=6443", "--advertise-address="+nodeAddress,
		"--tls-cert-file="+ca.file("apiserver.crt"), "--tls-private-key-file="+ca.file("apiserver.key"), "--client-ca-file="+ca.file("ca.crt"),
		"--kubelet-client-certificate="+ca.file("apiserver-kubelet.crt"), "--kubelet-client-key="+ca.file("apiserver-kubelet.key"), "--kubelet-certificate-authority="+ca.file("ca.crt"),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-key-file="+ca.file("service-account.crt"), "--service-account-signing-key-file="+ca.file("service-account.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--api-audiences=https://kubernetes.default.svc.cluster.local,istio-ca",
		"--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=Node,RBAC", "--allow-privileged",
		"--requestheader-client-ca-file="+ca.file("ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+ca.file("front-proxy.crt"), "--proxy-client-key-file="+ca.file("front-proxy.key"), "--enable-aggregator-routing"); err != nil {
		return err
	}
	if err := c.until(ctx, 3*time.Minute, func() error { return c.kubectl(ctx, nil, "get", "--raw=/readyz") }); err != nil {
		return fmt.Errorf("kube-apiserver: %w", err)
	}
	c.say("the API server answers")
	if err := c.program("kube-controller-manager", nil, "--kubeconfig="+ca.file("controller-manager.conf"), "--leader-elect=false",
		"--service-account-private-key-file="+ca.file("service-account.key"), "--root-ca-file="+ca.file("ca.crt"), "--use-service-account-credentials",
		"--node-monitor-grace-period=5m"); err != nil {
		return err
	}
	if err := c.program("kube-scheduler", nil, "--kubeconfig="+ca.file("scheduler.conf"), "--leader-elect=false"); err != nil {
		return err
	}
	return c.door("api", nodeAddress+":6443")
}

func (c *cluster) kubeconfig() string { return filepath.Join(c.run, "kubeconfig") }

// node starts what a node has: the kubelet's stand-in, kube-proxy and the cluster's name server.
func (c *cluster) node(ctx context.Context, ca *authority) error {
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig())
	if err != nil {
		return err
	}
	config.QPS, config.Burst = 200, 400
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if _, _, err := ca.issue("kubelet", "system:node:"+nodeName, []string{"system:nodes"}, []string{nodeName, nodeAddress}); err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(ca.file("kubelet.crt"), ca.file("kubelet.key"))
	if err != nil {
		return err
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(ca.pem)
	log, err := os.Create(filepath.Join(c.state, "logs", "kubelet.log"))
	if err != nil {
		return err
	}
	binds, err := c.binds()
	if err != nil {
		return err
	}
	k := kubelet.New(kubelet.Config{
		Client: client, Node: nodeName, Address: nodeAddress, APIServer: apiService, DNS: dnsService,
		Dir: filepath.Join(c.run, "pods"), Logs: filepath.Join(c.state, "logs"), Self: c.self, Images: c.image, Binds: binds,
		TLS: &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert},
		Log: func(format string, args ...any) {
			fmt.Fprintf(log, time.Now().Format("15:04:05.000 ")+format+"\n", args...)
		},
	})
	ready := make(chan struct{})
	go func() {
		if err := k.Run(ctx, func() { close(ready) }); err != nil {
			c.failed <- fmt.Errorf("kubelet's stand-in: %w", err)
		}
	}()
	select {
	case <-ready:
	case err := <-c.failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := c.program("kube-proxy", nil, "--kubeconfig="+ca.file("proxy.conf"), "--hostname-override="+nodeName, "--proxy-mode=nftables", "--cluster-cidr=10.244.0.0/16",
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0"); err != nil {
		return err
	}
	corefile := filepath.Join(c.run, "Corefile")
	text := fmt.Sprintf(`.:53 {
    bind %s
    errors
    kubernetes cluster.local in-addr.arpa {
        kubeconfig %s
        pods insecure
        ttl 1
    }
}
`, nodeAddress, c.kubeconfig())
	if err := os.WriteFile(corefile, []byte(text), 0o644); err != nil {
		return err
	}
	if err := c.start("coredns", nil, c.self, "coredns", corefile); err != nil {
		return err
	}
	c.say("the node is ready")
	return c.apply(ctx, fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: %[1]s
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
endpoints: [{addresses: ["%[2]s"]}]
`, dnsService, nodeAddress))
}

// kubectl runs the real one, as the administrator.
func (c *cluster) kubectl(ctx context.Context, stdin *string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(c.tools, "cluster", "kubectl"), append([]string{"--kubeconfig", c.kubeconfig()}, args...)...)
	if stdin != nil {
		cmd.Stdin = strings.NewReader(*stdin)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		text := strings.TrimSpace(string(out))
		if len(text) > 2000 {
			text = text[:2000] + " ..."
		}
		return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, text)
	}
	return nil
}

// apply is kubectl apply, on the server's side.
func (c *cluster) apply(ctx context.Context, manifests string) error {
	return c.kubectl(ctx, &manifests, "apply", "--server-side", "--force-conflicts", "--filename=-")
}
