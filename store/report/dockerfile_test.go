package report

import (
	"encoding/json"
	"strings"
	"testing"

	"imagefs/store"
)

// lines rebuilds the Dockerfile of a history, without the two lines that all have.
func lines(t testing.TB, steps ...string) string {
	t.Helper()
	var h []store.History
	for _, s := range steps {
		h = append(h, store.History{CreatedBy: s})
	}
	raw, err := json.Marshal(map[string]any{"history": h})
	if err != nil {
		t.Fatal(err)
	}
	img := image(string(raw))
	out := string(Dockerfile(img))
	head := "# Rebuilt from the history of " + string(img.ID()) + ", best effort: what ADD and COPY took is not recorded.\nFROM scratch\n"
	body, ok := strings.CutPrefix(out, head)
	if !ok {
		t.Fatalf("it begins with %q", out)
	}
	return body
}

func TestDockerfile(t *testing.T) {
	hash := strings.Repeat("5c", 32)
	for in, out := range map[string]string{
		// the classic builder
		"/bin/sh -c #(nop) ADD file:" + hash + " in / ":                                  "ADD file:" + hash + " /",
		"/bin/sh -c #(nop) COPY --chown=33:33dir:" + hash + " in /var/www/html/ ":        "COPY --chown=33:33 dir:" + hash + " /var/www/html/",
		"/bin/sh -c #(nop) COPY multi:" + hash + " in /a b/ ":                            "COPY multi:" + hash + " /a b/",
		`/bin/sh -c #(nop)  CMD ["-g" "daemon off;"]`:                                    `CMD ["-g", "daemon off;"]`,
		`/bin/sh -c #(nop)  ENTRYPOINT ["/usr/sbin/nginx"]`:                              `ENTRYPOINT ["/usr/sbin/nginx"]`,
		"/bin/sh -c #(nop)  ENV PATH=/bin:/usr/bin":                                      "ENV PATH=/bin:/usr/bin",
		"/bin/sh -c #(nop)  ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8":             "ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8",
		"/bin/sh -c #(nop)  LABEL maintainer=A Name <a@example.org>":                     `LABEL maintainer="A Name <a@example.org>"`,
		`/bin/sh -c #(nop)  LABEL version=1 title=web "quoted" – ünïcode`:                `LABEL version=1 title="web \"quoted\" – ünïcode"`,
		"/bin/sh -c #(nop)  EXPOSE 443 80/tcp":                                           "EXPOSE 443 80/tcp",
		"/bin/sh -c #(nop)  VOLUME [/a /b]":                                              `VOLUME ["/a", "/b"]`,
		"/bin/sh -c #(nop) WORKDIR /srv":                                                 "WORKDIR /srv",
		"/bin/sh -c #(nop)  USER www-data:www-data":                                      "USER www-data:www-data",
		"/bin/sh -c #(nop)  STOPSIGNAL SIGQUIT":                                          "STOPSIGNAL SIGQUIT",
		"/bin/sh -c #(nop)  ONBUILD RUN true":                                            "ONBUILD RUN true",
		"/bin/sh -c #(nop)  ARG V=1":                                                     "ARG V=1",
		"/bin/sh -c #(nop)  MAINTAINER a@example.org":                                    "MAINTAINER a@example.org",
		`/bin/sh -c #(nop)  HEALTHCHECK &{["CMD-SHELL" "a 'b'"] "30s" "3s" "0s" '\x03'}`: "HEALTHCHECK --interval=30s --timeout=3s --retries=3 CMD a 'b'",
		`/bin/sh -c #(nop)  HEALTHCHECK &{["NONE"] "0s" "0s" "0s" '\x00'}`:               "HEALTHCHECK NONE",
		"/bin/sh -c make && make install":                                                "RUN make && make install",
		"|2 A=1 B=x y /bin/sh -c make":                                                   "# with the build arguments A=1 B=x y\nRUN make",
		"|0 /bin/sh -c make":                                                             "RUN make",
		// a command that was written in several lines
		"/bin/sh -c set -x \t&& a \t\t--b \t#c \t&& d": "RUN set -x \\\n\t&& a \\\n\t\t--b \t#c \\\n\t&& d",
		// BuildKit
		"RUN /bin/sh -c apk add git # buildkit":                     "RUN apk add git",
		"RUN |1 V=1 /bin/sh -c echo $V # buildkit":                  "# with the build arguments V=1\nRUN echo $V",
		"RUN /usr/bin/tool --x # buildkit":                          "RUN /usr/bin/tool --x",
		"COPY /src/a /a # buildkit":                                 "COPY /src/a /a",
		"EXPOSE map[443/tcp:{} 80/tcp:{}]":                          "EXPOSE 443/tcp 80/tcp",
		`CMD ["nginx" "-g"]`:                                        `CMD ["nginx", "-g"]`,
		`CMD ["/bin/sh"]`:                                           `CMD ["/bin/sh"]`,
		`HEALTHCHECK &{["CMD" "a" "b"] "5s" "0s" "1s" "2s" '\x00'}`: `HEALTHCHECK --interval=5s --start-period=1s --start-interval=2s CMD ["a", "b"]`,
		"RUN /bin/sh -c cat <<EOF >/a\nx\nEOF # buildkit":           "RUN cat <<EOF >/a\nx\nEOF",
		"RUN /bin/sh -c a\nb # buildkit":                            "RUN <<EOF\na\nb\nEOF",
		// others
		"":                           "# a step of which nothing is recorded",
		"bazel build ...":            "# made by: bazel build ...",
		"# debian.sh --arch 'amd64'": "# debian.sh --arch 'amd64'",
		"ko build\nx":                "# made by: ko build\n# x",
		// hostile
		"RUN /bin/sh -c \x1b[2J":  `RUN \x1b[2J`,
		"HEALTHCHECK &{[":         "HEALTHCHECK &{[",
		`HEALTHCHECK &{["CMD"] '`: `HEALTHCHECK CMD []`,
		"|-1 x":                   "RUN |-1 x",
		"|99999999999999999999 x": "RUN |99999999999999999999 x",
		"ENV":                     "ENV",
		"LABEL = = =":             `LABEL =" = ="`,
	} {
		if got := lines(t, in); got != out+"\n" {
			t.Errorf("%q: got\n%swant\n%s", in, got, out)
		}
	}
	want(t, lines(t, "RUN /bin/sh -c a", `SHELL [/bin/bash -o pipefail -c]`, "RUN /bin/bash -o pipefail -c b | c # buildkit", `SHELL ["/bin/ash", "-c"]`, "RUN /bin/ash -c d"),
		"RUN a\nSHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]\nRUN b | c\nSHELL [\"/bin/ash\", \"-c\"]\nRUN d\n")
}

// Without a history the config tells.
func TestDockerfileOfConfig(t *testing.T) {
	d := string(Dockerfile(image(`{"config":{"Env":["A=b c"],"Cmd":["x"],"Entrypoint":["/e"],"User":"u","WorkingDir":"/w","ExposedPorts":{"80/tcp":{}},
		"Volumes":{"/v":{}},"Labels":{"k":"v w"},"StopSignal":"TERM","OnBuild":["RUN y"]}}`)))
	_, got, _ := strings.Cut(d, "FROM scratch\n")
	want(t, got, `LABEL k="v w"
ENV A="b c"
EXPOSE 80/tcp
VOLUME ["/v"]
WORKDIR /w
USER u
STOPSIGNAL TERM
ONBUILD RUN y
ENTRYPOINT ["/e"]
CMD ["x"]
`)
}

func FuzzDockerfile(f *testing.F) {
	f.Add("/bin/sh -c #(nop)  HEALTHCHECK &{[\"CMD\" \"a\"] \"5s\" '\\x03'}", "|2 A=1 /bin/sh -c x")
	f.Add("SHELL [a b]", "RUN a b \tc\nd # buildkit")
	f.Fuzz(func(t *testing.T, a, b string) {
		raw, err := json.Marshal(map[string]any{"history": []store.History{{CreatedBy: a}, {CreatedBy: b}}})
		if err != nil {
			t.Fatal(err)
		}
		out := string(Dockerfile(image(string(raw))))
		if !strings.HasPrefix(out, "# Rebuilt") || !strings.HasSuffix(out, "\n") || strings.ContainsAny(out, "\x1b\r\x00") {
			t.Errorf("%q", out)
		}
		if len(out) > 20*(len(a)+len(b))+1000 {
			t.Errorf("%d bytes of %d", len(out), len(a)+len(b))
		}
	})
}
