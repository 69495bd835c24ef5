package pollsse

import "github.com/pollsse/caddy-poll-sse/internal/jsondiff"

// diff says whether two documents differ in value, and if so by which patch; a nil
// patch stands for the whole new document, where that costs less.
func diff(old, new *jsondiff.Document, keys []jsondiff.Key) (patch []byte, changed bool) {
	p := jsondiff.Diff(old, new, keys)
	if p.Len() == 0 {
		return nil, false
	}
	patch = p.Bytes()
	size := len(new.Bytes())
	// Applying an operation costs a browser about as much as parsing 1,500 bytes.
	if len(patch) > size/2 || p.Len() > max(64, size/1500) {
		return nil, true
	}
	return patch, true
}
