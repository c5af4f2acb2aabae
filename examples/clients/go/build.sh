#!/bin/sh
# Builds client in the folder OUT (build), from Debian's packages: golang-go protobuf-compiler protoc-gen-go-1-5 protoc-gen-go-grpc
# golang-google-grpc-dev golang-github-golang-protobuf-1-5-dev. With Go's modules: generate as here, then `go mod init` and `go mod tidy`.
set -eu
here=$(dirname "$(readlink -f "$0")")
out=$(readlink -m "${1:-build}")
module=specgrove.example/client
source=$out/src/$module
options=module=$module
for proto in specgrove/v1/router.proto specgrove/v1/token_tree.proto; do
    options=$options,M$proto=$module/specgrove/v1
done
mkdir -p "$source"
cp "$here/main.go" "$source"
protoc -I "$here/../../../protos" --go_out="$options:$source" --go-grpc_out="$options:$source" \
    specgrove/v1/router.proto specgrove/v1/token_tree.proto
cd "$source"
GO111MODULE=off GOPATH=$out:/usr/share/gocode GOCACHE=${GOCACHE:-$out/cache} go build -o "$out/client" .
