package serving

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"postern.dev/postern/internal/sklearn"
)

// Mapping says that what lies under a storage URI's prefix is to be found in a local folder:
// --storage gs://bucket/prefix=DIR.
type Mapping struct{ Prefix, Dir string }

// ParseMapping reads the value of the flag --storage.
func ParseMapping(text string) (Mapping, error) {
	// A folder's name may hold '=', a bucket's cannot.
	prefix, dir, ok := strings.Cut(text, "=")
	if !ok || dir == "" || !strings.Contains(prefix, "://") && !filepath.IsAbs(prefix) {
		return Mapping{}, fmt.Errorf("--storage: got %q, want URI-PREFIX=DIR, such as gs://bucket/prefix=./models", text)
	}
	return Mapping{prefix, dir}, nil
}

// Storage finds the model file that an InferenceService's storageUri names. The zero value knows no
// mapping: local paths only.
type Storage struct {
	Mappings []Mapping
	// MaxSize is the size of the largest model file; 0 means sklearn.DefaultLimit.
	MaxSize int64
}

// ErrUnmapped is wrapped by the error about a URI that no mapping covers.
var ErrUnmapped = errors.New("no local folder is mapped to it")

// Open opens the one model file at uri: gs://, s3://, pvc:// and other schemes by the longest mapped
// prefix, file:// and absolute paths by that too or else as they are. The URI may name the file
// or its folder, which must then hold exactly one file that ends in .joblib, .pkl or .pickle
// (sklearnserver/model.py of github.com/kserve/kserve v0.20.0). Neither ".." nor a symbolic link
// leads out of a mapped folder. The file's Name is its path; the caller closes it.
func (s Storage) Open(uri string) (*os.File, error) {
	dir, rest, err := s.resolve(uri)
	if err != nil {
		return nil, fmt.Errorf("storage %s: %w", uri, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("storage %s: %w", uri, err)
	}
	defer root.Close()
	name, err := findModel(root, rest)
	if err != nil {
		return nil, fmt.Errorf("storage %s: %w", uri, err)
	}
	file, err := s.openModel(root, name)
	if err != nil {
		return nil, fmt.Errorf("storage %s: %w", uri, err)
	}
	return file, nil
}

// resolve maps a URI to a folder and a path inside it.
func (s Storage) resolve(uri string) (dir, rest string, err error) {
	local, isLocal, err := localPath(uri)
	if err != nil {
		return "", "", err
	}
	best := -1
	for i, m := range s.Mappings {
		candidate := uri
		if filepath.IsAbs(m.Prefix) {
			candidate = local
		}
		if _, ok := under(candidate, m.Prefix); ok && (best < 0 || len(m.Prefix) > len(s.Mappings[best].Prefix)) {
			best = i
		}
	}
	switch {
	case best >= 0:
		m := s.Mappings[best]
		candidate := uri
		if filepath.IsAbs(m.Prefix) {
			candidate = local
		}
		dir = m.Dir
		rest, _ = under(candidate, m.Prefix)
	case isLocal && isFolder(local):
		dir = local
	case isLocal:
		dir, rest = filepath.Split(filepath.Clean(local))
	default:
		return "", "", fmt.Errorf("%w: say where it is with --storage %s=DIR", ErrUnmapped, strings.TrimSuffix(uri, "/"))
	}
	if rest == "" {
		rest = "."
	}
	if !filepath.IsLocal(rest) || slices.Contains(strings.Split(rest, "/"), "..") {
		return "", "", fmt.Errorf("the path %q leads out of its folder", rest)
	}
	return dir, filepath.Clean(rest), nil
}

// localPath is the path of a file:// URI or of a URI that is an absolute path.
func localPath(uri string) (path string, ok bool, err error) {
	if filepath.IsAbs(uri) {
		return uri, true, nil
	}
	if !strings.HasPrefix(uri, "file:") {
		if !strings.Contains(uri, "://") {
			return "", false, errors.New("want a URI such as gs://bucket/path, or an absolute path")
		}
		return "", false, nil
	}
	u, err := url.Parse(uri)
	if err != nil {
		return "", false, err
	}
	if u.Host != "" && u.Host != "localhost" || !filepath.IsAbs(u.Path) {
		return "", false, errors.New("want file:///ABSOLUTE/PATH")
	}
	return u.Path, true, nil
}

// under is what of a URI or path comes after a prefix that ends where a segment does.
func under(uri, prefix string) (rest string, ok bool) {
	prefix = strings.TrimRight(prefix, "/")
	rest, ok = strings.CutPrefix(uri, prefix)
	if !ok || rest != "" && rest[0] != '/' {
		return "", false
	}
	return strings.Trim(rest, "/"), true
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// extensions are those of model files, as sklearnserver has them.
var extensions = []string{".joblib", ".pkl", ".pickle"}

func isModel(name string) bool { return slices.Contains(extensions, filepath.Ext(name)) }

// findModel gives the model file's path in root: name itself, or the only model file in that folder.
func findModel(root *os.Root, name string) (string, error) {
	info, err := root.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("%s is not there", filepath.Join(root.Name(), name))
	case err != nil:
		return "", err
	case !info.IsDir() && !isModel(name):
		return "", fmt.Errorf("%s is no model file, want one that ends in %s", filepath.Join(root.Name(), name), strings.Join(extensions, ", "))
	case !info.IsDir():
		return name, nil
	}
	folder, err := root.Open(name)
	if err != nil {
		return "", err
	}
	defer folder.Close()
	const most = 10_000 // a model's folder holds a handful of files
	entries, err := folder.ReadDir(most)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	var found []string
	for _, e := range entries {
		path := filepath.Join(name, e.Name())
		if isModel(path) {
			// A link counts as what it leads to, and one that leads nowhere not at all.
			if info, err := root.Stat(path); err == nil && !info.IsDir() {
				found = append(found, path)
			}
		}
	}
	slices.Sort(found)
	switch len(found) {
	case 0:
		return "", fmt.Errorf("no model file in %s, want one that ends in %s", filepath.Join(root.Name(), name), strings.Join(extensions, ", "))
	case 1:
		return found[0], nil
	default:
		return "", fmt.Errorf("more than one model file in %s, only one is allowed: got %s", root.Name(), strings.Join(found, ", "))
	}
}

// openModel opens a regular file of a bearable size. It asks before it opens, for opening a pipe
// would wait for a writer, and again afterwards, when nobody can put another file in its place.
func (s Storage) openModel(root *os.Root, name string) (*os.File, error) {
	info, err := root.Stat(name)
	if err != nil {
		return nil, err
	}
	if err := s.check(info, name); err != nil {
		return nil, err
	}
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err = file.Stat()
	if err == nil {
		err = s.check(info, name)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func (s Storage) check(info fs.FileInfo, name string) error {
	limit := s.MaxSize
	if limit <= 0 {
		limit = sklearn.DefaultLimit
	}
	switch {
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file", name)
	case info.Size() > limit:
		return fmt.Errorf("%s has %d bytes, the limit is %d", name, info.Size(), limit)
	}
	return nil
}
