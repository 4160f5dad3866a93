package kubelet

import (
	"fmt"

	"github.com/virtual-kubelet/virtual-kubelet/log"
)

// logger gives virtual-kubelet's warnings and errors to the kubelet's own log.
type logger struct {
	print func(format string, args ...any)
	with  string
}

func (l logger) Debug(...any)              {}
func (l logger) Debugf(string, ...any)     {}
func (l logger) Info(...any)               {}
func (l logger) Infof(string, ...any)      {}
func (l logger) Warn(a ...any)             { l.print("%s%s", fmt.Sprint(a...), l.with) }
func (l logger) Warnf(f string, a ...any)  { l.Warn(fmt.Sprintf(f, a...)) }
func (l logger) Error(a ...any)            { l.Warn(a...) }
func (l logger) Errorf(f string, a ...any) { l.Warnf(f, a...) }
func (l logger) Fatal(a ...any)            { l.Warn(a...) }
func (l logger) Fatalf(f string, a ...any) { l.Warnf(f, a...) }

func (l logger) WithField(k string, v any) log.Logger {
	return logger{l.print, fmt.Sprintf("%s %s=%v", l.with, k, v)}
}

func (l logger) WithFields(fields log.Fields) log.Logger {
	var out log.Logger = l
	for k, v := range fields {
		out = out.WithField(k, v)
	}
	return out
}

func (l logger) WithError(err error) log.Logger { return l.WithField("error", err) }
