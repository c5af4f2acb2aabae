#!/bin/sh
# Builds the folder OUT (build) and a file classpath in it, from Debian's packages: default-jdk-headless protobuf-compiler
# protobuf-compiler-grpc-java-plugin libgrpc-java libprotobuf-java libnetty-java libperfmark-java
# libgeronimo-annotation-1.3-spec-java. Elsewhere: io.grpc:grpc-netty,
# grpc-protobuf, grpc-stub and org.apache.tomcat:annotations-api of Maven Central.
set -eu
here=$(dirname "$(readlink -f "$0")")
out=$(readlink -m "${1:-build}")
mkdir -p "$out/generated" "$out/classes"
protoc -I "$here/../../../protos" --java_out="$out/generated" --grpc_out="$out/generated" \
    --plugin=protoc-gen-grpc="$(command -v grpc_java_plugin)" specgrove/v1/router.proto specgrove/v1/token_tree.proto
classpath=$out/classes
for jar in grpc-api grpc-context grpc-core grpc-netty grpc-protobuf grpc-protobuf-lite grpc-stub protobuf guava perfmark-api \
    netty-common netty-buffer netty-transport netty-resolver netty-codec netty-codec-http netty-codec-http2 netty-handler \
    netty-handler-proxy geronimo-annotation-1.3-spec; do
    classpath=$classpath:/usr/share/java/$jar.jar
done
javac -nowarn -d "$out/classes" -cp "$classpath" "$here/Client.java" "$out"/generated/specgrove/v1/*.java
printf %s "$classpath" > "$out/classpath"
