package main

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
)

// echo answers every request with what it got: the pages and applications behind the gateway, whose own programs
// are of no interest here.
func echo([]string) error {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		headers := map[string]string{}
		for k, v := range r.Header {
			headers[strings.ToLower(k)] = strings.Join(v, ", ")
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"app": os.Getenv("ECHO"), "method": r.Method, "host": r.Host, "path": r.URL.RequestURI(), "headers": headers})
	})
	failed := make(chan error, 2)
	for _, address := range []string{":80", ":8082"} {
		go func() { failed <- http.ListenAndServe(address, handler) }()
	}
	return <-failed
}
