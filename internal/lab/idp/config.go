package idp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"strings"

	"github.com/dexidp/dex/storage"
	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/bcrypt"
)

// Dex refuses, at the login, password hashes outside these costs (checkCost in
// dex/server/api.go). Refusing them while loading names the line instead.
const (
	minHashCost = bcrypt.DefaultCost
	maxHashCost = 16
)

// file is the part of Dex's configuration file that is read. Its names are
// those of dex/cmd/dex/config.go, a main package that cannot be imported.
type file struct {
	Issuer string `yaml:"issuer"`
	OAuth2 struct {
		SkipApprovalScreen bool `yaml:"skipApprovalScreen"`
	} `yaml:"oauth2"`
	EnablePasswordDB bool       `yaml:"enablePasswordDB"`
	StaticPasswords  []password `yaml:"staticPasswords"`
	StaticClients    []client   `yaml:"staticClients"`

	// Where and how a Dex of its own process runs; here it runs in ours.
	Storage yaml.Node `yaml:"storage"`
	Web     yaml.Node `yaml:"web"`
	Logger  yaml.Node `yaml:"logger"`
	Expiry  yaml.Node `yaml:"expiry"`
}

type password struct {
	Email    string `yaml:"email"`
	Hash     string `yaml:"hash"`
	HashEnv  string `yaml:"hashFromEnv"` // Kubeflow since 1.9
	Username string `yaml:"username"`
	UserID   string `yaml:"userID"`
}

type client struct {
	ID           string   `yaml:"id"`
	IDEnv        string   `yaml:"idEnv"`
	Secret       string   `yaml:"secret"`
	SecretEnv    string   `yaml:"secretEnv"`
	RedirectURIs []string `yaml:"redirectURIs"`
	Name         string   `yaml:"name"`
}

// settings is a configuration file whose every value has been checked.
type settings struct {
	issuer       string
	skipApproval bool
	passwords    []storage.Password
	clients      []storage.Client
}

// path is where Dex answers: that of its issuer.
func (s settings) path() string {
	u, err := url.Parse(s.issuer)
	if err != nil {
		return "" // cannot happen: parse has looked at it
	}
	return strings.TrimSuffix(u.Path, "/")
}

// parse reads config.yaml. Its error joins everything that is wrong, each with
// its line and field; no secret and no hash is part of it.
func parse(text []byte, env func(string) string) (settings, error) {
	var f file
	var root yaml.Node
	if err := decode(text, &f, &root); err != nil {
		return settings{}, err
	}
	c := checker{root: &root, env: env}
	c.issuer(f.Issuer)
	if !f.EnablePasswordDB {
		c.failf("want true: Dex has no other way to log in here", "enablePasswordDB")
	}
	s := settings{
		issuer:       f.Issuer,
		skipApproval: f.OAuth2.SkipApprovalScreen,
		passwords:    c.passwords(f.StaticPasswords),
		clients:      c.clients(f.StaticClients),
	}
	return s, errors.Join(c.errs...)
}

// decode reads exactly one YAML document twice: into f, where an unknown field
// is an error, and into root, which knows the lines.
func decode(text []byte, f *file, root *yaml.Node) error {
	strict := yaml.NewDecoder(bytes.NewReader(text))
	strict.KnownFields(true)
	err := strict.Decode(f)
	if errors.Is(err, io.EOF) {
		return errors.New("line 1: the file is empty")
	}
	if err != nil {
		return plain(err)
	}
	if err := strict.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("want one YAML document, got more")
	}
	return plain(yaml.Unmarshal(text, root))
}

// plain words the errors of the YAML package for people who have not read our
// source: without the names of Go types, and without the values, which may be
// secrets.
func plain(err error) error {
	var types *yaml.TypeError
	if !errors.As(err, &types) {
		return err
	}
	unknown := regexp.MustCompile(`field (\S+) not found in type \S+`)
	mistyped := regexp.MustCompile("cannot unmarshal (!!\\w+)(?s: .*?)? into (\\S+)$")
	var all []error
	for _, text := range types.Errors {
		text = unknown.ReplaceAllString(text, `unknown field "$1"`)
		text = mistyped.ReplaceAllStringFunc(text, func(found string) string {
			part := mistyped.FindStringSubmatch(found)
			return fmt.Sprintf("got %s, want %s", part[1], wanted(part[2]))
		})
		all = append(all, errors.New(text))
	}
	return errors.Join(all...)
}

func wanted(goType string) string {
	switch {
	case goType == "string" || goType == "bool":
		return goType
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	}
	return "a mapping"
}

// checker collects what is wrong with the values of a file.
type checker struct {
	root *yaml.Node
	env  func(string) string
	errs []error
}

// failf reports the field at path, a sequence of mapping keys and list indexes.
func (c *checker) failf(problem string, path ...any) {
	var field strings.Builder
	for _, step := range path {
		switch step := step.(type) {
		case string:
			if field.Len() > 0 {
				field.WriteByte('.')
			}
			field.WriteString(step)
		case int:
			fmt.Fprintf(&field, "[%d]", step)
		}
	}
	c.errs = append(c.errs, fmt.Errorf("line %d: %s: %s", line(c.root, path), field.String(), problem))
}

// line finds the line of the node at path, or of the last node on the way to
// it that exists.
func line(node *yaml.Node, path []any) int {
	if node.Kind == yaml.DocumentNode {
		node = node.Content[0]
	}
	for _, step := range path {
		next := child(node, step)
		if next == nil {
			break
		}
		node = next
	}
	return max(node.Line, 1)
}

func child(node *yaml.Node, step any) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	switch step := step.(type) {
	case string:
		for i := 0; node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == step {
				return node.Content[i+1]
			}
		}
	case int:
		if node.Kind == yaml.SequenceNode && step < len(node.Content) {
			return node.Content[step]
		}
	}
	return nil
}

func (c *checker) issuer(text string) {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		c.failf("want an http or https URL without query or fragment", "issuer")
	}
}

func (c *checker) passwords(list []password) []storage.Password {
	var out []storage.Password
	seen := map[string]bool{}
	for i, p := range list {
		email := strings.ToLower(p.Email)
		switch {
		case email == "":
			c.failf("want an e-mail address", "staticPasswords", i, "email")
		case seen[email]:
			c.failf("a second password for this e-mail address", "staticPasswords", i, "email")
		}
		seen[email] = true
		if p.UserID == "" {
			c.failf("want an id that no other user has", "staticPasswords", i, "userID")
		}
		hash := p.Hash
		if hash == "" && p.HashEnv != "" { // as dex/cmd/dex/config.go: the hash itself wins
			hash = c.env(p.HashEnv)
		}
		cost, err := bcrypt.Cost([]byte(hash))
		switch {
		case err != nil:
			c.failf("want a bcrypt hash", "staticPasswords", i, "hash")
		case cost < minHashCost || cost > maxHashCost:
			c.failf(fmt.Sprintf("got bcrypt cost %d, Dex wants %d to %d", cost, minHashCost, maxHashCost), "staticPasswords", i, "hash")
		}
		out = append(out, storage.Password{Email: p.Email, Hash: []byte(hash), Username: p.Username, UserID: p.UserID})
	}
	return out
}

func (c *checker) clients(list []client) []storage.Client {
	var out []storage.Client
	seen := map[string]bool{}
	for i, cl := range list {
		id := c.literalOrEnv(cl.ID, cl.IDEnv, "id", i)
		if id != "" && seen[id] {
			c.failf("a second client of this id", "staticClients", i)
		}
		seen[id] = true
		secret := c.literalOrEnv(cl.Secret, cl.SecretEnv, "secret", i)
		if len(cl.RedirectURIs) == 0 {
			c.failf("want at least one", "staticClients", i, "redirectURIs")
		}
		for j, uri := range cl.RedirectURIs {
			if uri == "" {
				c.failf("want a URI or a path", "staticClients", i, "redirectURIs", j)
			}
		}
		out = append(out, storage.Client{ID: id, Secret: secret, RedirectURIs: cl.RedirectURIs, Name: cl.Name})
	}
	return out
}

// literalOrEnv is the value of field or, as Kubeflow writes it, of the
// environment variable that field+"Env" names.
func (c *checker) literalOrEnv(literal, variable, field string, i int) string {
	switch {
	case literal != "" && variable != "":
		c.failf("got both "+field+" and "+field+"Env, want one", "staticClients", i, field+"Env")
	case literal == "" && variable == "":
		c.failf("want "+field+" or "+field+"Env", "staticClients", i, field)
	case variable != "":
		value := c.env(variable)
		if value == "" {
			c.failf(fmt.Sprintf("the environment variable %s is not set", variable), "staticClients", i, field+"Env")
		}
		return value
	}
	return literal
}
