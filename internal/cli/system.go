package cli

import (
	"io"
	"io/fs"
	"log/slog"

	"github.com/spf13/cobra"

	"postern.dev/postern/examples/story"
	"postern.dev/postern/internal/lab"
	"postern.dev/postern/internal/lab/serving"
	"postern.dev/postern/internal/manifest"
	"postern.dev/postern/internal/translate"
)

// bundledPrefix is the storage prefix that the repository's own models stand
// for: KServe's public examples.
const bundledPrefix = "gs://kfserving-examples/models"

// systemFlags are what up and demo share.
type systemFlags struct {
	envoy   string
	storage []string
	verbose bool
}

func (f *systemFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.envoy, "envoy", "", "run the gateway in the real Envoy at `PATH` (Linux)")
	c.Flags().StringArrayVar(&f.storage, "storage", nil, "take models whose storageUri begins with a prefix from a folder: `URI-PREFIX=DIR` (repeatable)")
	c.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "write every decision and failure to standard error, one JSON object a line")
}

// config is a lab configuration for manifests; cleanup removes what it made.
func (f *systemFlags) config(s streams, load func() (*manifest.Set, error)) (c lab.Config, cleanup func(), err error) {
	bundled, err := fs.Sub(story.FS, "translated")
	if err != nil {
		return c, nil, err
	}
	var store serving.Storage
	for _, text := range f.storage {
		m, err := serving.ParseMapping(text)
		if err != nil {
			return c, nil, withHint(err, "for example --storage s3://models=./models")
		}
		store.Mappings = append(store.Mappings, m)
	}
	own, cleanup, err := lab.BundledModels(story.FS, "models", bundledPrefix)
	if err != nil {
		return c, nil, err
	}
	store.Mappings = append(store.Mappings, own)
	return lab.Config{
		Load:      load,
		Translate: translate.Options{Bundled: bundled, Progress: s.err},
		Storage:   store,
		Envoy:     f.envoy,
		Self:      self(),
		Log:       f.logger(s.err),
	}, cleanup, nil
}

func (f *systemFlags) logger(w io.Writer) *slog.Logger {
	if !f.verbose {
		return nil
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
