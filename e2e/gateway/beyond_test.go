//go:build e2e

package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern.dev/postern/internal/envoy"
	"postern.dev/postern/internal/lab/realenvoy"
)

// A script of an EnvoyFilter runs programs with the rights of who started Envoy. This
// is Envoy's own doing, shown with a bootstrap of its own; `up --envoy` refuses such a
// configuration.
func TestAScriptRunsPrograms(t *testing.T) {
	dir := t.TempDir()
	made := filepath.Join(dir, "made")
	lua := fmt.Sprintf(`{"name": "l", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua", "defaultSourceCode": {"inlineString": "os.execute('touch %s')"}}},`, made)
	scripted := strings.Replace(listener, `"httpFilters": [`, `"httpFilters": [`+lua, 1)
	if scripted == listener {
		t.Fatal("the script is in no filter")
	}
	r, err := envoy.ParseResources([]json.RawMessage{json.RawMessage(scripted)}, nil, []json.RawMessage{json.RawMessage(`{"name":"up"}`)})
	if err != nil {
		t.Fatal(err)
	}
	e, err := realenvoy.Start(context.Background(), realenvoy.Config{Program: program(t), Address: netip.MustParseAddr("127.68.0.3"), Endpoints: func(string) []netip.AddrPort { return nil }}, r)
	if err == nil {
		e.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "lua.v3.Lua") {
		t.Errorf("got %v, want the script refused", err)
	}
	if _, err := os.Stat(made); err == nil {
		t.Fatal("the script ran")
	}
	bare := strings.Replace(strings.Replace(scripted, `"0.0.0.0"`, `"127.68.0.3"`, 1), `"cluster": "up"`, `"cluster": "none"`, 1)
	bare = strings.Replace(bare, `"routeConfig": {`, `"routeConfig": {"validateClusters": false, `, 1)
	config := filepath.Join(dir, "bootstrap.json")
	if err := os.WriteFile(config, []byte(`{"staticResources": {"listeners": [`+bare+`]}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, program(t), "--mode", "validate", "-c", config).CombinedOutput()
	if _, stat := os.Stat(made); stat != nil {
		t.Errorf("Envoy did not run the script: %v, %v\n%s", stat, err, out)
	}
}
