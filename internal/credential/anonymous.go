package credential

import "postern.dev/postern/internal/access"

// Anonymous is who calls when nothing tells who it is.
func Anonymous() access.Caller { return access.Anonymous() }
