package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/explain"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/translate"
	"postern.dev/postern/internal/world"
)

type explainFlags struct {
	files                 []string
	from, door, method    string
	headers               []string
	session, authz        string
	istio                 istioFlags
	dumps                 []string
	output, requests, url string
	scaledToZero          bool
}

// explainHelp describes the command and its JSON.
const explainHelp = `Explain walks one call: the client, the name or door it comes in by, each
gateway with every filter's verdict and the VirtualService of its route, the pod's
sidecar, if it has one, with the identity of who connects, and the pod. What Istio makes of the manifests is evaluated as Envoy would; posternd, if
the manifests hold it, is the real one with their RBAC.

Without -f it explains the bundled story with Postern. --config-dump reads a live
gateway's configuration instead (curl ADMIN/config_dump, or istioctl proxy-config
all POD -o json), of several gateways where it is given for each; -f beside it gives
objects their file and line. A live cluster's own objects do for -f:
kubectl get -A -o yaml -l '!pod-template-hash,!serving.knative.dev/revision' KINDS
(pods of Deployments and of models are made of these).

Who calls: --from outside (default), pod:NS/NAME, sa:NS/NAME or an IP address. A
pod's call goes where the URL's host leads it; from outside it comes in at a
gateway's door (--door, default kubeflow/kubeflow-gateway). The URL's path is
taken as it is written (like curl --path-as-is).

Nothing is fetched: for a RequestAuthentication without inline keys give the
issuer's (--jwks ISSUER=FILE). Without them a placeholder stands in, as in an
istiod that cannot fetch, and an answer that depends on it has a warning.

What the login answers: nothing said means nobody's session, as that login
answers it; --session USER a logged-in person; --authz STATUS[,header=value...]
any answer of it (posternd asks the login whose session a call shows, so state a
cookie too). What is assumed is printed. Where an answer is not determined, or
something in the way is not modelled (the outbound side of a client's sidecar), the
outcome is unknown and says what is missing.

--scaled-to-zero sends the calls to a Knative revision through the activator, which
keeps their headers and hides from the pod who called.

-o json prints one object:
  {"outcome":"forwarded|refused|redirected|answered|unknown","status":N,
   "backend":"NS/SERVICE:PORT","host":"...","path":"...","headers":[[k,v]],
   "by":{"kind","namespace","name","rule","file","line"},"why":[...],
   "nearest":[...],"assumed":[...],"warnings":[...],"hops":[{"kind","name","address","text",
   "steps":[{"stage","text","by"}]}]}
status is that of the gateway's own reply (0: a backend answers); headers are
those that reached the backend, or the reply's; by is the object that decided.

--requests FILE (or -) takes one JSON object a line and answers one each, in order:
  {"from","door","method","url","headers":[[k,v]],"session","authz":{"status","headers"},
   "scaledToZero"}
What a line leaves out is taken from the flags. A bad line is answered with
{"outcome":"unknown","line":N,"error":"..."}.

Exit status 0: it reaches a backend. 1: it does not. 2: could not tell.`

func explainCommand(s streams) *cobra.Command {
	f := &explainFlags{}
	c := &cobra.Command{
		Use:   "explain [-f DIR...] [flags] URL",
		Short: "Say what becomes of a call, and which object decided",
		Long:  explainHelp,
		Example: `  postern explain -H 'Host: sklearn-iris.kserve-test.example.com' http://localhost:8080/v1/models/sklearn-iris:predict
  postern explain --from pod:default/myapp-pod http://sklearn-iris.kserve-test.svc.cluster.local/v1/models/sklearn-iris:predict
  postern explain -f examples/story/common -f examples/story/3-path-exempt -H 'kubeflow-userid: admin@example.com' http://localhost:8080/v1/models/x
  istioctl proxy-config all -n istio-system POD -o json | postern explain --config-dump - http://localhost:8080/`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case f.requests == "" && len(args) != 1:
				return withHint(fmt.Errorf("got %d URLs, want one", len(args)), "for example: "+self()+" explain http://localhost:8080/")
			case f.requests != "" && len(args) != 0:
				return withHint(errors.New("got a URL beside --requests, want one of them"), "each line of --requests has its own url")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			f.url = strings.Join(args, "")
			return f.run(c.Context(), s)
		},
	}
	f.add(c)
	return c
}

func (f *explainFlags) add(c *cobra.Command) {
	c.Flags().StringArrayVarP(&f.files, "filename", "f", nil, "manifests: a `FILE`, a directory (not deeper), or - for standard input (repeatable)")
	c.Flags().StringVar(&f.from, "from", "", "`CALLER`: outside, pod:NS/NAME, sa:NS/NAME or an IP address (default outside)")
	c.Flags().StringVar(&f.door, "door", "", "where a call from outside comes in: a gateway's `PORT`, or a Gateway as NS/NAME")
	c.Flags().StringVarP(&f.method, "request", "X", "", "the call's `METHOD` (default GET)")
	c.Flags().StringArrayVarP(&f.headers, "header", "H", nil, "a header of the call: `'NAME: VALUE'` (repeatable)")
	c.Flags().StringVar(&f.session, "session", "", "the call carries the session of `USER`, logged in")
	c.Flags().StringVar(&f.authz, "authz", "", "what the authorizer answers: `STATUS[,HEADER=VALUE...]`")
	f.istio.add(c)
	c.Flags().StringArrayVar(&f.dumps, "config-dump", nil, "a live gateway's config_dump in `FILE` (- for standard input) in place of a translation (repeatable: one of each gateway)")
	c.Flags().BoolVar(&f.scaledToZero, "scaled-to-zero", false, "no pod of a Knative revision is up: its calls pass the activator")
	c.Flags().StringVarP(&f.output, "output", "o", "", "`FORMAT` of the answer: json (default: text)")
	c.Flags().StringVar(&f.requests, "requests", "", "explain the calls of `FILE` (- for standard input), one JSON object a line")
}

func (f *explainFlags) run(ctx context.Context, s streams) error {
	if f.output != "" && f.output != "json" {
		return withHint(fmt.Errorf("got output %q, want json", f.output), "leave -o out for text")
	}
	call, err := f.call()
	if err != nil {
		return err
	}
	if err := f.oneReader(); err != nil {
		return err
	}
	system, err := f.system(ctx, s)
	if err != nil {
		return err
	}
	if f.requests != "" {
		return f.answerAll(ctx, s, system, call)
	}
	answer, err := system.Explain(ctx, call)
	if err != nil {
		return withHint(err, "see "+self()+" explain --help")
	}
	if f.output == "json" {
		e := json.NewEncoder(s.out)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		err = e.Encode(answer)
	} else {
		err = explain.Write(s.out, answer)
	}
	for _, note := range system.Findings() {
		s.say("note: %s", note)
	}
	if err == nil && answer.Exit() != 0 {
		return exit(answer.Exit())
	}
	return err
}

// call is the flags as a call.
func (f *explainFlags) call() (explain.Call, error) {
	c := explain.Call{From: f.from, Door: f.door, Method: f.method, URL: f.url, Session: f.session, ScaledToZero: f.scaledToZero}
	for _, h := range f.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			return c, withHint(fmt.Errorf("got header %q, want NAME: VALUE", h), "for example -H 'Host: kubeflow.example.com'")
		}
		c.Headers = append(c.Headers, [2]string{name, strings.TrimSpace(value)})
	}
	if f.authz != "" {
		parts := strings.Split(f.authz, ",")
		status, err := strconv.Atoi(parts[0])
		if err != nil {
			return c, withHint(fmt.Errorf("got --authz %q, want STATUS[,HEADER=VALUE...]", f.authz), "for example --authz 200,kubeflow-userid=user@example.com")
		}
		c.Authz = &explain.Authz{Status: status}
		for _, part := range parts[1:] {
			name, value, ok := strings.Cut(part, "=")
			if !ok {
				return c, withHint(fmt.Errorf("got --authz header %q, want HEADER=VALUE", part), "for example --authz 200,kubeflow-userid=user@example.com")
			}
			c.Authz.Headers = append(c.Authz.Headers, [2]string{name, value})
		}
	}
	return c, nil
}

// oneReader refuses to read standard input twice.
func (f *explainFlags) oneReader() error {
	n := 0
	for _, name := range slices.Concat(f.dumps, []string{f.requests}, f.files) {
		if name == "-" {
			n++
		}
	}
	if n > 1 {
		return errors.New("standard input (-) can be read once: by -f, --config-dump or --requests")
	}
	return nil
}

// system works the manifests or the dump out.
func (f *explainFlags) system(ctx context.Context, s streams) (*explain.System, error) {
	var set *manifest.Set
	var err error
	switch {
	case len(f.files) > 0:
		set, err = manifest.Files(f.files, s.in)
	case len(f.dumps) == 0:
		states := story.States()
		set, err = manifest.FS(story.FS, states[len(states)-1].Dirs...)
	}
	if err != nil {
		return nil, err
	}
	bundled, err := fs.Sub(story.FS, "translated")
	if err != nil {
		return nil, err
	}
	if len(f.dumps) > 0 {
		return f.dumped(s, set, bundled)
	}
	keys, err := f.istio.keys()
	if err != nil {
		return nil, err
	}
	w, err := world.Build(ctx, set, world.Options{JWKS: keys, Translate: translate.Options{Version: f.istio.version, Nearest: f.istio.nearest, Bundled: bundled, Progress: s.err}})
	if err != nil {
		return nil, hintNearest(err)
	}
	return explain.New(w)
}

// dumped is the system of live gateways' dumps.
func (f *explainFlags) dumped(s streams, set *manifest.Set, bundled fs.FS) (*explain.System, error) {
	if f.istio.given() {
		return nil, errors.New("--istio-version, --istio-nearest and --jwks are about translating manifests: a config_dump is translated already, and holds the keys")
	}
	var dumps []explain.Dump
	for _, name := range f.dumps {
		in, done, err := openOr(name, s.in)
		if err != nil {
			return nil, err
		}
		defer done()
		dumps = append(dumps, explain.Dump{Name: name, Reader: in})
	}
	return explain.FromDump(dumps, set, translate.Options{Bundled: bundled, Progress: s.err})
}

func (f *explainFlags) answerAll(ctx context.Context, s streams, system *explain.System, call explain.Call) error {
	in, done, err := openOr(f.requests, s.in)
	if err != nil {
		return err
	}
	defer done()
	for _, note := range system.Findings() {
		s.say("note: %s", note)
	}
	status, err := system.Requests(ctx, in, s.out, call)
	if err != nil {
		return err
	}
	if status != 0 {
		return exit(status)
	}
	return nil
}

// openOr opens a file, or standard input for "-".
func openOr(name string, stdin io.Reader) (io.Reader, func(), error) {
	if name == "-" {
		return stdin, func() {}, nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	return file, func() { _ = file.Close() }, nil
}
