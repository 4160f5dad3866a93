package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"

	"golang.org/x/net/html"
)

// maxPage bounds what is read of a login page.
const maxPage = 1 << 20

// LogIn does what a browser does with Kubeflow's login: it asks for the
// dashboard, follows the redirects to Dex, fills its form in and follows the way
// back. It returns the cookies of the gateway.
func LogIn(ctx context.Context, gateway, user, password string) ([]*http.Cookie, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Jar: jar, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	page, body, err := fetch(ctx, client, http.MethodGet, gateway+"/", nil)
	if err != nil {
		return nil, err
	}
	action, err := formAction(body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", page.Request.URL.Path, err)
	}
	target, err := page.Request.URL.Parse(action)
	if err != nil {
		return nil, err
	}
	done, _, err := fetch(ctx, client, http.MethodPost, target.String(), url.Values{"login": {user}, "password": {password}})
	if err != nil {
		return nil, err
	}
	if done.StatusCode != http.StatusOK || done.Request.URL.Path != "/" {
		return nil, fmt.Errorf("login as %s ended at %s with %s", user, done.Request.URL.Path, done.Status)
	}
	root, err := url.Parse(gateway)
	if err != nil {
		return nil, err
	}
	return jar.Cookies(root), nil
}

func fetch(ctx context.Context, c *http.Client, method, target string, form url.Values) (*http.Response, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, target, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("Accept", "text/html")
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPage))
	return resp, string(body), err
}

// formAction is where the page's first form is sent.
func formAction(page string) (string, error) {
	z := html.NewTokenizer(strings.NewReader(page))
	for {
		switch z.Next() {
		case html.ErrorToken:
			return "", errors.New("got a page without a form, want Dex's login")
		case html.StartTagToken:
			if t := z.Token(); t.Data == "form" {
				for _, a := range t.Attr {
					if a.Key == "action" {
						return a.Val, nil
					}
				}
				return "", nil
			}
		}
	}
}
