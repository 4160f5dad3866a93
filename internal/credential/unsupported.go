package credential

// Unsupported refuses a request that shows a credential of a kind that is not
// built yet: Authorization of any scheme and x-api-key. Postern cannot judge it,
// and a caller that sends one does not mean to be anybody else.
func Unsupported(h Headers) error {
	switch {
	case h.Has("authorization"):
		return &Refusal{Reason: UnsupportedCredential, Message: "the Authorization header is not supported here yet, leave it out"}
	case h.Has("x-api-key"):
		return &Refusal{Reason: UnsupportedCredential, Message: "API keys (x-api-key) are not supported here yet, leave the header out"}
	}
	return nil
}
