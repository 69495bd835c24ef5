package pollsse

import (
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// logCounter counts log lines of level INFO and above.
type logCounter struct{ n int }

func (c *logCounter) logger() *zap.Logger {
	return zap.New(zapcore.RegisterHooks(zapcore.NewCore(
		zapcore.NewJSONEncoder(zapcore.EncoderConfig{}), zapcore.AddSync(discard{}), zap.InfoLevel,
	), func(zapcore.Entry) error {
		c.n++
		return nil
	}))
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
