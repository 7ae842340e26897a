package change

import (
	"errors"
	"fmt"
	"net"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"imagefs/store"
)

// command reads a command line: a JSON list, or a text for the shell.
func command(text string) (args []string, isShell bool, err error) {
	args, ok, err := list(text)
	if err != nil || ok {
		return args, false, err
	}
	args = []string{"/bin/sh", "-c"}
	if text != "" {
		args = append(args, text)
	}
	return args, true, nil
}

func (s *state) cmd(in instruction) error {
	args, _, err := command(in.rest)
	s.c.Cmd = args
	s.cmdSet = s.cmdSet || in.rest != "" && len(args) > 0
	return err
}

func (s *state) entrypoint(in instruction) error {
	args, _, err := command(in.rest)
	if s.c.Entrypoint = args; in.rest == "" || len(args) == 0 {
		s.c.Entrypoint = nil
	}
	if !s.cmdSet {
		s.c.Cmd = nil
	}
	return err
}

func (s *state) env(in instruction) error {
	list, err := s.pairs(in)
	for _, p := range list {
		s.setenv(p)
	}
	return err
}

func (s *state) setenv(p pair) {
	_, there := s.vars.values[p.name]
	s.vars.values[p.name] = p.value
	for i, e := range s.c.Env {
		if !there {
			break
		}
		if name, _, _ := strings.Cut(e, "="); name == p.name {
			s.c.Env[i] = p.name + "=" + p.value
			return
		}
	}
	s.c.Env = append(s.c.Env, p.name+"="+p.value)
}

func (s *state) label(in instruction) error {
	list, err := s.pairs(in)
	if s.c.Labels == nil {
		s.c.Labels = map[string]string{}
	}
	for _, p := range list {
		s.c.Labels[p.name] = p.value
	}
	return err
}

func (s *state) user(in instruction) (err error) {
	s.c.User, err = s.one(in)
	return err
}

func (s *state) workdir(in instruction) error {
	dir, err := s.one(in)
	switch {
	case err != nil:
		return err
	case dir == "":
		return errors.New("WORKDIR is empty")
	case !path.IsAbs(dir):
		dir = path.Join("/", s.c.WorkingDir, dir)
	}
	s.c.WorkingDir = dir
	return nil
}

func (s *state) volume(in instruction) error {
	dirs, ok, err := list(in.rest)
	if err != nil {
		return err
	}
	if !ok {
		dirs = strings.FieldsFunc(in.rest, func(r rune) bool { return strings.ContainsRune(blanks, r) })
	}
	if len(dirs) == 0 {
		return errors.New("VOLUME needs a path")
	}
	if s.c.Volumes == nil {
		s.c.Volumes = map[string]struct{}{}
	}
	for _, d := range dirs {
		if d, err = s.expand(strings.TrimSpace(d)); err != nil {
			return err
		}
		if d == "" {
			return errors.New("a path of VOLUME is empty")
		}
		s.c.Volumes[d] = struct{}{}
	}
	return nil
}

func (s *state) stopSignal(in instruction) error {
	sig, err := s.one(in)
	if err != nil {
		return err
	}
	if !isSignal(sig) {
		return fmt.Errorf("%q is no signal", sig)
	}
	s.c.StopSignal = sig
	return nil
}

// isSignal takes a number, or a name with or without SIG: TERM, RTMIN+3.
func isSignal(s string) bool {
	if n, err := strconv.Atoi(s); err == nil {
		return n > 0
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	for _, edge := range []string{"RTMIN+", "RTMAX-"} {
		if n, ok := strings.CutPrefix(name, edge); ok {
			k, err := strconv.ParseUint(n, 10, 8)
			return err == nil && k >= 1 && k < 16
		}
	}
	return name == "RTMIN" || name == "RTMAX" || unix.SignalNum("SIG"+name) != 0
}

func (s *state) onbuild(in instruction) error {
	trigger, _ := cut(in.rest)
	switch strings.ToUpper(trigger) {
	case "":
		return errors.New("ONBUILD needs an instruction")
	case "ONBUILD", "MAINTAINER", "FROM":
		return fmt.Errorf("%s cannot be the instruction of ONBUILD", strings.ToUpper(trigger))
	}
	_, original := cut(in.line)
	s.c.OnBuild = append(s.c.OnBuild, original)
	return nil
}

func (s *state) expose(in instruction) error {
	var ports []string
	for _, w := range strings.FieldsFunc(in.rest, func(r rune) bool { return strings.ContainsRune(blanks, r) }) {
		list, err := s.lex.ProcessWords(w, s.vars)
		if err == nil && s.vars.left < 0 {
			err = fmt.Errorf("variables of more than %d bytes altogether", store.MaxConfigSize)
		}
		if err != nil {
			return err
		}
		ports = append(ports, list...)
	}
	if in.rest == "" {
		return errors.New("EXPOSE needs a port")
	}
	if s.c.ExposedPorts == nil {
		s.c.ExposedPorts = map[string]struct{}{}
	}
	for _, p := range ports {
		first, last, proto, err := portRange(p)
		if err != nil {
			return err
		}
		for n := first; n <= last; n++ {
			s.c.ExposedPorts[strconv.Itoa(n)+"/"+proto] = struct{}{}
		}
	}
	return nil
}

// portRange reads "80", "80/udp", "8000-8010"; what is before a colon, a host's
// address and port, says nothing of an image.
func portRange(spec string) (first, last int, proto string, err error) {
	bad := fmt.Errorf("%q is no port; want one like 80, 53/udp or 8000-8010", spec)
	ports, proto, found := strings.Cut(spec, "/")
	if proto = strings.ToLower(proto); !found || proto == "" {
		proto = "tcp"
	}
	if proto != "tcp" && proto != "udp" && proto != "sctp" {
		return 0, 0, "", bad
	}
	if i := strings.LastIndexByte(ports, ':'); i >= 0 {
		host := ports[:i]
		ports = ports[i+1:]
		if i := strings.LastIndexByte(host, ':'); i >= 0 {
			if ip := strings.Trim(host[:i], "[]"); ip != "" && net.ParseIP(ip) == nil {
				return 0, 0, "", bad
			}
			host = host[i+1:]
		}
		if _, _, ok := numbers(host); host != "" && !ok {
			return 0, 0, "", bad
		}
	}
	first, last, ok := numbers(ports)
	if !ok {
		return 0, 0, "", bad
	}
	return first, last, proto, nil
}

// numbers reads a port or a range of them.
func numbers(s string) (first, last int, ok bool) {
	a, b, isRange := strings.Cut(s, "-")
	if !isRange {
		b = a
	}
	x, err := strconv.ParseUint(a, 10, 16)
	if err != nil {
		return 0, 0, false
	}
	y, err := strconv.ParseUint(b, 10, 16)
	return int(x), int(y), err == nil && y >= x
}

func (s *state) healthcheck(in instruction) error {
	kind, rest := cut(in.rest)
	h := &store.Healthcheck{}
	switch kind = strings.ToUpper(kind); kind {
	case "NONE":
		if rest != "" {
			return errors.New("HEALTHCHECK NONE takes nothing more")
		}
		h.Test = []string{kind}
	case "CMD":
		args, isShell, err := command(rest)
		if err != nil {
			return err
		}
		if isShell {
			kind, args = "CMD-SHELL", args[2:]
		}
		if len(args) == 0 {
			return errors.New("HEALTHCHECK CMD needs a command")
		}
		h.Test = append([]string{kind}, args...)
		for _, f := range in.flags {
			if err := healthFlag(h, f); err != nil {
				return err
			}
		}
	default:
		return errors.New("HEALTHCHECK needs CMD or NONE")
	}
	s.c.Healthcheck = h
	return nil
}

func healthFlag(h *store.Healthcheck, flag string) error {
	name, value, ok := strings.Cut(strings.TrimPrefix(flag, "--"), "=")
	if !ok {
		return fmt.Errorf("the flag %s needs a value", flag)
	}
	if name == "retries" {
		n, err := strconv.ParseInt(value, 10, 32)
		if err != nil || n < 0 {
			return fmt.Errorf("%s: want a number", flag)
		}
		h.Retries = int(n)
		return nil
	}
	to, ok := map[string]*time.Duration{
		"interval": &h.Interval, "timeout": &h.Timeout, "start-period": &h.StartPeriod, "start-interval": &h.StartInterval,
	}[name]
	if !ok {
		return fmt.Errorf("HEALTHCHECK has no flag --%s", name)
	}
	d, err := time.ParseDuration(value)
	if value != "" && (err != nil || d != 0 && d < time.Millisecond) {
		return fmt.Errorf("%s: want a time of 1ms or more", flag)
	}
	*to = d
	return nil
}
