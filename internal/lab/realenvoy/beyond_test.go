package realenvoy

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"postern.dev/postern/internal/envoy"
)

const host = `function envoy_on_request(request_handle)\n  local host = request_handle:headers():get(\":authority\")\n  request_handle:headers():add(\"x-forwarded-host\", host)\nend\n`

// An EnvoyFilter can put anything into the configuration. What would run a program or
// touch files is refused: Envoy 1.40 runs os.execute of a Lua filter's script
// (e2e/gateway), and serves a direct response's body from a file.
func TestConfigurationsThatReachBeyondEnvoy(t *testing.T) {
	const extensions = `type.googleapis.com/envoy.extensions.`
	for _, tt := range []struct{ name, filter, route, want string }{
		{"nothing", "", "", ""},
		{"Kubeflow's script", `{"name": "l", "typedConfig": {"@type": "` + extensions + `filters.http.lua.v3.Lua", "inlineCode": "` + host + `"}},`, "", ""},
		{"another script", `{"name": "l", "typedConfig": {"@type": "` + extensions + `filters.http.lua.v3.Lua", "inlineCode": "os.execute('id')"}},`, "", "lua.v3.Lua"},
		{"Kubeflow's and another", `{"name": "l", "typedConfig": {"@type": "` + extensions + `filters.http.lua.v3.Lua", "inlineCode": "` + host + `", "sourceCodes": {"x": {"inlineString": "os.execute('id')"}}}},`, "", "lua.v3.Lua"},
		{"a script of a route's", "", `, "typedPerFilterConfig": {"l": {"@type": "` + extensions + `filters.http.lua.v3.LuaPerRoute", "sourceCode": {"inlineString": "x"}}}`, "LuaPerRoute"},
		{"no script on a route", "", `, "typedPerFilterConfig": {"l": {"@type": "` + extensions + `filters.http.lua.v3.LuaPerRoute", "disabled": true}}`, ""},
		{"in a TypedStruct", `{"name": "l", "typedConfig": {"@type": "type.googleapis.com/xds.type.v3.TypedStruct", "typeUrl": "` + extensions + `filters.http.lua.v3.Lua", "value": {"inlineCode": "os.execute('id')"}}},`, "", "lua.v3.Lua"},
		{"the listener's script on a route", "", `, "typedPerFilterConfig": {"l": {"@type": "` + extensions + `filters.http.lua.v3.LuaPerRoute"}}`, ""},
		{"native code", `{"name": "g", "typedConfig": {"@type": "` + extensions + `filters.http.golang.v3alpha.Config", "libraryPath": "/tmp/x.so"}},`, "", "golang"},
		{"a file as an answer", "", `, "directResponse": {"status": 200, "body": {"filename": "/etc/passwd"}}`, "filename"},
		{"a variable as an answer", "", `, "directResponse": {"status": 200, "body": {"environmentVariable": "HOME"}}`, "environmentVariable"},
	} {
		action := tt.route
		if !strings.Contains(action, "directResponse") {
			action = `, "route": {"cluster": "up"}` + tt.route
		}
		listener := `{"name": "l", "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 8080}}, "filterChains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typedConfig": {
  "@type": "` + extensions + `filters.network.http_connection_manager.v3.HttpConnectionManager", "statPrefix": "x",
  "accessLog": [{"name": "a", "typedConfig": {"@type": "` + extensions + `access_loggers.file.v3.FileAccessLog", "path": "/dev/stdout"}}],
  "routeConfig": {"virtualHosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"path": "/"}` + action + `}]}]},
  "httpFilters": [` + tt.filter + `{"name": "r", "typedConfig": {"@type": "` + extensions + `filters.http.router.v3.Router"}}]}}]}]}`
		r, err := envoy.ParseResources([]json.RawMessage{json.RawMessage(listener)}, nil, []json.RawMessage{json.RawMessage(`{"name":"up"}`)})
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		e := &Envoy{dir: t.TempDir(), config: Config{Address: netip.MustParseAddr("127.68.0.1")}}
		err = e.write(r, func(string) []netip.AddrPort { return nil })
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}
