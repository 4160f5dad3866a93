package serving_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"postern.dev/postern/internal/lab/serving"
)

// tree makes files (content is the name) and links ("link -> target") under a new folder.
func tree(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		link, target, isLink := strings.Cut(name, " -> ")
		path := filepath.Join(dir, link)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if isLink {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(name), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestStorageFindsTheModel(t *testing.T) {
	dir := tree(t,
		"iris/model/model.joblib", "iris/model/README.md",
		"pickled/model.pkl", "other/any-name.pickle", "linked/model.joblib -> ../pickled/model.pkl",
		"two/a.joblib", "two/b.pkl", "none/model.json", "iris/deep/special/model.joblib",
		"escape/model.joblib -> /etc/hostname", "folder/x.pkl/y", "dangling/model.pkl -> nowhere",
	)
	s := serving.Storage{Mappings: []serving.Mapping{
		{Prefix: "gs://bucket/models", Dir: dir},
		{Prefix: "gs://bucket/models/iris/deep/", Dir: filepath.Join(dir, "iris/deep/special")},
		{Prefix: "pvc://claim", Dir: dir},
		{Prefix: "/mnt/models", Dir: filepath.Join(dir, "iris")},
	}}
	for _, c := range []struct{ uri, want, failure string }{
		{"gs://bucket/models/iris/model", "iris/model/model.joblib", ""},
		{"gs://bucket/models/iris/model/", "iris/model/model.joblib", ""},
		{"gs://bucket/models/iris/model/model.joblib", "iris/model/model.joblib", ""},
		{"gs://bucket/models/pickled", "pickled/model.pkl", ""},
		{"gs://bucket/models/other", "other/any-name.pickle", ""},
		{"gs://bucket/models/linked", "linked/model.joblib", ""},
		{"gs://bucket/models/iris/deep", "iris/deep/special/model.joblib", ""},
		{"pvc://claim/iris/model", "iris/model/model.joblib", ""},
		{"/mnt/models/model", "iris/model/model.joblib", ""},
		{"file:///mnt/models/model", "iris/model/model.joblib", ""},
		{filepath.Join(dir, "pickled"), "pickled/model.pkl", ""},
		{"file://" + filepath.Join(dir, "pickled/model.pkl"), "pickled/model.pkl", ""},

		{"gs://bucket/models/two", "", "more than one model file"},
		{"gs://bucket/models/none", "", "no model file in"},
		{"gs://bucket/models/none/model.json", "", "is no model file"},
		{"gs://bucket/models/folder", "", "no model file in"},
		{"gs://bucket/models/dangling", "", "no model file in"},
		{"gs://bucket/models/missing", "", "is not there"},
		{"gs://bucket/models2/iris/model", "", "--storage gs://bucket/models2/iris/model=DIR"},
		{"gs://bucket/models/../secret", "", "leads out of its folder"},
		{"gs://bucket/models/iris/../iris/model", "", "leads out of its folder"},
		{"pvc://claim/../../etc", "", "leads out of its folder"},
		{"file:///mnt/models/../../etc", "", "leads out of its folder"},
		{"gs://bucket/models/escape", "", "no model file in"},
		{"gs://bucket/models/escape/model.joblib", "", "escapes from parent"},
		{"s3://elsewhere/m", "", "--storage s3://elsewhere/m=DIR"},
		{"https://example.com/model.joblib", "", "no local folder is mapped to it"},
		{"file://host/model", "", "want file:///ABSOLUTE/PATH"},
		{"models/iris", "", "want a URI such as"},
		{"", "", "want a URI such as"},
	} {
		file, err := s.Open(c.uri)
		if c.failure != "" {
			if err == nil || !strings.Contains(err.Error(), c.failure) {
				t.Errorf("%s: got %v, want an error with %q", c.uri, err, c.failure)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.uri, err)
			continue
		}
		if got, want := file.Name(), filepath.Join(dir, c.want); got != want {
			t.Errorf("%s: got %s, want %s", c.uri, got, want)
		}
		file.Close()
	}
}

func TestUnmappedCanBeTold(t *testing.T) {
	if _, err := (serving.Storage{}).Open("gs://b/m"); !errors.Is(err, serving.ErrUnmapped) {
		t.Errorf("got %v, want ErrUnmapped", err)
	}
}

func TestStorageRefusesWhatIsNoFileOfBearableSize(t *testing.T) {
	dir := tree(t, "small/model.pkl", "large/model.joblib", "device/model.pkl -> /dev/zero")
	large, err := os.OpenFile(filepath.Join(dir, "large/model.joblib"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer large.Close()
	if err := large.Truncate(1 << 30); err != nil { // sparse: takes no room
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "pipe"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe/model.pkl"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		uri     string
		limit   int64
		failure string
	}{
		{dir + "/small", 15, ""},
		{dir + "/small", 14, "small/model.pkl has 15 bytes, the limit is 14"},
		{dir + "/large", 0, "has 1073741824 bytes, the limit is 67108864"},
		{dir + "/pipe", 0, "no regular file"},
		{dir + "/device", 0, "no model file in"},
		{dir + "/device/model.pkl", 0, "escapes from parent"},
	} {
		file, err := serving.Storage{MaxSize: c.limit, Mappings: []serving.Mapping{{Prefix: dir, Dir: dir}}}.Open(c.uri)
		if err == nil {
			file.Close()
		}
		if (err == nil) != (c.failure == "") || err != nil && !strings.Contains(err.Error(), c.failure) {
			t.Errorf("%s: got %v, want an error with %q", c.uri, err, c.failure)
		}
	}
}

func TestParseMapping(t *testing.T) {
	for _, c := range []struct {
		text, prefix, dir string
		ok                bool
	}{
		{"gs://b/p=./models", "gs://b/p", "./models", true},
		{"gs://b/p=dir=x", "gs://b/p", "dir=x", true},
		{"/mnt/models=m", "/mnt/models", "m", true},
		{"gs://b/p=", "", "", false},
		{"gs://b/p", "", "", false},
		{"models=m", "", "", false},
		{"=m", "", "", false},
	} {
		m, err := serving.ParseMapping(c.text)
		if (err == nil) != c.ok || m != (serving.Mapping{Prefix: c.prefix, Dir: c.dir}) {
			t.Errorf("%q: got %v, %v", c.text, m, err)
		}
	}
}
