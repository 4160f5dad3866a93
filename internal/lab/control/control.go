// Package control is how `postern exec` finds a running `postern up` and what
// it asks of it. A running system leaves a file in the user's own cache
// directory, readable by the user alone, with an address on loopback and a
// token.
package control

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Info is what a running system says of itself.
type Info struct {
	PID     int       `json:"pid"`
	URL     string    `json:"url"`
	Token   string    `json:"token"`
	Gateway string    `json:"gateway"` // where the first door is, http://localhost:8080
	Started time.Time `json:"started"`
}

// Pod is what exec learns about a pod.
type Pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Address   string `json:"address"`
	Proxy     string `json:"proxy"` // an http_proxy URL with the pod's password
}

// ErrNotRunning is returned by Find when no system runs.
var ErrNotRunning = errors.New("no postern up is running")

func directory() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(base, "postern", "run"), nil
}

// Server answers exec.
type Server struct {
	file     string
	server   *http.Server
	listener net.Listener
}

// Serve announces a system and answers for its pods until Close. lookup finds a
// pod or says what there is.
func Serve(gateway string, lookup func(namespace, name string) (Pod, error)) (*Server, error) {
	dir, err := directory()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	info := Info{PID: os.Getpid(), URL: "http://" + l.Addr().String(), Token: hex.EncodeToString(b[:]), Gateway: gateway, Started: time.Now().UTC()}
	data, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return nil, err
	}
	s := &Server{listener: l, file: filepath.Join(dir, fmt.Sprintf("%d-%s.json", info.PID, info.Token[:8]))}
	if err := os.WriteFile(s.file, data, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /pods/{namespace}/{name}", func(w http.ResponseWriter, r *http.Request) {
		pod, err := lookup(r.PathValue("namespace"), r.PathValue("name"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(pod)
	})
	s.server = &http.Server{Handler: authorized(info.Token, mux), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	go func() { _ = s.server.Serve(l) }()
	return s, nil
}

func authorized(token string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+token)) != 1 {
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Close withdraws the announcement.
func (s *Server) Close() error {
	return errors.Join(os.Remove(s.file), s.server.Close())
}

// Find is the system to talk to: that of pid, or the only one when pid is 0.
func Find(pid int) (Info, error) {
	dir, err := directory()
	if err != nil {
		return Info{}, err
	}
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Info{}, err
	}
	var found []Info
	for _, f := range files {
		if info, ok := alive(filepath.Join(dir, f.Name())); ok && (pid == 0 || info.PID == pid) {
			found = append(found, info)
		}
	}
	switch len(found) {
	case 0:
		return Info{}, ErrNotRunning
	case 1:
		return found[0], nil
	}
	sort.Slice(found, func(i, j int) bool { return found[i].Started.Before(found[j].Started) })
	var list []string
	for _, i := range found {
		list = append(list, strconv.Itoa(i.PID)+" ("+i.Gateway+")")
	}
	return Info{}, fmt.Errorf("%d systems are running, choose one with --up PID: %s", len(found), strings.Join(list, ", "))
}

// alive reads an announcement and drops it when nobody answers there.
func alive(file string) (Info, bool) {
	var info Info
	data, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(data, &info) != nil {
		return info, false
	}
	conn, err := net.DialTimeout("tcp", strings.TrimPrefix(info.URL, "http://"), time.Second)
	if err != nil {
		_ = os.Remove(file)
		return info, false
	}
	conn.Close()
	return info, true
}

// Pod asks a system for one of its pods.
func (i Info) Pod(ctx context.Context, namespace, name string) (Pod, error) {
	var pod Pod
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, i.URL+"/pods/"+namespace+"/"+name, nil)
	if err != nil {
		return pod, err
	}
	req.Header.Set("Authorization", "Bearer "+i.Token)
	resp, err := (&http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}).Do(req)
	if err != nil {
		return pod, fmt.Errorf("the running postern up (pid %d): %w", i.PID, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return pod, err
	}
	if resp.StatusCode != http.StatusOK {
		return pod, errors.New(string(bytes.TrimSpace(body)))
	}
	return pod, json.Unmarshal(body, &pod)
}
