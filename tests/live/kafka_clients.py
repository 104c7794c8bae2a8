#!/usr/bin/env python3
"""Reads a Kafka topic with another language's libraries and decodes every record.

Why it exists: Custody's Rust code writes and reads its own records, so a mistake made on both sides
would not show there. This check takes only the `.avsc` files and the bytes on the wire, and goes
through `confluent-kafka` and `fastavro`.

It reads what the topic holds when it starts (up to each partition's high watermark), with
`isolation.level=read_committed`, and expects each value in Avro single-object encoding: 0xC3 0x01,
the CRC-64-AVRO fingerprint of the schema's Parsing Canonical Form (8 bytes, little-endian), the Avro
binary of the datum. https://avro.apache.org/docs/1.12.0/specification/#single-object-encoding

Prints one JSON object: `records`, `by_type` (record type to count), `failed`, and `faults`, the first
few reasons with partition and offset.

Exit codes: 0 every record decodes and the count is the expected one; 1 it is not so, or the broker,
the topic or the schemas cannot be read; 2 wrong usage.

What it deliberately does not do: write to the topic, commit offsets, judge values, or read the
schema-registry frame (0x00 and an id).
"""

import argparse
import io
import json
import sys
import time
from collections import Counter
from pathlib import Path

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec
from fastavro import parse_schema, schemaless_reader
from fastavro.schema import fingerprint, to_parsing_canonical_form

MAGIC = b"\xc3\x01"
HEADER_BYTES = len(MAGIC) + 8
NAMED = ("record", "error", "enum", "fixed")
PRIMITIVE = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
FAULTS_SHOWN_MAX = 10
LOG_CRITICAL = 2  # syslog level: the client would log every attempt to reach a broker that is not there


class Fault(Exception):
    """Why the check fails; the message is for the person who reads the output."""


# --- schemas ---------------------------------------------------------------------------------------


def full_name(schema, enclosing):
    """The full name of a named schema's definition inside the namespace `enclosing`."""
    name = schema["name"]
    if "." in name:
        return name
    namespace = schema.get("namespace", enclosing)
    return f"{namespace}.{name}" if namespace else name


def read_definitions(directory):
    """All named types of the `.avsc` files below `directory`, by full name."""
    definitions = {}
    for path in sorted(Path(directory).rglob("*.avsc")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise Fault(f"{path} is not JSON: {error}") from error
        for schema in content if isinstance(content, list) else [content]:
            if not isinstance(schema, dict) or schema.get("type") not in NAMED:
                raise Fault(f"{path} does not define a named type")
            name = full_name(schema, "")
            if name in definitions:
                raise Fault(f"{path} defines {name} a second time")
            definitions[name] = schema
    if not definitions:
        raise Fault(f"no .avsc file below {directory}")
    return definitions


def resolve(schema, namespace, definitions, seen):
    """`schema` as one self-contained schema: the first mention of a named type becomes its definition.

    That is the form whose Parsing Canonical Form the fingerprint is of. `seen` collects the full names
    defined so far, in the order in which a reader meets them.
    """
    if isinstance(schema, list):
        return [resolve(branch, namespace, definitions, seen) for branch in schema]
    if isinstance(schema, str):
        return resolve_name(schema, namespace, definitions, seen)
    kind = schema["type"]
    if kind in NAMED:
        name = full_name(schema, namespace)
        if name in seen:
            raise Fault(f"{name} is defined twice within one schema")
        seen.add(name)
        resolved = {**schema, "name": name}
        resolved.pop("namespace", None)
        inner = name.rpartition(".")[0]
        if kind in ("record", "error"):
            resolved["fields"] = [
                {**field, "type": resolve(field["type"], inner, definitions, seen)}
                for field in schema["fields"]
            ]
        return resolved
    if kind == "array":
        return {**schema, "items": resolve(schema["items"], namespace, definitions, seen)}
    if kind == "map":
        return {**schema, "values": resolve(schema["values"], namespace, definitions, seen)}
    return {**schema, "type": resolve(kind, namespace, definitions, seen)}


def resolve_name(name, namespace, definitions, seen):
    """A primitive's name as it is; a named type's definition at its first mention, then its full name."""
    if name in PRIMITIVE:
        return name
    full = name if "." in name or not namespace else f"{namespace}.{name}"
    if full in seen:
        return full
    if full not in definitions:
        raise Fault(f"no .avsc file defines {full}")
    return resolve(definitions[full], "", definitions, seen)


def load_schemas(directory):
    """The record types below `directory`: fingerprint bytes as on the wire to (full name, schema)."""
    definitions = read_definitions(directory)
    schemas = {}
    for name, definition in definitions.items():
        if definition["type"] != "record":
            continue
        resolved = resolve(definition, "", definitions, set())
        canonical = to_parsing_canonical_form(resolved)
        # fastavro prints the fingerprint's bytes little-endian, which is their order on the wire.
        wire = bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO"))
        if wire in schemas:
            raise Fault(f"{name} and {schemas[wire][0]} have the same fingerprint")
        schemas[wire] = (name, parse_schema(resolved, named_schemas={}))
    return schemas


def decode(value, schemas):
    """The full name of the record type of `value`, after decoding all of it."""
    if value is None:
        raise Fault("no value")
    if value[: len(MAGIC)] != MAGIC or len(value) < HEADER_BYTES:
        raise Fault(f"not in single-object encoding: starts with {value[:HEADER_BYTES].hex()}")
    wire = value[len(MAGIC) : HEADER_BYTES]
    if wire not in schemas:
        raise Fault(f"no schema with fingerprint {wire.hex()} (bytes as on the wire)")
    name, schema = schemas[wire]
    body = io.BytesIO(value[HEADER_BYTES:])
    try:
        schemaless_reader(body, schema, None)
    except Exception as error:  # fastavro raises EOFError, ValueError, IndexError and others
        raise Fault(f"{name} does not decode: {type(error).__name__}: {error}") from error
    left = len(value) - HEADER_BYTES - body.tell()
    if left:
        raise Fault(f"{name} decodes with {left} bytes left over")
    return name


# --- the topic -------------------------------------------------------------------------------------


def end_offsets(bootstrap, topic, timeout_s):
    """Each partition's high watermark, open transactions included."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": LOG_CRITICAL})
    metadata = admin.list_topics(topic, timeout=timeout_s).topics[topic]
    if metadata.error is not None:
        raise Fault(f"topic {topic} cannot be read: {metadata.error}")
    requested = {TopicPartition(topic, p): OffsetSpec.latest() for p in metadata.partitions}
    futures = admin.list_offsets(
        requested, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=timeout_s
    )
    return {at.partition: future.result().offset for at, future in futures.items()}


def read_topic(bootstrap, topic, timeout_s):
    """Yields the committed records up to the high watermarks of the start, in no order across partitions.

    A partition is read when a record or the end-of-partition event stands at its watermark. An open
    transaction keeps it below; if nothing arrives for `timeout_s`, that is reported as a fault.
    """
    ends = end_offsets(bootstrap, topic, timeout_s)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "custody-kafka-clients",  # the client wants one; no offset is committed
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    try:
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in ends])
        unread = set(ends)
        deadline = time.monotonic() + timeout_s
        while unread:
            message = consumer.poll(max(0.0, deadline - time.monotonic()))
            if message is None:
                below = ", ".join(f"{p} below {ends[p]}" for p in sorted(unread))
                raise Fault(
                    f"no record for {timeout_s} s, partitions not read to their end: {below} "
                    "(an open transaction, or the broker is gone)"
                )
            partition, error = message.partition(), message.error()
            if partition in unread:
                deadline = time.monotonic() + timeout_s
            if error is None:
                if message.offset() < ends[partition]:
                    yield message
                position = message.offset() + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                position = message.offset()
            else:
                raise KafkaException(error)
            if position >= ends[partition]:
                unread.discard(partition)
    finally:
        consumer.close()


def check(bootstrap, directory, topic, expect, timeout_s):
    """The report, and whether the topic passes."""
    schemas = load_schemas(directory)
    by_type, faults, failed = Counter(), [], 0
    for message in read_topic(bootstrap, topic, timeout_s):
        try:
            by_type[decode(message.value(), schemas)] += 1
        except Fault as fault:
            failed += 1
            if len(faults) < FAULTS_SHOWN_MAX:
                faults.append(f"partition {message.partition()} offset {message.offset()}: {fault}")
    records = by_type.total() + failed
    if expect is not None and records != expect:
        faults.append(f"{records} records where {expect} were expected")
    report = {"records": records, "by_type": dict(sorted(by_type.items())), "failed": failed, "faults": faults}
    return report, not faults


def arguments():
    parser = argparse.ArgumentParser(description="Decodes every committed record of a Kafka topic.")
    parser.add_argument("--bootstrap", required=True, metavar="HOST:PORT")
    parser.add_argument("--schemas", required=True, metavar="DIR", help="directory of the .avsc files")
    parser.add_argument("--topic", required=True, metavar="NAME")
    parser.add_argument("--expect", type=int, metavar="N", help="number of records the topic must hold")
    parser.add_argument(
        "--timeout-s", type=float, default=30.0, metavar="S", help="longest wait without a record (default 30)"
    )
    return parser.parse_args()


def main():
    args = arguments()
    try:
        report, passed = check(args.bootstrap, args.schemas, args.topic, args.expect, args.timeout_s)
    except (Fault, KafkaException) as error:
        print(f"kafka_clients: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report, indent=2))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
