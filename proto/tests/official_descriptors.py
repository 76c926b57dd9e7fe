"""Prints what an installed official Python client says about the package apache.rocketmq.v2, one fact a line.

Usage: official_descriptors.py FOLDER, where FOLDER is a site-packages folder that holds rocketmq-python-client and protobuf.

Each generated *_pb2.py hands a serialized FileDescriptorProto to AddSerializedFile. We read that literal from the source text, so
that neither the client nor its generated code has to be importable. A line is `kind path = facts`; same_wire.rs writes the same
lines from our own descriptors.
"""

import ast
import pathlib
import sys

PACKAGE = "apache.rocketmq.v2"
OPTIONS = [
    "java_package",
    "java_outer_classname",
    "java_multiple_files",
    "java_generate_equals_and_hash",
    "java_string_check_utf8",
    "cc_enable_arenas",
    "csharp_namespace",
]


def serialized_files(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "AddSerializedFile":
            yield node.args[0].value


def label(field, message):
    if field.label == field.LABEL_REPEATED:
        return "repeated"
    if field.proto3_optional:
        return "optional"
    if field.HasField("oneof_index"):
        return "oneof:" + message.oneof_decl[field.oneof_index].name
    return "single"


def list_enum(enum, scope):
    for value in enum.value:
        yield f"value {scope}{enum.name}.{value.name} = {value.number}"


def list_message(message, scope):
    path = f"{scope}{message.name}"
    yield f"message {path} = {'map' if message.options.map_entry else 'plain'}"
    for field in message.field:
        kind = field.Type.Name(field.type)
        facts = f"{field.number} {kind} {field.type_name or '-'} {label(field, message)}"
        yield f"field {path}.{field.name} = {facts}"
    for gap in message.reserved_range:
        yield f"reserved {path}.{gap.start} = {gap.end}"
    for enum in message.enum_type:
        yield from list_enum(enum, path + ".")
    for nested in message.nested_type:
        yield from list_message(nested, path + ".")


def list_service(service):
    for method in service.method:
        sides = [(method.client_streaming, method.input_type), (method.server_streaming, method.output_type)]
        facts = " -> ".join(("stream " if streaming else "") + kind for streaming, kind in sides)
        yield f"rpc {service.name}.{method.name} = {facts}"


def list_file(file):
    name = file.name.rsplit("/", 1)[-1]
    for option in OPTIONS:
        if file.options.HasField(option):
            # Lower case, because Python and Rust write true and false differently.
            yield f"option {name}.{option} = {str(getattr(file.options, option)).lower()}"
    for enum in file.enum_type:
        yield from list_enum(enum, "")
    for message in file.message_type:
        yield from list_message(message, "")
    for service in file.service:
        yield from list_service(service)


def main(folder):
    sys.path.insert(0, folder)
    from google.protobuf import descriptor_pb2

    lines = set()
    for path in sorted(pathlib.Path(folder, "rocketmq").rglob("*_pb2.py")):
        for serialized in serialized_files(path.read_text(encoding="utf-8")):
            file = descriptor_pb2.FileDescriptorProto.FromString(serialized)
            if file.package == PACKAGE:
                lines.update(list_file(file))
    print("\n".join(sorted(lines)))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
