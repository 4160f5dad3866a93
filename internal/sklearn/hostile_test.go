package sklearn_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"runtime"
	"strings"
	"testing"

	"postern.dev/postern/internal/sklearn"
)

// The opcodes used to write hostile pickles by hand (Python's Lib/pickletools.py).
const (
	proto4 = "\x80\x04"
	newObj = ")\x81"
	dtypeF = "\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02f8\x89\x88\x87R(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
	empty  = "\x8c\x16numpy._core.multiarray\x8c\x0c_reconstruct\x93\x8c\x05numpy\x8c\x07ndarray\x93K\x00\x85C\x01b\x87R"
)

func short(s string) string { return "\x8c" + string(rune(len(s))) + s }

func class(module, name string) string { return short(module) + short(name) + "\x93" }

func size8(n uint64) string { return string(binary.LittleEndian.AppendUint64(nil, n)) }

// pipelineOf is a Pipeline whose list of steps is what the opcodes in steps push.
func pipelineOf(steps string) string {
	return class("sklearn.pipeline", "Pipeline") + newObj + "\x94}" + short("steps") + steps + "sb"
}

func TestRefusesHostilePickles(t *testing.T) {
	for _, c := range []struct{ name, data, want string }{
		{"os.system", proto4 + class("posix", "system") + short("touch /tmp/owned") + "\x85R.", `"posix.system" is not read here`},
		{"os.system by GLOBAL", "\x80\x03cos\nsystem\n(X\x02\x00\x00\x00idtR.", `"os.system" is not read here`},
		{"os.system by protocol 0", "cos\nsystem\n(S'id'\ntR.", `"os.system" is not read here`},
		{"os.system by INST", "(S'id'\nios\nsystem\n.", "opcode 0x53"},
		{"INST", "(ios\nsystem\n.", `"os.system" is not read here`},
		{"eval", proto4 + class("builtins", "eval") + short("1") + "\x85R.", `"builtins.eval"`},
		{"getattr", proto4 + class("builtins", "getattr") + ".", `"builtins.getattr"`},
		{"subclass by name", proto4 + class("sklearn.svm._classes", "SVC.__init__") + ".", `"sklearn.svm._classes.SVC.__init__"`},
		{"same name elsewhere", proto4 + class("evil", "SVC") + newObj + "}b.", `"evil.SVC"`},
		{"name that spans both", proto4 + class("sklearn", "svm._classes.SVC") + newObj + "}b.", "n_features_in_ is missing"},
		{"other estimator", proto4 + class("sklearn.ensemble._forest", "RandomForestClassifier") + newObj + "}b.", `"sklearn.ensemble._forest.RandomForestClassifier"`},
		{"extension registry", proto4 + "\x82\x01.", "opcode 0x82"},
		{"persistent id", proto4 + "Px\n.", "opcode 0x50"},
		{"opcode ff", proto4 + "\xff.", "opcode 0xff"},
		{"future protocol", "\x80\x06N.", "pickle protocol 6"},
		{"call of a class", proto4 + class("sklearn.svm._classes", "SVC") + ")R.", "call of the name sklearn.svm._classes.SVC"},
		{"instance with arguments", proto4 + class("sklearn.svm._classes", "SVC") + "K\x01\x85\x81.", "without arguments"},
		{"instance of a function", proto4 + class("numpy._core.multiarray", "scalar") + newObj + ".", "want an estimator's class"},
		{"state that is no dictionary", proto4 + class("sklearn.svm._classes", "SVC") + newObj + "K\x01b.", "the state of an object"},
		{"state of a number", proto4 + "K\x01}b.", "takes no state"},
		{"empty stack", proto4 + ".", "takes a value that is not there"},
		{"missing mark", proto4 + "t.", "takes a value that is not there"},
		{"missing memo", proto4 + "h\x05.", "refers to value 5"},
		{"no text", proto4 + "\x8c\x02\xff\xfe.", "not UTF-8"},
		{"huge text", proto4 + "\x8d" + size8(math.MaxUint64) + ".", "truncated"},
		{"huge bytes", proto4 + "\x8e" + size8(1<<40) + ".", "truncated"},
		{"huge frame", proto4 + "\x95" + size8(1<<62) + ".", "truncated"},
		{"huge integer", proto4 + "\x8a\xff.", "an integer of 255 bytes"},
		{"huge text integer", proto4 + "I" + strings.Repeat("9", 99) + "\n.", "want an integer of 64 bits"},
		{"huge array", proto4 + empty + "(K\x01\x8a\x08" + size8(1<<62) + "\x85" + dtypeF + "\x89C\x00tb.", "an array's shape has 4611686018427387904"},
		{"huge array of two dimensions", proto4 + empty + "(K\x01J\x00\x00\x00\x01J\x00\x00\x00\x01\x86" + dtypeF + "\x89C\x00tb.", "an array's shape has 16777216"},
		{"array larger than its bytes", proto4 + empty + "(K\x01M\xff\xff\x85" + dtypeF + "\x89C\x00tb.", "holds 0 bytes, want 524280"},
		{"wide text type", proto4 + class("numpy", "dtype") + short("U99999999") + "\x89\x88\x87R.", `type "U99999999"`},
		{"structured type", proto4 + strings.Replace(dtypeF, "NNN", "N)}", 1) + ".", "structured types"},
		{"pipeline of itself", proto4 + pipelineOf("]"+short("x")+"h\x00\x86a") + ".", "nested deeper"},
		{"deep lists", proto4 + strings.Repeat("]", 1<<17) + ".", "left over"},
		{"deep tuples", proto4 + "N" + strings.Repeat("\x85", 1<<17) + ".", "a tuple of 1"},
		{"many marks", proto4 + strings.Repeat("(", 1<<20) + ".", "more than 262144 steps"},
		{"not a model", proto4 + "K\x01.", "the model is 1, want an estimator"},
		{"a page", "<!doctype html><html>", "the opcode 0x3c"},
		{"nothing", "", "empty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := sklearn.Read(strings.NewReader(c.data), 0)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

// wrapper is joblib's array wrapper of the given shape and type, after which raw bytes are read.
func wrapper(shape, dtype string) string {
	return class("joblib.numpy_pickle", "NumpyArrayWrapper") + newObj + "}(" +
		short("subclass") + class("numpy", "ndarray") + short("shape") + shape + short("order") + short("C") +
		short("dtype") + dtype + short("numpy_array_alignment_bytes") + "K\x10ub"
}

func TestRefusesHostileJoblib(t *testing.T) {
	objects := strings.Replace(dtypeF, "f8", "O8", 1)
	nested := func(n int) string { return strings.Repeat(proto4+wrapper("K\x01\x85", objects), n) }
	for _, c := range []struct{ name, data, want string }{
		{"huge array", proto4 + wrapper("J\x00\x00\x00\x01\x85", dtypeF) + "\x00.", "truncated"},
		{"endless padding", proto4 + wrapper("K\x01\x85", dtypeF) + "\xff.", "truncated"},
		{"negative shape", proto4 + wrapper("J\xff\xff\xff\xff\x85", dtypeF) + "\x00.", "an array's shape has -1"},
		{"no type", proto4 + wrapper("K\x01\x85", "N") + "\x00.", "NumpyArrayWrapper of type missing"},
		{"nested os.system", proto4 + wrapper("K\x01\x85", objects) + proto4 + class("os", "system") + ".", `"os.system"`},
		{"nested too deep", nested(9), "nested deeper than 4"},
		{"nested something else", proto4 + wrapper("K\x01\x85", objects) + proto4 + "N..", "an array of objects is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := sklearn.Read(strings.NewReader(c.data), 0)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestRefusesModelsItCannotServe(t *testing.T) {
	for _, c := range []struct{ file, want string }{
		{"refused-xz.joblib.xz", "compressed by xz"},
		{"refused-bz2.joblib.bz2", "compressed by bz2"},
		{"refused-class.joblib", "no classifier as its last step"},
		{"refused-kernel.joblib", `the kernel "precomputed"`},
		{"refused-ties.joblib", "break_ties is true"},
		{"refused-sparse.joblib", `"scipy.sparse`},
	} {
		_, err := sklearn.Read(bytes.NewReader(bytesOf(t, c.file)), 0)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", c.file, err, c.want)
		}
	}
}

// TestTruncated cuts models at every byte: always an error.
func TestTruncated(t *testing.T) {
	for _, name := range []string{"svc-4.pkl", "svc-5.pkl", "svc-rbf.joblib", "svc.joblib.gz", "svc.joblib.zlib", "logistic-objects.joblib", "scaler-nested.joblib"} {
		whole := bytesOf(t, name)
		for n := range whole {
			if _, err := sklearn.Read(bytes.NewReader(whole[:n]), 0); err == nil {
				t.Errorf("%s: read without error when cut after %d of %d bytes", name, n, len(whole))
			}
		}
	}
}

func TestLimit(t *testing.T) {
	plain, zipped := bytesOf(t, "svc-rbf.joblib"), bytesOf(t, "svc.joblib.gz")
	for _, c := range []struct {
		data  []byte
		limit int
		ok    bool
	}{
		{plain, len(plain), true},
		{plain, len(plain) - 1, false},
		{zipped, len(plain) + 1000, true},
		{zipped, len(zipped), false}, // too large once decompressed
	} {
		_, err := sklearn.Read(bytes.NewReader(c.data), int64(c.limit))
		if (err == nil) != c.ok || (err != nil && !strings.Contains(err.Error(), "larger than the limit")) {
			t.Errorf("%d bytes with a limit of %d: got %v", len(c.data), c.limit, err)
		}
	}
}

// TestAllocatesLittle: what a file declares costs nothing until it is there.
func TestAllocatesLittle(t *testing.T) {
	for name, data := range map[string]string{
		"frame": proto4 + "\x95" + size8(1<<40) + ".",
		"text":  proto4 + "\x8d" + size8(1<<40) + ".",
		"array": proto4 + wrapper("J\x00\x00\x00\x01\x85", dtypeF) + "\x00.",
		"lists": proto4 + strings.Repeat("]", 1<<20),
		"dicts": proto4 + strings.Repeat("}", 1<<20),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := sklearn.Read(strings.NewReader(data), 0); err == nil {
			t.Errorf("%s: got no error", name)
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 64<<20 {
			t.Errorf("%s: allocated %d bytes, want at most 64 MiB", name, got)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, name := range []string{"svc-3.pkl", "svc-5.pkl", "svc-rbf.joblib", "logistic-objects.joblib", "logistic-binary.joblib", "scaler-nested.joblib", "svc.joblib.zlib"} {
		f.Add(bytesOf(f, name))
	}
	f.Add([]byte(proto4 + pipelineOf("]"+short("x")+"h\x00\x86a") + "."))
	f.Add([]byte(proto4 + empty + "(K\x01K\x01\x85" + dtypeF + "\x89C\x00tb."))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := sklearn.Read(bytes.NewReader(data), 1<<20)
		if err != nil {
			return
		}
		if m.Features() > 1000 {
			return
		}
		labels, err := m.Predict([][]float64{make([]float64, m.Features())})
		if err == nil && len(labels) != 1 {
			t.Errorf("got %d labels for one row", len(labels))
		}
		_ = m.String()
	})
}
