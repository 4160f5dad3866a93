package authorizer

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"strings"
	"testing"
)

// TestOneFunctionAllows: no other line of the package makes an allowing verdict, or
// an answer of Envoy's that is not a refusal.
func TestOneFunctionAllows(t *testing.T) {
	files := token.NewFileSet()
	pkgs, err := parser.ParseDir(files, ".", func(f fs.FileInfo) bool { return !strings.HasSuffix(f.Name(), "_test.go") }, 0) //nolint:staticcheck // one package without build tags
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range pkgs["authorizer"].Files {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				if allows(n) {
					found = append(found, fn.Name.Name)
				}
				return true
			})
		}
	}
	if len(found) != 1 || found[0] != "allow" {
		t.Errorf("Verdict.Allow is set in %v, want in allow alone", found)
	}
}

func allows(n ast.Node) bool {
	field := func(e ast.Expr) bool {
		switch e := e.(type) {
		case *ast.SelectorExpr:
			return e.Sel.Name == "Allow"
		case *ast.Ident:
			return e.Name == "Allow"
		}
		return false
	}
	switch n := n.(type) {
	case *ast.AssignStmt:
		for _, l := range n.Lhs {
			if field(l) {
				return true
			}
		}
	case *ast.KeyValueExpr:
		return field(n.Key)
	case *ast.UnaryExpr:
		return n.Op == token.AND && field(n.X)
	}
	return false
}
