package manifest

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// InferenceService is KServe's serving.kserve.io/v1beta1 InferenceService
// (github.com/kserve/kserve pkg/apis/serving/v1beta1), as far as Postern reads
// it. A field that is not here is an error, not a guess.
type InferenceService struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              InferenceServiceSpec `json:"spec,omitempty"`
	Status            map[string]any       `json:"status,omitempty"`
}

// InferenceServiceSpec names the components; only the predictor is required.
type InferenceServiceSpec struct {
	Predictor   Component  `json:"predictor"`
	Transformer *Component `json:"transformer,omitempty"`
	Explainer   *Component `json:"explainer,omitempty"`
}

// Component is a predictor, transformer or explainer: a pod spec and, for a
// predictor, one model framework.
type Component struct {
	corev1.PodSpec `json:",inline"`

	MinReplicas          *int32         `json:"minReplicas,omitempty"`
	MaxReplicas          int32          `json:"maxReplicas,omitempty"`
	ScaleTarget          *int32         `json:"scaleTarget,omitempty"`
	ScaleMetric          *string        `json:"scaleMetric,omitempty"`
	ScaleMetricType      *string        `json:"scaleMetricType,omitempty"`
	AutoScaling          map[string]any `json:"autoScaling,omitempty"`
	ContainerConcurrency *int64         `json:"containerConcurrency,omitempty"`
	TimeoutSeconds       *int64         `json:"timeout,omitempty"`
	CanaryTrafficPercent *int64         `json:"canaryTrafficPercent,omitempty"`
	Logger               map[string]any `json:"logger,omitempty"`
	Batcher              map[string]any `json:"batcher,omitempty"`
	DeploymentStrategy   map[string]any `json:"deploymentStrategy,omitempty"`

	// Labels and Annotations come to the component's Knative Service beside the
	// InferenceService's own.
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`

	StorageURIs          []map[string]any `json:"storageUris,omitempty"`
	StorageContainerName *string          `json:"storageContainerName,omitempty"`

	Model       *ModelSpec     `json:"model,omitempty"`
	SKLearn     *FrameworkSpec `json:"sklearn,omitempty"`
	XGBoost     *FrameworkSpec `json:"xgboost,omitempty"`
	LightGBM    *FrameworkSpec `json:"lightgbm,omitempty"`
	Tensorflow  *FrameworkSpec `json:"tensorflow,omitempty"`
	PyTorch     *FrameworkSpec `json:"pytorch,omitempty"`
	Triton      *FrameworkSpec `json:"triton,omitempty"`
	ONNX        *FrameworkSpec `json:"onnx,omitempty"`
	PMML        *FrameworkSpec `json:"pmml,omitempty"`
	Paddle      *FrameworkSpec `json:"paddle,omitempty"`
	HuggingFace *FrameworkSpec `json:"huggingface,omitempty"`
}

// FrameworkSpec is PredictorExtensionSpec: where the model is and the
// container that serves it.
type FrameworkSpec struct {
	corev1.Container `json:",inline"`
	StorageURI       *string        `json:"storageUri,omitempty"`
	RuntimeVersion   *string        `json:"runtimeVersion,omitempty"`
	ProtocolVersion  *string        `json:"protocolVersion,omitempty"`
	Storage          map[string]any `json:"storage,omitempty"`
	Confidential     map[string]any `json:"confidential,omitempty"`
}

// ModelSpec is the newer form, `model:` with a format's name.
type ModelSpec struct {
	FrameworkSpec `json:",inline"`
	ModelFormat   struct {
		Name    string  `json:"name"`
		Version *string `json:"version,omitempty"`
	} `json:"modelFormat"`
	Runtime *string `json:"runtime,omitempty"`
}

// Framework is the predictor's model format ("sklearn") and its spec, or ""
// for a predictor of its own containers.
func (c *Component) Framework() (string, *FrameworkSpec) {
	if c.Model != nil {
		return c.Model.ModelFormat.Name, &c.Model.FrameworkSpec
	}
	for _, f := range []struct {
		name string
		spec *FrameworkSpec
	}{
		{"sklearn", c.SKLearn}, {"xgboost", c.XGBoost}, {"lightgbm", c.LightGBM}, {"tensorflow", c.Tensorflow},
		{"pytorch", c.PyTorch}, {"triton", c.Triton}, {"onnx", c.ONNX}, {"pmml", c.PMML},
		{"paddle", c.Paddle}, {"huggingface", c.HuggingFace},
	} {
		if f.spec != nil {
			return f.name, f.spec
		}
	}
	return "", nil
}
