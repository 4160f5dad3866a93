package manifest

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// APIKey is apikeys.postern.dev/v1alpha1 ApiKey: what is known of an API key
// without knowing the key. The key itself is shown once, when it is made, and
// kept nowhere.
type APIKey struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              APIKeySpec     `json:"spec"`
	Status            map[string]any `json:"status,omitempty"`
}

// APIKeySpec is what decides; internal/apikey makes it and says what is valid.
type APIKeySpec struct {
	// ID is the part of the key's text by which its object is found. It must be
	// the only one in the cluster: of two objects with one id neither is taken.
	ID string `json:"id"`
	// Hash is the SHA-256, in hexadecimal, of the secret together with the
	// object's namespace and name: copied to another object it fits no key.
	Hash string `json:"hash"`
	// Expires is when the key ends. Without it the key does not end.
	Expires *metav1.Time `json:"expires,omitempty"`
	// Owner is who answers for the key, for people to read.
	Owner string `json:"owner,omitempty"`
	// Disabled keeps the key from being taken while its object stays.
	Disabled bool `json:"disabled,omitempty"`
}
