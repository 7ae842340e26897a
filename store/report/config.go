package report

import (
	"encoding/json"

	"imagefs/store"
)

// imageConfig is what only Inspect needs of an image config.
type imageConfig struct {
	Comment         string                 `json:"comment"`
	Container       string                 `json:"container"`
	ContainerConfig store.ContainerConfig  `json:"container_config"`
	DockerVersion   string                 `json:"docker_version"`
	Config          *store.ContainerConfig `json:"config"`
	RootFS          struct {
		Type string `json:"type"`
	} `json:"rootfs"`
}

// parseConfig reads as much as there is: a field of a wrong type stays empty.
func parseConfig(raw []byte) imageConfig {
	var c imageConfig
	// After an UnmarshalTypeError all other fields are filled in.
	_ = json.Unmarshal(raw, &c)
	return c
}
