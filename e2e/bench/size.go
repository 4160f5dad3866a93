package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"postern.dev/postern/internal/apikey"
)

// moreDir is the folder of the manifests that a small cluster does not have.
const moreDir = "more"

// perFile is how many objects stand in one file of manifests.
const perFile = 5000

// large tells whether posternd is to be measured with a large cluster's objects too.
func (s settings) large() bool { return s.models+s.keys+s.bindings > 0 }

// more writes the further objects of a large cluster: models, keys and bindings,
// spread over as many namespaces as there are bindings.
func (b *bench) more() error {
	s, root := b.settings, filepath.Join(b.dir, "manifests", moreDir)
	if !s.large() {
		return nil
	}
	if err := os.Mkdir(root, 0o700); err != nil {
		return err
	}
	namespace := func(i int) string { return fmt.Sprintf("team-%d", i%max(s.bindings, 1)) }
	var text strings.Builder
	written, files := 0, 0
	flush := func() error {
		name := filepath.Join(root, fmt.Sprintf("more-%03d.yaml", files))
		defer func() { text.Reset(); written = 0; files++ }()
		return os.WriteFile(name, []byte(text.String()), 0o600)
	}
	add := func(format string, args ...any) error {
		fmt.Fprintf(&text, "---\n"+format, args...)
		if written++; written < perFile {
			return nil
		}
		return flush()
	}
	for i := range s.bindings {
		if err := add("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n", namespace(i)); err != nil {
			return err
		}
		if err := add("apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: callers, namespace: %[1]s}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: postern-model-caller}\n"+
			"subjects:\n- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: \"postern:keys:%[1]s\"}\n", namespace(i)); err != nil {
			return err
		}
	}
	for i := range s.models {
		if err := add("apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {name: m%d, namespace: %s}\nspec: {predictor: {sklearn: {storageUri: \"s3://models/m\"}}}\n", i, namespace(i)); err != nil {
			return err
		}
	}
	for i := range s.keys {
		name := fmt.Sprintf("k%d", i)
		_, spec, err := apikey.New(rand.Reader, namespace(i), name)
		if err != nil {
			return err
		}
		if err := add("apiVersion: apikeys.postern.dev/v1alpha1\nkind: ApiKey\nmetadata: {name: %s, namespace: %s}\nspec: {id: %q, hash: %q}\n", name, namespace(i), spec.ID, spec.Hash); err != nil {
			return err
		}
	}
	return flush()
}
