package kubelet

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	vkerrors "github.com/virtual-kubelet/virtual-kubelet/errdefs"
	"github.com/virtual-kubelet/virtual-kubelet/log"
	"github.com/virtual-kubelet/virtual-kubelet/node"
	"github.com/virtual-kubelet/virtual-kubelet/node/nodeutil"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Program is what an image stands for.
type Program struct {
	Entrypoint []string          // as the image's; a container's command replaces it
	Args       []string          // as the image's command; a container's args replace it
	Env        map[string]string // of the image
	Links      map[string]string // path in the container -> what it is a link to
	Files      map[string]string // path in the container -> contents
	User       int               // of the image
}

// Config is what a Kubelet needs. All fields are required but Binds.
type Config struct {
	Client    kubernetes.Interface
	Node      string // its name
	Address   string // its address, also the pods' way out
	APIServer string // the address of the Service kubernetes.default
	DNS       string // the address of the cluster's name server
	Dir       string // for pods' files; must be on a file system that can be an overlay's upper, such as tmpfs
	Logs      string // for containers' logs
	Self      string // a program that calls Pause for "pause" and Shim for "container FILE"
	Images    func(image string) (Program, error)
	Binds     []string // folders of this machine that every container sees, read-only
	TLS       *tls.Config
	Log       func(format string, args ...any)
}

// Kubelet runs pods. It is virtual-kubelet's provider.
type Kubelet struct {
	Config

	mu        sync.Mutex
	pods      map[string]*pod
	addresses int
	notify    func(*corev1.Pod)
	running   sync.WaitGroup
}

// New is a kubelet that runs nothing yet.
func New(c Config) *Kubelet {
	return &Kubelet{Config: c, pods: map[string]*pod{}, addresses: 16}
}

// Run registers the node and runs its pods until ctx ends. ready is called once.
func (k *Kubelet) Run(ctx context.Context, ready func()) error {
	log.L = logger{print: k.Log}
	mux := http.NewServeMux()
	n, err := nodeutil.NewNode(k.Node, func(nodeutil.ProviderConfig) (nodeutil.Provider, node.NodeProvider, error) { return k, nil, nil },
		nodeutil.WithClient(k.Client), nodeutil.AttachProviderRoutes(mux), func(c *nodeutil.NodeConfig) error {
			c.Handler, c.TLSConfig, c.HTTPListenAddr = mux, k.TLS, k.Address+":10250"
			c.NodeSpec = *k.node()
			c.SkipDownwardAPIResolution = true
			c.NumWorkers = 8
			return nil
		})
	if err != nil {
		return err
	}
	go func() {
		select {
		case <-n.Ready():
			ready()
		case <-ctx.Done():
		}
	}()
	err = n.Run(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (k *Kubelet) node() *corev1.Node {
	room := corev1.ResourceList{"cpu": resource.MustParse("64"), "memory": resource.MustParse("64Gi"), "pods": resource.MustParse("250"), "ephemeral-storage": resource.MustParse("500Gi")}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: k.Node, Labels: map[string]string{
		"kubernetes.io/hostname": k.Node, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}}}
	n.Status = corev1.NodeStatus{Capacity: room, Allocatable: room,
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: k.Address}, {Type: corev1.NodeHostName, Address: k.Node}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: 10250}},
		NodeInfo:        corev1.NodeSystemInfo{KubeletVersion: "v1.34.4-programs", OperatingSystem: "linux", Architecture: "amd64", OSImage: "this machine", ContainerRuntimeVersion: "programs://1"}}
	for _, c := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		status := corev1.ConditionFalse
		if c == corev1.NodeReady {
			status = corev1.ConditionTrue
		}
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: c, Status: status, LastTransitionTime: metav1.Now(), LastHeartbeatTime: metav1.Now()})
	}
	return n
}

func (k *Kubelet) log(format string, args ...any) { k.Log(format, args...) }

func (k *Kubelet) nextAddress() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.addresses++
	return k.addresses
}

func name(namespace, name string) string { return namespace + "/" + name }

func (k *Kubelet) find(namespace, podName string) (*pod, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.pods[name(namespace, podName)]; p != nil {
		return p, nil
	}
	return nil, vkerrors.NotFoundf("pod %s/%s does not run here", namespace, podName)
}

// CreatePod starts a pod. It does not wait for it.
func (k *Kubelet) CreatePod(_ context.Context, spec *corev1.Pod) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if old := k.pods[name(spec.Namespace, spec.Name)]; old != nil && old.spec.UID == spec.UID {
		return nil
	}
	p := newPod(k, spec.DeepCopy())
	k.pods[name(spec.Namespace, spec.Name)] = p
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	k.running.Go(func() { p.run(ctx) })
	return nil
}

// UpdatePod takes the pod's new labels and annotations; nothing else of it can change.
func (k *Kubelet) UpdatePod(_ context.Context, spec *corev1.Pod) error {
	p, err := k.find(spec.Namespace, spec.Name)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spec.Labels, p.spec.Annotations = spec.Labels, spec.Annotations
	return nil
}

// DeletePod ends a pod within its grace period, and tells when it has. It does not wait.
func (k *Kubelet) DeletePod(_ context.Context, spec *corev1.Pod) error {
	p, err := k.find(spec.Namespace, spec.Name)
	if err != nil {
		return err
	}
	grace := 30 * time.Second
	if s := spec.DeletionGracePeriodSeconds; s != nil {
		grace = time.Duration(*s) * time.Second
	}
	p.delete.Do(func() {
		k.running.Go(func() {
			p.terminate(grace)
			k.mu.Lock()
			if k.pods[name(spec.Namespace, spec.Name)] == p {
				delete(k.pods, name(spec.Namespace, spec.Name))
			}
			k.mu.Unlock()
			p.changed()
			// As the kubelet does: virtual-kubelet by itself waits for the end of the grace period, which Knative makes minutes.
			now, uid := int64(0), spec.UID
			err := k.Client.CoreV1().Pods(spec.Namespace).Delete(context.Background(), spec.Name,
				metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &uid}})
			if err != nil && !errors.IsNotFound(err) && !errors.IsConflict(err) {
				k.log("%s/%s: delete its object: %v", spec.Namespace, spec.Name, err)
			}
		})
	})
	return nil
}

// GetPod is a pod that runs here, with its status.
func (k *Kubelet) GetPod(_ context.Context, namespace, podName string) (*corev1.Pod, error) {
	p, err := k.find(namespace, podName)
	if err != nil {
		return nil, err
	}
	return p.object(), nil
}

// GetPodStatus is the status of a pod that runs here.
func (k *Kubelet) GetPodStatus(_ context.Context, namespace, podName string) (*corev1.PodStatus, error) {
	p, err := k.find(namespace, podName)
	if err != nil {
		return nil, err
	}
	s := p.status()
	return &s, nil
}

// GetPods are the pods that run here.
func (k *Kubelet) GetPods(context.Context) ([]*corev1.Pod, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []*corev1.Pod
	for _, p := range k.pods {
		out = append(out, p.spec)
	}
	return out, nil
}

// NotifyPods keeps the function to be told of changes.
func (k *Kubelet) NotifyPods(_ context.Context, f func(*corev1.Pod)) { k.notify = f }

// GetStatsSummary is empty: nothing is measured.
func (k *Kubelet) GetStatsSummary(context.Context) (*stats.Summary, error) {
	return &stats.Summary{}, nil
}

// GetMetricsResource is empty: nothing is measured.
func (k *Kubelet) GetMetricsResource(context.Context) ([]*dto.MetricFamily, error) { return nil, nil }

// object is the pod with its status now.
func (p *pod) object() *corev1.Pod {
	status := p.status()
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.spec.DeepCopy()
	out.Status = status
	return out
}

// changed remembers the pod's status, for the times of its conditions, and tells it.
func (k *Kubelet) changed(p *pod) {
	o := p.object()
	p.mu.Lock()
	p.spec.Status.Conditions = o.Status.Conditions
	p.mu.Unlock()
	if k.notify != nil {
		k.notify(o)
	}
}

func (k *Kubelet) conditionsOf(p *pod) []corev1.PodCondition {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spec.Status.Conditions
}

func missing(namespace, podName, container string) error {
	return fmt.Errorf("pod %s/%s has no running container %q", namespace, podName, container)
}
