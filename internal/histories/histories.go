// Package histories gives tests what real endpoints answered, poll after poll.
package histories

import (
	"archive/tar"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// Recorded returns the histories, by name, in the folder that POLL_SSE_HISTORIES
// names: archives (*.tar.zst) of versions (*.json) in the order of their names.
// There are none where the variable is not set.
func Recorded(t testing.TB) map[string][]string {
	t.Helper()
	histories := make(map[string][]string)
	folder := os.Getenv("POLL_SSE_HISTORIES")
	if folder == "" {
		return histories
	}
	names, err := filepath.Glob(filepath.Join(folder, "*.tar.zst"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no archives in %s (%v)", folder, err)
	}
	for _, name := range names {
		versions, err := readArchive(name)
		if err != nil || len(versions) < 100 {
			t.Fatalf("%s: %d versions, %v", name, len(versions), err)
		}
		histories[strings.TrimSuffix(filepath.Base(name), ".tar.zst")] = versions
	}
	return histories
}

func readArchive(name string) (versions []string, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	texts := make(map[string]string)
	var names []string
	for archive := tar.NewReader(z); ; {
		h, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if path.Ext(h.Name) != ".json" {
			continue
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			return nil, err
		}
		names = append(names, h.Name)
		texts[h.Name] = string(text)
	}
	slices.Sort(names)
	for _, n := range names {
		versions = append(versions, texts[n])
	}
	return versions, nil
}
