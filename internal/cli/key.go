package cli

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"postern.dev/postern/internal/apikey"
	"postern.dev/postern/internal/cluster"
	"postern.dev/postern/internal/manifest"
)

// keyFlags are those of all key commands.
type keyFlags struct {
	kubeconfig, context, namespace string
}

func (f *keyFlags) open() (*cluster.Keys, error) {
	return cluster.OpenKeys(f.kubeconfig, f.context, f.namespace)
}

func keyCommand(s streams) *cobra.Command {
	f := &keyFlags{}
	c := &cobra.Command{
		Use:   "key",
		Short: "Make, list and revoke API keys",
		Long: `An API key is for a program that has no token of its own. Its object (ApiKey of
apikeys.postern.dev) holds a hash; the key's text is shown once, when it is made. In
RBAC the key is the user postern:key:NAMESPACE:NAME, of group postern:keys:NAMESPACE.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.PersistentFlags().StringVar(&f.kubeconfig, "kubeconfig", "", "the cluster's `FILE`, default as kubectl's")
	c.PersistentFlags().StringVar(&f.context, "context", "", "another context of it")
	c.PersistentFlags().StringVarP(&f.namespace, "namespace", "n", "", "default the context's")
	c.AddCommand(keyCreate(s, f), keyList(s, f), keyRevoke(s, f))
	return c
}

func keyCreate(s streams, f *keyFlags) *cobra.Command {
	var owner, output string
	var life time.Duration
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a key and show its text, once",
		Long: `Create makes a key and its object, and prints the key's text: it is kept nowhere and
cannot be shown again.

-o yaml asks no cluster: the object goes to standard output, for kubectl apply -f -,
and the key's text to standard error. The object is good in that namespace and under
that name only.`,
		Example: `  postern key create nightly -n team-a --owner ada@example.com --expires 720h
  postern key create nightly -n team-a -o yaml | kubectl apply -f -
  kubectl create rolebinding nightly -n team-a --clusterrole=postern-model-caller --user=postern:key:team-a:nightly`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case output != "" && output != "yaml":
				return fmt.Errorf("-o: got %q, want yaml", output)
			case life < 0:
				return fmt.Errorf("--expires: got %s, want a time from now on", life)
			case output == "yaml" && f.namespace == "":
				return withHint(errors.New("-o yaml asks no cluster, so it needs a namespace"), "-n NAMESPACE")
			}
			expires := time.Time{}
			if life > 0 {
				expires = time.Now().Add(life)
			}
			return s.createKey(c.Context(), f, args[0], owner, expires, output == "yaml")
		},
	}
	c.Flags().StringVar(&owner, "owner", "", "who answers for the key, for people to read")
	c.Flags().DurationVar(&life, "expires", 0, "how long the key is good for, such as 720h; default for ever")
	c.Flags().StringVarP(&output, "output", "o", "", "yaml: print the object and create nothing")
	return c
}

func (s streams) createKey(ctx context.Context, f *keyFlags, name, owner string, expires time.Time, print bool) error {
	keys := &cluster.Keys{Namespace: f.namespace}
	if !print {
		var err error
		if keys, err = f.open(); err != nil {
			return err
		}
	}
	text, spec, err := apikey.New(rand.Reader, keys.Namespace, name)
	if err != nil {
		return err
	}
	spec.Owner = owner
	if !expires.IsZero() {
		spec.Expires = &metav1.Time{Time: expires.UTC().Truncate(time.Second)}
	}
	o, err := cluster.KeyObject(keys.Namespace, name, spec)
	if err != nil {
		return err
	}
	object, err := yaml.Marshal(o)
	if err != nil {
		return err
	}
	if _, err := manifest.Bytes("key", object); err != nil {
		return err // a name that no API server would take
	}
	if print {
		s.say("the key, shown this once: %s", text)
		_, err := s.out.Write(object)
		return err
	}
	if err := keys.Create(ctx, name, spec); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(s.out, text); err != nil {
		return fmt.Errorf("the key was made and could not be shown: %w\nrevoke it: postern key revoke %s -n %s", err, name, keys.Namespace)
	}
	s.say("shown this once; in RBAC it is user postern:key:%s:%s", keys.Namespace, name)
	s.say("hint: kubectl create rolebinding %[2]s -n %[1]s --clusterrole=postern-model-caller --user=postern:key:%[1]s:%[2]s", keys.Namespace, name)
	return nil
}

// shownKey is one line of a list.
type shownKey struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	ID        string `json:"id"`
	Owner     string `json:"owner,omitempty"`
	Expires   string `json:"expires,omitempty"`
	State     string `json:"state"` // valid, expired, disabled, deleted, invalid
}

func keyList(s streams, f *keyFlags) *cobra.Command {
	var all bool
	var output string
	c := &cobra.Command{
		Use:   "list",
		Short: "List keys: whose they are, until when, and whether they count",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return fmt.Errorf("-o: got %q, want json", output)
			}
			keys, err := f.open()
			if err != nil {
				return err
			}
			objects, err := keys.List(c.Context(), all)
			if err != nil && objects == nil {
				return err
			}
			if err != nil {
				s.say("%v", err)
			}
			return writeKeys(s.out, showKeys(objects, time.Now()), output == "json")
		},
	}
	c.Flags().BoolVarP(&all, "all-namespaces", "A", false, "those of every namespace")
	c.Flags().StringVarP(&output, "output", "o", "", "json")
	return c
}

// showKeys says of each key whether it counts at a time. Two keys of one id do not,
// which shows only where both are listed.
func showKeys(objects []*manifest.Object, now time.Time) []shownKey {
	ids := map[string]int{}
	for _, o := range objects {
		if k, ok := o.Value.(*manifest.APIKey); ok {
			ids[k.Spec.ID]++
		}
	}
	out := []shownKey{}
	for _, o := range objects {
		k, ok := o.Value.(*manifest.APIKey)
		if !ok {
			continue
		}
		line := shownKey{Namespace: o.Meta.Namespace, Name: o.Meta.Name, ID: k.Spec.ID, Owner: k.Spec.Owner, State: "valid"}
		if k.Spec.Expires != nil {
			line.Expires = k.Spec.Expires.UTC().Format(time.RFC3339)
		}
		_, err := apikey.ReadSpec(k.Spec)
		switch {
		case err != nil || o.Unread != nil || ids[k.Spec.ID] > 1:
			line.State = "invalid"
		case o.Meta.DeletionTimestamp != nil:
			line.State = "deleted"
		case k.Spec.Disabled:
			line.State = "disabled"
		case k.Spec.Expires != nil && !now.Before(k.Spec.Expires.Time):
			line.State = "expired"
		}
		out = append(out, line)
	}
	return out
}

func writeKeys(w io.Writer, keys []shownKey, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(keys)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAMESPACE\tNAME\tID\tOWNER\tEXPIRES\tSTATE")
	for _, k := range keys {
		// What a tenant wrote must not move a terminal's cursor.
		fmt.Fprintf(t, "%s\t%s\t%q\t%q\t%s\t%s\n", k.Namespace, k.Name, k.ID, k.Owner, k.Expires, k.State)
	}
	return t.Flush()
}

func keyRevoke(s streams, f *keyFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME",
		Short: "Delete a key's object: the key ends within seconds",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			keys, err := f.open()
			if err != nil {
				return err
			}
			err = keys.Revoke(c.Context(), args[0])
			if errors.Is(err, cluster.ErrNoKey) {
				s.say("%v", err)
				return exit(1)
			}
			if err == nil {
				s.say("key %s/%s is revoked", keys.Namespace, args[0])
			}
			return err
		},
	}
}
