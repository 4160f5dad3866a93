package envoytest

// Everything is a listener in protobuf's JSON with each filter and most of what the
// engine knows of routes, for the clusters "up" and "other". Envoy 1.40 takes it.
// Its key is the one of RFC 7517, appendix A.1.
const Everything = `{"name": "everything", "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 8080}}, "filterChains": [{"filters": [{"name": "hcm", "typedConfig": {
 "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "statPrefix": "x", "serverName": "istio-envoy", "useRemoteAddress": true, "normalizePath": true,
 "upgradeConfigs": [{"upgradeType": "websocket"}], "commonHttpProtocolOptions": {"maxHeadersCount": 20, "headersWithUnderscoresAction": "REJECT_REQUEST"},
 "routeConfig": {"name": "r", "ignorePortInHostMatching": true, "responseHeadersToAdd": [{"header": {"key": "x-all", "value": "1"}}], "virtualHosts": [
  {"name": "a", "domains": ["a.example", "*.a.example"], "includeRequestAttemptCount": true, "requestHeadersToRemove": ["x-two"], "routes": [
   {"name": "exact", "match": {"path": "/exact", "headers": [{"name": "x-foo", "stringMatch": {"exact": "a"}}, {"name": ":method", "presentMatch": true}]}, "route": {"cluster": "up", "hostRewriteLiteral": "b", "timeout": "3s"},
    "metadata": {"filterMetadata": {"istio": {"config": "/apis/networking.istio.io/v1/namespaces/a/virtual-service/b"}}}},
   {"match": {"safeRegex": {"regex": "/r[0-9]+"}}, "route": {"cluster": "up", "regexRewrite": {"pattern": {"regex": "r"}, "substitution": "s"}}},
   {"match": {"pathSeparatedPrefix": "/weighted", "queryParameters": [{"name": "q", "stringMatch": {"prefix": "1"}}]}, "route": {"weightedClusters": {"clusters": [{"name": "up", "weight": 1, "requestHeadersToAdd": [{"header": {"key": "x-w", "value": "1"}}]}, {"name": "other", "weight": 0}]}, "requestMirrorPolicies": [{"cluster": "other"}]}},
   {"match": {"prefix": "/gone"}, "redirect": {"pathRedirect": "/x", "responseCode": "FOUND"}},
   {"match": {"prefix": "/said"}, "directResponse": {"status": 418, "body": {"inlineString": "said"}}},
   {"match": {"prefix": "/quiet"}, "route": {"cluster": "up", "prefixRewrite": "/loud"}, "typedPerFilterConfig": {
    "lua": {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.LuaPerRoute", "disabled": true},
    "authz": {"@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute", "checkSettings": {"contextExtensions": {"a": "b"}}},
    "rbac": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute", "rbac": {"rules": {"action": "LOG", "policies": {"p": {"permissions": [{"any": true}], "principals": [{"any": true}]}}}}},
    "cors": {"@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy", "allowOriginStringMatch": [{"exact": "https://a.example"}], "allowMethods": "GET"},
    "fault": {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true}}}]},
  {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up", "timeout": "0s", "hashPolicy": [{"header": {"headerName": "x"}}], "retryPolicy": {"retryOn": "5xx", "numRetries": 1}}}]}]},
 "httpFilters": [
  {"name": "jwt", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication", "providers": {
    "p": {"issuer": "https://a.example", "audiences": ["x"], "localJwks": {"inlineString": "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4\",\"y\":\"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM\"}]}"}, "fromHeaders": [{"name": "x-token", "valuePrefix": "T "}], "payloadInMetadata": "payload", "claimToHeaders": [{"headerName": "x-claim", "claimName": "sub"}]},
    "q": {"issuer": "https://b.example", "localJwks": {"inlineString": "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4\",\"y\":\"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM\"}]}"}}},
   "rules": [{"match": {"prefix": "/open"}}, {"match": {"prefix": "/said"}, "requires": {"providerName": "p"}}, {"match": {"prefix": "/"}, "requires": {"requiresAny": {"requirements": [{"providerName": "p"}, {"providerName": "q"}, {"requiresAll": {"requirements": [{"providerName": "p"}, {"allowMissing": {}}]}}, {"allowMissing": {}}]}}}]}},
  {"name": "rbac", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "rules": {"action": "DENY", "policies": {
    "paths": {"permissions": [{"andRules": {"rules": [{"urlPath": {"path": {"exact": "/denied"}}}, {"notRule": {"header": {"name": "x-foo", "presentMatch": true}}}, {"orRules": {"rules": [{"destinationPort": 8080}, {"destinationPortRange": {"start": 1, "end": 9}}]}}]}}], "principals": [{"any": true}]},
    "callers": {"permissions": [{"destinationIp": {"addressPrefix": "10.0.0.0", "prefixLen": 8}}], "principals": [{"andIds": {"ids": [{"directRemoteIp": {"addressPrefix": "10.9.0.0", "prefixLen": 16}}, {"notId": {"remoteIp": {"addressPrefix": "1.2.3.4", "prefixLen": 32}}}, {"orIds": {"ids": [{"authenticated": {"principalName": {"exact": "a"}}}, {"header": {"name": "x-bad", "stringMatch": {"prefix": "a"}}}]}}]}}]},
    "claims": {"permissions": [{"sourcedMetadata": {"metadataMatcher": {"filter": "envoy.filters.http.jwt_authn", "path": [{"key": "payload"}, {"key": "groups"}], "value": {"listMatch": {"oneOf": {"stringMatch": {"exact": "a"}}}}}}}], "principals": [{"sourcedMetadata": {"metadataMatcher": {"filter": "envoy.filters.http.jwt_authn", "path": [{"key": "payload"}], "value": {"orMatch": {"valueMatchers": [{"boolMatch": true}, {"nullMatch": {}}]}}}}}]}}},
   "shadowRules": {"action": "ALLOW", "policies": {"s": {"permissions": [{"uriTemplate": {"name": "t", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig", "pathTemplate": "/x/*/y"}}}], "principals": [{"any": true}]}}}, "shadowRulesStatPrefix": "s_"}},
  {"name": "authz", "disabled": true, "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz", "httpService": {"serverUri": {"uri": "http://a", "cluster": "other", "timeout": "1s"}, "authorizationRequest": {"allowedHeaders": {"patterns": [{"exact": "cookie"}]}}},
   "filterEnabledMetadata": {"filter": "envoy.filters.http.rbac", "path": [{"key": "s_shadow_engine_result"}], "value": {"stringMatch": {"exact": "allowed"}}}}},
  {"name": "fault", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault", "abort": {"httpStatus": 503, "percentage": {"numerator": 100}}, "headers": [{"name": "x-abort", "presentMatch": true}]}},
  {"name": "cors", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"}},
  {"name": "mutation", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation", "mutations": {"requestMutations": [{"remove": "x-two"}, {"append": {"header": {"key": "x-m", "value": "1"}, "appendAction": "ADD_IF_ABSENT"}}]}}},
  {"name": "lua", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua", "inlineCode": "function envoy_on_request(request_handle)\n  local host = request_handle:headers():get(\":authority\")\n  request_handle:headers():add(\"x-forwarded-host\", host)\nend\n"}},
  {"name": "router", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]}`
