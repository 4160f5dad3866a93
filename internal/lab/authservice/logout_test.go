package authservice

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestLogout(t *testing.T) {
	const tokenOnly, cookieOnly = "token", "cookie"
	for _, tt := range []struct {
		name, method, path, by string
		header                 http.Header
		status                 int
		ended                  bool
	}{
		{"form of the old path", "POST", "/logout", cookieOnly, nil, 303, true},
		{"form", "POST", "/authservice/logout", cookieOnly, nil, 303, true},
		{"same origin", "POST", "/logout", cookieOnly, http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {"http://localhost:8080"}}, 303, true},
		{"same origin, old browser", "POST", "/logout", cookieOnly, http.Header{"Origin": {"http://localhost:8080"}}, 303, true},
		{"other site", "POST", "/logout", cookieOnly, http.Header{"Sec-Fetch-Site": {"cross-site"}}, 403, false},
		{"other host of the site", "POST", "/logout", cookieOnly, http.Header{"Sec-Fetch-Site": {"same-site"}, "Origin": {"http://localhost:8080"}}, 403, false},
		{"other port", "POST", "/logout", cookieOnly, http.Header{"Origin": {"http://localhost:8081"}}, 403, false},
		{"origin null", "POST", "/logout", cookieOnly, http.Header{"Origin": {"null"}}, 403, false},
		{"token", "POST", "/authservice/logout", tokenOnly, nil, 201, true},
		{"token from elsewhere", "POST", "/authservice/logout", tokenOnly, http.Header{"Sec-Fetch-Site": {"cross-site"}}, 201, true},
		{"bearer", "POST", "/authservice/logout", "", http.Header{"Authorization": {"bearer SESSION"}}, 201, true},
		{"other token", "POST", "/authservice/logout", cookieOnly, http.Header{"X-Auth-Token": {"x"}}, 401, false},
		{"other scheme", "POST", "/authservice/logout", "", http.Header{"Authorization": {"Basic SESSION"}}, 303, false},
		{"nothing", "POST", "/logout", "", nil, 303, false},
		{"a link", "GET", "/logout", cookieOnly, nil, 405, false},
		{"head", "HEAD", "/authservice/logout", cookieOnly, nil, 405, false},
		{"options", "OPTIONS", "/logout", cookieOnly, nil, 405, false},
		{"not that path", "POST", "/logout/", cookieOnly, nil, 200, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fake := newFake(t)
			s := newService(t, fake, Config{Now: fake.clock.now})
			b := newBrowser(t, newGateway(t, s, fake))
			b.get(callback(fake.begin(b, "/")))
			id := b.cookie(sessionCookie)

			r := request(tt.method, tt.path)
			r.Host = "localhost:8080"
			for name, values := range tt.header {
				r.Header.Set(name, strings.ReplaceAll(values[0], "SESSION", id))
			}
			switch tt.by {
			case tokenOnly:
				r.Header.Set("X-Auth-Token", id)
			case cookieOnly:
				r.AddCookie(&http.Cookie{Name: sessionCookie, Value: id})
			}
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if w.Code != tt.status {
				t.Errorf("got %d %s, want %d", w.Code, w.Body, tt.status)
			}
			if ended := b.get("/").status != http.StatusOK; ended != tt.ended {
				t.Errorf("ended: got %v, want %v", ended, tt.ended)
			}
			expired := strings.HasPrefix(w.Header().Get("Set-Cookie"), sessionCookie+"=; Path=/; Max-Age=0")
			if want := tt.status == 201 || tt.status == 303; expired != want {
				t.Errorf("got Set-Cookie %q", w.Header().Get("Set-Cookie"))
			}
		})
	}
}
