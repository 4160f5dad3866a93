package manifest

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// InferenceGraph is KServe's serving.kserve.io/v1alpha1 InferenceGraph
// (github.com/kserve/kserve v0.20.0 pkg/apis/serving/v1alpha1/inference_graph.go).
type InferenceGraph struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              InferenceGraphSpec `json:"spec,omitempty"`
	Status            map[string]any     `json:"status,omitempty"`
}

// InferenceGraphSpec is a router's program: one pod that calls the steps of each
// node, from node "root" on.
type InferenceGraphSpec struct {
	Nodes              map[string]GraphNode        `json:"nodes"`
	Resources          corev1.ResourceRequirements `json:"resources,omitempty"`
	Affinity           *corev1.Affinity            `json:"affinity,omitempty"`
	TimeoutSeconds     *int64                      `json:"timeout,omitempty"`
	RouterTimeouts     map[string]int64            `json:"routerTimeouts,omitempty"`
	MinReplicas        *int32                      `json:"minReplicas,omitempty"`
	MaxReplicas        int32                       `json:"maxReplicas,omitempty"`
	ScaleTarget        *int32                      `json:"scaleTarget,omitempty"`
	ScaleMetric        *string                     `json:"scaleMetric,omitempty"`
	Tolerations        []corev1.Toleration         `json:"tolerations,omitempty"`
	NodeSelector       map[string]string           `json:"nodeSelector,omitempty"`
	NodeName           string                      `json:"nodeName,omitempty"`
	ServiceAccountName string                      `json:"serviceAccountName,omitempty"`
}

// GraphNode is one node: Sequence, Splitter, Ensemble or Switch over its steps.
type GraphNode struct {
	RouterType string      `json:"routerType"`
	Steps      []GraphStep `json:"steps,omitempty"`
}

// GraphStep calls another node, an InferenceService of the namespace, or a URL.
type GraphStep struct {
	StepName                  string `json:"name,omitempty"`
	NodeName                  string `json:"nodeName,omitempty"`
	ServiceName               string `json:"serviceName,omitempty"`
	ServiceURL                string `json:"serviceUrl,omitempty"`
	Data                      string `json:"data,omitempty"`
	MapPredictionsToInstances bool   `json:"mapPredictionsToInstances,omitempty"`
	Weight                    *int64 `json:"weight,omitempty"`
	Condition                 string `json:"condition,omitempty"`
	Dependency                string `json:"dependency,omitempty"`
}
