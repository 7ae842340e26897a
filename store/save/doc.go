// Package save writes images of a store as archives: what `docker save` writes,
// and OCI archives and layouts.
//
// # Forms
//
// Docker is the archive of `docker save` from Docker 1.10 to 24, entries sorted
// by name, to the byte what dockerd 20.10 writes of the same images:
//
//	<layer's v1 ID>/            one for each layer, by the chain of layers below it
//	<layer's v1 ID>/VERSION     "1.0"
//	<layer's v1 ID>/json        the image as Docker before 1.10 described it
//	<layer's v1 ID>/layer.tar   the uncompressed tar; a layer that is in the archive
//	                            already is a symbolic link to it
//	<image ID>.json             the config
//	manifest.json               configs, names and layers, in the order of the images
//	repositories                names and the v1 IDs of the last layers; without names it is not there
//
// OCI is an image layout (OCI image spec, image-layout.md) that is a Docker
// archive as well, as Docker writes since 25:
//
//	blobs/sha256/<hex>          layers, configs, manifests
//	index.json                  a manifest for each image and name
//	manifest.json               the same for docker load, which reads no index.json
//	oci-layout
//
// AddToOCIDir adds to a layout directory that is there.
//
// # An archive is a file
//
// Headers, configs and padding are computed and kept in memory; layers stay
// where they are:
//
//	bytes │ layer.tar of layer 0 │ bytes │ layer.tar of layer 1 │ … │ bytes
//
// So the size is known before anything is read, any part can be read at any
// time, and memory does not depend on the images' sizes.
package save
