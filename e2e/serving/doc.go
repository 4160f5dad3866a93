// Package serving compares, in its tests, internal/sklearn with the real scikit-learn, and
// internal/lab/serving with KServe's own scikit-learn server and with MLServer, all from PyPI and
// run by the tests themselves on 127.0.0.1.
//
// They are behind the build tag e2e and want the Python environments that setup.sh makes:
//
//	make tools
//	go test -tags e2e ./e2e/serving
package serving
