package idp

import (
	"os"
	"strings"
	"testing"
)

func env(name string) string {
	return map[string]string{"OIDC_CLIENT_ID": "kubeflow-oidc-authservice", "OIDC_CLIENT_SECRET": "s3cr3t"}[name]
}

func kubeflowYAML(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("testdata/config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestParseKubeflow(t *testing.T) {
	s, err := parse([]byte(kubeflowYAML(t)), env)
	if err != nil {
		t.Fatal(err)
	}
	if s.issuer != "http://dex.auth.svc.cluster.local:5556/dex" || !s.skipApproval {
		t.Errorf("got %q, %v", s.issuer, s.skipApproval)
	}
	if len(s.passwords) != 1 || s.passwords[0].Email != "user@example.com" || s.passwords[0].UserID != "15841185641784" || s.passwords[0].Username != "user" {
		t.Errorf("got passwords %+v", s.passwords)
	}
	if len(s.clients) != 1 || s.clients[0].ID != "kubeflow-oidc-authservice" || s.clients[0].Secret != "s3cr3t" || s.clients[0].RedirectURIs[0] != "/login/oidc" {
		t.Errorf("got clients %+v", s.clients)
	}
}

// TestParseHashFromEnv: Kubeflow since 1.9 keeps the hash in a Secret.
func TestParseHashFromEnv(t *testing.T) {
	const hash = "$2y$12$4K/VkmDd1q1Orb3xAt82zu8gk7Ad6ReFR4LCP9UeYE90NLiN9Df72"
	text := strings.Replace(kubeflowYAML(t), "hash: "+hash, "hashFromEnv: DEX_USER_PASSWORD", 1)
	s, err := parse([]byte(text), func(name string) string {
		if name == "DEX_USER_PASSWORD" {
			return hash
		}
		return env(name)
	})
	if err != nil || string(s.passwords[0].Hash) != hash {
		t.Errorf("got %v, %v", s.passwords, err)
	}
	if _, err := parse([]byte(text), env); err == nil || !strings.Contains(err.Error(), "staticPasswords[0].hash: want a bcrypt hash") {
		t.Errorf("without the variable: got %v", err)
	}
}

// Each row changes one thing in Kubeflow's file; the error must say where.
func TestParseErrors(t *testing.T) {
	for _, tt := range []struct{ name, old, new, want string }{
		{"unknown field", "enablePasswordDB: true", "enablePasswordDB: true\nenablePaswordDB: true", `line 15: unknown field "enablePaswordDB"`},
		{"unknown field of oauth2", "skipApprovalScreen", "responseTypes: [code]\n  skipApprovalScreen", `line 13: unknown field "responseTypes"`},
		{"unknown field of a password", "username: user", "username: user\n  groups: [admins]", `line 21: unknown field "groups"`},
		{"unknown field of a client", "name: 'Dex", "public: true\n  name: 'Dex", `line 26: unknown field "public"`},
		{"connectors", "enablePasswordDB: true", "enablePasswordDB: true\nconnectors: []", `line 15: unknown field "connectors"`},
		{"wrong type", "skipApprovalScreen: true", "skipApprovalScreen: maybe", "line 13: got !!str, want bool"},
		{"list for text", "email: user@example.com", "email: [a, b]", "line 16: got !!seq, want string"},
		{"text for list", `["/login/oidc"]`, "/login/oidc", "line 25: got !!str, want a list"},
		{"twice", "enablePasswordDB: true", "enablePasswordDB: true\nenablePasswordDB: true", `line 15: mapping key "enablePasswordDB" already defined at line 14`},
		{"no password database", "enablePasswordDB: true", "enablePasswordDB: false", "line 14: enablePasswordDB: want true"},
		{"relative issuer", "issuer: http://dex.auth.svc.cluster.local:5556/dex", "issuer: /dex", "line 2: issuer: want an http or https URL"},
		{"issuer with a query", "5556/dex", "5556/dex?a=b", "line 2: issuer: want an http or https URL"},
		{"no issuer", "issuer: http://dex.auth.svc.cluster.local:5556/dex", "", "line 3: issuer: want an http or https URL"},
		{"not a hash", "$2y$12$4K/VkmDd1q1Orb3xAt82zu8gk7Ad6ReFR4LCP9UeYE90NLiN9Df72", "12341234", "line 17: staticPasswords[0].hash: want a bcrypt hash"},
		{"cheap hash", "$2y$12$", "$2y$04$", "line 17: staticPasswords[0].hash: got bcrypt cost 4, Dex wants 10 to 16"},
		{"no e-mail", "email: user@example.com", `email: ""`, "line 16: staticPasswords[0].email: want an e-mail address"},
		{"no user id", `userID: "15841185641784"`, `userID: ""`, "line 21: staticPasswords[0].userID: want an id"},
		{"unset variable", "idEnv: OIDC_CLIENT_ID", "idEnv: NOBODY_SET_ME", "line 24: staticClients[0].idEnv: the environment variable NOBODY_SET_ME is not set"},
		{"literal and variable", "secretEnv: OIDC_CLIENT_SECRET", "secretEnv: OIDC_CLIENT_SECRET\n  secret: hunter2", "line 27: staticClients[0].secretEnv: got both secret and secretEnv"},
		{"no secret", "  secretEnv: OIDC_CLIENT_SECRET\n", "", "line 24: staticClients[0].secret: want secret or secretEnv"},
		{"no redirect", `["/login/oidc"]`, "[]", "line 25: staticClients[0].redirectURIs: want at least one"},
		{"empty redirect", `["/login/oidc"]`, `["/login/oidc", ""]`, "line 25: staticClients[0].redirectURIs[1]: want a URI or a path"},
		{"two documents", "issuer: http", "a: b\n---\nissuer: http", `line 2: unknown field "a"`},
		{"a second document", "secretEnv: OIDC_CLIENT_SECRET", "secretEnv: OIDC_CLIENT_SECRET\n---\n{}", "want one YAML document"},
		{"not YAML", "issuer: http", "issuer: [http", "yaml: line"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(kubeflowYAML(t), tt.old, tt.new, 1)
			if text == kubeflowYAML(t) {
				t.Fatalf("%q is not in the file", tt.old)
			}
			_, err := parse([]byte(text), env)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			for _, never := range []string{"s3cr3t", "hunter2", "12341234", "Nine", "4K/Vkm", "idp."} {
				if strings.Contains(err.Error(), never) {
					t.Errorf("the error tells %q: %v", never, err)
				}
			}
		})
	}
}

func TestParseSecretsOfTheWrongType(t *testing.T) {
	text := strings.Replace(kubeflowYAML(t), "secretEnv: OIDC_CLIENT_SECRET", "secret: [hunter2]", 1)
	text = strings.Replace(text, "enablePasswordDB: true", "enablePasswordDB: hunter2", 1)
	_, err := parse([]byte(text), env)
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

func TestParseDuplicates(t *testing.T) {
	text := kubeflowYAML(t) + `- id: kubeflow-oidc-authservice
  secret: other
  redirectURIs: [/x]
`
	_, err := parse([]byte(text), env)
	if err == nil || err.Error() != "line 28: staticClients[1]: a second client of this id" {
		t.Errorf("got %v", err)
	}
	one := "- email: user@example.com"
	text = strings.Replace(kubeflowYAML(t), one, "- {email: USER@example.com, hash: $2y$12$4K/VkmDd1q1Orb3xAt82zu8gk7Ad6ReFR4LCP9UeYE90NLiN9Df72, userID: x}\n"+one, 1)
	_, err = parse([]byte(text), env)
	if err == nil || err.Error() != "line 17: staticPasswords[1].email: a second password for this e-mail address" {
		t.Errorf("got %v", err)
	}
}

func TestParseEmpty(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "---\n"} {
		if _, err := parse([]byte(text), env); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(kubeflowYAML(f))
	f.Add("a: &a [*a]")
	f.Add("staticClients: [null]\nstaticPasswords: 3")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parse([]byte(text), env)
		if err == nil && (s.issuer == "" || strings.ContainsAny(s.issuer, "?#")) {
			t.Errorf("accepted %q", text)
		}
	})
}
