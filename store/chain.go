package store

import (
	digest "github.com/opencontainers/go-digest"
)

// ChainID returns the chain ID of a stack of layers, bottom first: the first
// diff ID itself, then the SHA-256 of "<chain ID> <diff ID>" at each step
// (OCI image spec, config.md, "Layer ChainID"). "" for no layers.
func ChainID(diffIDs []digest.Digest) digest.Digest {
	var chain digest.Digest
	for _, d := range diffIDs {
		chain = NextChainID(chain, d)
	}
	return chain
}

// NextChainID returns the chain ID of a layer on top of parent; parent is "" for the lowest layer.
func NextChainID(parent, diffID digest.Digest) digest.Digest {
	if parent == "" {
		return diffID
	}
	return digest.FromString(parent.String() + " " + diffID.String())
}
