package pollsse

import "github.com/pollsse/caddy-poll-sse/internal/jsondiff"

// diff makes a document of what was polled, and says whether its value is another
// than that of old, and if so by which patch; a nil patch stands for the whole new
// document, where that costs less. Without an old document all is new.
func diff(old *jsondiff.Document, polled []byte, keys []jsondiff.Key) (document *jsondiff.Document, patch []byte, changed bool, err error) {
	if old == nil {
		document, err = jsondiff.Parse(polled)
		return document, nil, err == nil, err
	}
	differ := jsondiff.Differ{Keys: keys, Worth: worthwhile}
	document, p, err := differ.Diff(old, polled)
	switch {
	case err != nil:
		return nil, nil, false, err
	case p == nil:
		return document, nil, true, nil
	case p.Len() == 0:
		return document, nil, false, nil
	}
	return document, p.Bytes(), true, nil
}

// worthwhile reports whether a patch costs less than the whole document of size
// bytes: applying an operation costs a browser about as much as parsing 1,500 bytes.
func worthwhile(operations, bytes, size int) bool {
	return bytes <= size/2 && operations <= max(64, size/1500)
}
