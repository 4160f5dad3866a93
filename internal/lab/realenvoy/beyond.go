package realenvoy

import (
	"fmt"
	"slices"
	"strings"

	"postern.dev/postern/internal/envoy"
)

// beyond names what of a configuration reaches beyond Envoy's connections: it runs a
// program, or reads or writes files. In a cluster that is done in the gateway's
// container; here it would be done to this machine, with its user's rights, because
// of an EnvoyFilter in somebody's manifests. The first one found is said, "" for none.
func beyond(v any, at string) string {
	switch v := v.(type) {
	case []any:
		for i := range v {
			if found := beyond(v[i], fmt.Sprintf("%s[%d]", at, i)); found != "" {
				return found
			}
		}
	case map[string]any:
		for _, field := range []string{"@type", "typeUrl"} { // the second one's in a TypedStruct
			if t, _ := v[field].(string); reaches(t) && !harmless(v) {
				return at + ": " + t
			}
		}
		for k, inner := range v {
			if slices.Contains(fromMachine, k) {
				return at + ": " + k
			}
			if found := beyond(inner, at+"."+k); found != "" {
				return found
			}
		}
	}
	return ""
}

// fromMachine are the fields of any message that name a file or a variable of the
// machine (DataSource, ApiConfigSource, GoogleGrpc, in protobuf's JSON).
var fromMachine = []string{"filename", "environmentVariable", "pathConfigSource", "watchedDirectory", "googleGrpc"}

// reaches goes by the packages of Envoy's extensions
// (api/envoy/extensions in its source).
func reaches(typeURL string) bool {
	for part := range strings.SplitSeq(typeURL, ".") {
		switch part {
		case "lua", "golang", "wasm", "dynamic_modules", "tap", "file", "file_system_buffer", "file_server", "stream":
			return true
		}
	}
	return false
}

// harmless is Kubeflow's own script, which the engine knows, or a route that runs none
// or the listener's.
func harmless(v map[string]any) bool {
	code, _ := v["inlineCode"].(string)
	if source, ok := v["defaultSourceCode"].(map[string]any); ok && code == "" {
		code, _ = source["inlineString"].(string)
	}
	t, _ := v["@type"].(string)
	if off, _ := v["disabled"].(bool); strings.HasSuffix(t, ".http.lua.v3.LuaPerRoute") && (off && len(v) == 2 || len(v) == 1) {
		return true
	}
	return len(v) == 2 && strings.HasSuffix(t, ".http.lua.v3.Lua") && envoy.KnownLua(code)
}
