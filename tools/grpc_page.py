"""The reference of the gRPC API, from the protos' comments: ``python -m tools.grpc_page`` prints it. Used by ``tools.docs_site``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from google.protobuf import descriptor_pb2

Field = descriptor_pb2.FieldDescriptorProto
_PUBLIC = ("router.proto", "token_tree.proto")
_SERVICES_BETWEEN = ("llm.proto", "ssm.proto")
_INTRODUCTION = """# gRPC reference

Made from the comments of `protos/specgrove/v1`. The router's service is the public one; the others are spoken between the
services, and listed below it. What the Python clients make of it stands in [Clients](../clients.md).
"""
# Where descriptors keep what: https://protobuf.dev/reference/protobuf/google.protobuf
_MESSAGE, _ENUM, _SERVICE, _FIELD, _VALUE, _METHOD = 4, 5, 6, 2, 2, 2


def grpc_page(protos: Path) -> str:
    """Markdown. Needs ``buf``."""
    files = {file.name.rpartition("/")[2]: file for file in _described(protos).file}
    parts = [_INTRODUCTION]
    for title, names in (("The router", _PUBLIC), ("Between the services", _SERVICES_BETWEEN)):
        parts.append(f"## {title}\n")
        for name in names:
            parts += _file_parts(files[name])
    return "\n".join(parts)


def _described(protos: Path) -> descriptor_pb2.FileDescriptorSet:
    buf = Path(sys.executable).with_name("buf")
    command = str(buf) if buf.exists() else shutil.which("buf")
    if command is None:
        raise FileNotFoundError("buf is missing: pip install buf-bin")
    built = subprocess.run(
        [command, "build", str(protos), "--output", "-#format=binpb"], capture_output=True, check=True
    )
    return descriptor_pb2.FileDescriptorSet.FromString(built.stdout)


def _file_parts(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    comments = {tuple(place.path): place.leading_comments.strip() for place in file.source_code_info.location}
    for index, service in enumerate(file.service):
        yield f"### {service.name}\n\n{_text(comments.get((_SERVICE, index)))}\n"
        for number, method in enumerate(service.method):
            asked = ("stream " if method.client_streaming else "") + _link(method.input_type)
            given = ("stream " if method.server_streaming else "") + _link(method.output_type)
            yield f"**`{method.name}`**({asked}) → {given}  \n{_text(comments.get((_SERVICE, index, _METHOD, number)))}\n"
    for index, message in enumerate(file.message_type):
        yield from _message_parts(message, comments, (_MESSAGE, index))
    for index, enum in enumerate(file.enum_type):
        rows = [
            (f"`{value.name}`", _text(comments.get((_ENUM, index, _VALUE, number))))
            for number, value in enumerate(enum.value)
        ]
        yield f"### {enum.name}\n\n{_text(comments.get((_ENUM, index)))}\n\n{_table(('value', ''), rows)}"


def _message_parts(
    message: descriptor_pb2.DescriptorProto, comments: dict[tuple[int, ...], str], path: tuple[int, ...]
) -> Iterator[str]:
    yield f"### {message.name}\n\n{_text(comments.get(path))}\n"
    maps = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    rows = [
        (f"`{field.name}`", _type(field, maps), _text(comments.get((*path, _FIELD, number))))
        for number, field in enumerate(message.field)
    ]
    if rows:
        yield _table(("field", "type", ""), rows)


def _type(field: Field, maps: dict[str, descriptor_pb2.DescriptorProto]) -> str:
    entry = maps.get(field.type_name.rpartition(".")[2])
    if entry is not None:
        key, value = entry.field
        return f"map of {_type(key, {})} to {_type(value, {})}"
    name = _link(field.type_name) if field.type_name else Field.Type.Name(field.type).removeprefix("TYPE_").lower()
    if field.label == Field.LABEL_REPEATED:
        return f"list of {name}"
    return f"optional {name}" if field.proto3_optional else name


def _link(type_name: str) -> str:
    name = type_name.rpartition(".")[2]
    return f"[{name}](#{name.lower()})"


def _text(comment: str | None) -> str:
    """On one line, with what Markdown would take for its own kept as it is."""
    text = " ".join((comment or "").split())
    return text.replace("|", "\\|").replace("<", "&lt;")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    print(grpc_page(Path(__file__).parent.parent / "protos"))
