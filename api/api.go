// Package api holds the protobuf definitions of the doors (banyan/v1) and of
// the conversation between nodes (banyan/peer/v1). The Go code beside them is
// generated; the .proto files are the source.
package api

//go:generate go run banyan/internal/apigen .
