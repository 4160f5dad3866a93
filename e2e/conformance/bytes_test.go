//go:build e2e

package conformance

import (
	"strconv"
	"strings"
	"testing"

	"postern.dev/postern/internal/envoy"
)

// TestBytes: bytes beyond ASCII in a path, a query and a header, UTF-8 or not, with an
// HTTP and a gRPC authorizer. HTTP/1.1 refuses them in the target; over HTTP/2 each is
// escaped in the path, and a check holds ! for what is no UTF-8.
func TestBytes(t *testing.T) {
	for i, c := range configurations(t) {
		if !strings.HasPrefix(c.name, "story-1") && !strings.HasPrefix(c.name, "story-4") {
			continue
		}
		p, err := start(t, c, byte(200+i))
		if err != nil {
			t.Fatal(err)
		}
		conns := p.clients()
		t.Cleanup(conns.close)
		id := 0
		for _, path := range []string{"/\xc3\xa9", "/\xa9", "/\xc3..\xa9", "/\xc3/..\xa9", "/\xc3..\xa9/../x", "/\xe2\x82", "/\xc0\xaf", "/\xff", "/x?\xc3", "/x?\xc3\xa9"} {
			for _, proto := range []string{"HTTP/1.1", "HTTP/2"} {
				id++
				q := request{port: 8080, proto: proto, scheme: "http", method: "PUT", target: path, host: "sklearn-iris.kserve-test.example.com",
					headers: envoy.Headers{{Name: "cookie", Value: "t=" + strconv.Itoa(id)}, {Name: "authorization", Value: "a\xffb"}, {Name: "x-foo", Value: "\xc3"}}}
				if diff := p.compare(conns.of(q), q, strconv.Itoa(id)); diff != "" {
					t.Errorf("%s: %q\n%s", c.name, q, diff)
				}
			}
		}
	}
}
