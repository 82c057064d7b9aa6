"""confluent-kafka (librdkafka): topics, produce, consume, groups, offsets, configurations."""

import time

from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_CREATE_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec, ResourceType

from check import Checks, equal, require, unique, wait_until

checks = Checks("kafka")
BOOTSTRAP = {"bootstrap.servers": checks.address, "broker.address.family": "v4"}
admin = AdminClient(BOOTSTRAP)
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


def create_topic(partitions=1, config=None, name=None):
    name = name or unique("confluent")
    future = admin.create_topics([NewTopic(name, partitions, 1, config=config or {})])[name]
    future.result(30)
    return name


def kafka_code(future):
    try:
        future.result(30)
    except KafkaException as error:
        return error.args[0].code()
    return None


def producer(**config):
    # Plain producing is what this program asks for; idempotence has checks of its own.
    settings = {**BOOTSTRAP, "enable.idempotence": False, "linger.ms": 5}
    settings.update({key.replace("_", "."): value for key, value in config.items()})
    return Producer(settings)


def consumer(group, **config):
    settings = {
        **BOOTSTRAP,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "session.timeout.ms": 10000,
        "heartbeat.interval.ms": 500,
        "fetch.wait.max.ms": 200,
        "topic.metadata.refresh.interval.ms": 1000,
    }
    settings.update({key.replace("_", "."): value for key, value in config.items()})
    return Consumer(settings)


def produce_all(target, records):
    """Produces (topic, kwargs) pairs, waits for all and returns the delivered messages in order."""
    delivered, failures = [], []

    def report(error, message):
        (failures if error else delivered).append(error or message)

    for topic, fields in records:
        target.produce(topic, on_delivery=report, **fields)
        target.poll(0)
    left = target.flush(30)
    equal(left, 0, "messages still in the producer")
    require(not failures, f"delivery failed: {failures[:1]}")
    return delivered


def read(reader, count, seconds=30):
    """Polls until `count` messages arrived."""
    messages = []
    deadline = time.monotonic() + seconds
    while len(messages) < count:
        require(time.monotonic() < deadline, f"{len(messages)} of {count} messages after {seconds} s")
        message = reader.poll(0.5)
        if message is None:
            continue
        if message.error():
            raise KafkaException(message.error())
        messages.append(message)
    return messages


def read_assigned(topic, count, partition=0, offset=OFFSET_BEGINNING, **config):
    reader = consumer(unique("assigned"), **config)
    reader.assign([TopicPartition(topic, partition, offset)])
    try:
        return read(reader, count)
    finally:
        reader.close()


def offset_of(topic, partition, spec, **kwargs):
    key = TopicPartition(topic, partition)
    result = admin.list_offsets({key: spec}, **kwargs)[key].result(30)
    return result.offset, result.timestamp


@checks.case("create topic")
def _():
    topic = create_topic(3)
    metadata = admin.list_topics(topic, timeout=30).topics[topic]
    equal(sorted(metadata.partitions), [0, 1, 2], "partitions")
    for partition in metadata.partitions.values():
        require(partition.leader in partition.replicas, f"leader {partition.leader} is not a replica")
        require(partition.error is None, f"partition error {partition.error}")


@checks.case("create topic refusals")
def _():
    topic = create_topic(1)
    again = admin.create_topics([NewTopic(topic, 1, 1)])[topic]
    equal(kafka_code(again), KafkaError.TOPIC_ALREADY_EXISTS, "same name again")
    bad = "no spaces allowed"
    equal(kafka_code(admin.create_topics([NewTopic(bad, 1, 1)])[bad]), KafkaError.TOPIC_EXCEPTION, "bad name")
    zero = unique("zero")
    code = kafka_code(admin.create_topics([NewTopic(zero, 0, 1)])[zero])
    equal(code, KafkaError.INVALID_PARTITIONS, "no partitions")
    wide = unique("wide")
    code = kafka_code(admin.create_topics([NewTopic(wide, 1, 7)])[wide])
    equal(code, KafkaError.INVALID_REPLICATION_FACTOR, "more replicas than brokers")
    odd = unique("odd")
    code = kafka_code(admin.create_topics([NewTopic(odd, 1, 1, config={"no.such.setting": "1"})])[odd])
    equal(code, KafkaError.INVALID_CONFIG, "unknown setting")


@checks.case("validate only creates nothing")
def _():
    topic = unique("dry")
    admin.create_topics([NewTopic(topic, 2, 1)], validate_only=True)[topic].result(30)
    require(topic not in admin.list_topics(timeout=30).topics, "the topic exists")


@checks.case("describe configs")
def _():
    topic = create_topic(1, {"retention.ms": "123456789", "max.message.bytes": "200000"})
    resource = ConfigResource(ResourceType.TOPIC, topic)
    config = admin.describe_configs([resource])[resource].result(30)
    equal(config["retention.ms"].value, "123456789", "retention.ms")
    equal(config["max.message.bytes"].value, "200000", "max.message.bytes")
    equal(config["cleanup.policy"].value, "delete", "cleanup.policy")
    require(not config["retention.ms"].is_default, "retention.ms was set, and is called a default")
    require(config["cleanup.policy"].is_default, "cleanup.policy was not set, and is not called a default")
    for name in ["retention.bytes", "segment.bytes", "compression.type", "message.timestamp.type"]:
        require(name in config, f"{name} is not described")


@checks.case("describe configs of an unknown topic")
def _():
    resource = ConfigResource(ResourceType.TOPIC, unique("missing"))
    code = kafka_code(admin.describe_configs([resource])[resource])
    equal(code, KafkaError.UNKNOWN_TOPIC_OR_PART, "error")


for codec in CODECS:

    @checks.case(f"produce and consume {codec}")
    def _(codec=codec):
        topic = create_topic(1)
        source = producer(compression_type=codec)
        start = 1_700_000_000_000
        sent = [
            {
                "key": f"key-{index % 7}".encode(),
                "value": f"value {index} ".encode() * 20,
                "headers": [("number", str(index).encode()), ("none", None), ("twice", b"1"), ("twice", b"2")],
                "timestamp": start + index,
            }
            for index in range(500)
        ]
        delivered = produce_all(source, [(topic, fields) for fields in sent])
        equal([message.offset() for message in delivered], list(range(500)), "offsets in delivery reports")
        received = read_assigned(topic, 500)
        for index, (message, fields) in enumerate(zip(received, sent)):
            equal(message.offset(), index, "offset")
            equal(message.key(), fields["key"], "key")
            equal(message.value(), fields["value"], "value")
            equal(message.headers(), fields["headers"], "headers")
            equal(message.timestamp(), (TIMESTAMP_CREATE_TIME, fields["timestamp"]), "timestamp")


for acks in ["0", "1", "all"]:

    @checks.case(f"produce with acks {acks}")
    def _(acks=acks):
        topic = create_topic(1)
        produce_all(producer(acks=acks), [(topic, {"value": str(n).encode()}) for n in range(100)])
        received = read_assigned(topic, 100)
        equal([message.value() for message in received], [str(n).encode() for n in range(100)], "values")


@checks.case("null and empty keys and values")
def _():
    topic = create_topic(1)
    pairs = [(b"k", None), (None, b"v"), (b"", b""), (None, None)]
    produce_all(producer(), [(topic, {"key": key, "value": value}) for key, value in pairs])
    received = read_assigned(topic, len(pairs))
    equal([(message.key(), message.value()) for message in received], pairs, "key and value")


@checks.case("keys keep to their partition in order")
def _():
    topic = create_topic(4)
    records = [(topic, {"key": f"k{n % 10}".encode(), "value": str(n).encode()}) for n in range(1000)]
    produce_all(producer(), records)
    reader = consumer(unique("order"))
    reader.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(4)])
    received = read(reader, 1000)
    reader.close()
    home, last = {}, {}
    for message in received:
        equal(home.setdefault(message.key(), message.partition()), message.partition(), "partition of a key")
        number = int(message.value())
        require(number > last.get(message.key(), -1), f"{number} after {last.get(message.key())}")
        last[message.key()] = number
    require(len(set(home.values())) > 1, "all keys are in one partition")


@checks.case("idempotent producer")
def _():
    topic = create_topic(1)
    source = producer(enable_idempotence=True)
    produce_all(source, [(topic, {"value": str(n).encode()}) for n in range(200)])
    received = read_assigned(topic, 200)
    equal([int(message.value()) for message in received], list(range(200)), "values")


@checks.case("fetch waits for new records")
def _():
    topic = create_topic(1)
    reader = consumer(unique("wait"), fetch_wait_max_ms=5000)
    reader.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    require(reader.poll(1.0) is None, "a record in an empty topic")
    source = producer()
    for number in range(5):
        produce_all(source, [(topic, {"value": str(number).encode()})])
        equal(read(reader, 1)[0].value(), str(number).encode(), "value")
    reader.close()


@checks.case("start in the middle of a batch")
def _():
    topic = create_topic(1)
    produce_all(producer(linger_ms=200), [(topic, {"value": str(n).encode()}) for n in range(100)])
    received = read_assigned(topic, 37, offset=63)
    equal([message.offset() for message in received], list(range(63, 100)), "offsets")


@checks.case("big record and small fetch sizes")
def _():
    topic = create_topic(1)
    body = bytes(range(256)) * 3000
    produce_all(producer(), [(topic, {"value": body}) for _ in range(4)])
    received = read_assigned(topic, 4, fetch_max_bytes=65536, message_max_bytes=65536, max_partition_fetch_bytes=4096)
    equal([len(message.value()) for message in received], [len(body)] * 4, "sizes")
    require(all(message.value() == body for message in received), "a value changed")


@checks.case("record over max.message.bytes")
def _():
    topic = create_topic(1, {"max.message.bytes": "10000"})
    source = producer(message_max_bytes=10_000_000)
    codes = []
    source.produce(topic, value=b"x" * 20000, on_delivery=lambda error, _m: codes.append(error and error.code()))
    source.flush(30)
    equal(codes, [KafkaError.MSG_SIZE_TOO_LARGE], "delivery report")


@checks.case("two group members share partitions")
def _():
    topic = create_topic(4)
    group = unique("group")
    first, second = consumer(group), consumer(group)
    members = {"first": first, "second": second}
    seen = {"first": [], "second": []}

    def step():
        for name, member in members.items():
            message = member.poll(0.05)
            if message is not None and not message.error():
                seen[name].append(message)

    def partitions(member):
        return {part.partition for part in member.assignment()}

    first.subscribe([topic])
    wait_until(lambda: partitions(first) == {0, 1, 2, 3}, "the first member owns all partitions", 40, step)
    second.subscribe([topic])
    wait_until(
        lambda: len(partitions(first)) == 2
        and len(partitions(second)) == 2
        and partitions(first) | partitions(second) == {0, 1, 2, 3},
        "the members share the partitions",
        40,
        step,
    )
    source = producer()
    for number in range(200):
        source.produce(topic, value=str(number).encode(), partition=number % 4)
    equal(source.flush(30), 0, "messages still in the producer")
    wait_until(lambda: len(seen["first"]) + len(seen["second"]) >= 200, "all records", 40, step)
    values = sorted(int(message.value()) for messages in seen.values() for message in messages)
    equal(values, list(range(200)), "values")
    require(seen["first"] and seen["second"], "one member received nothing")
    members.pop("second").close()
    wait_until(lambda: partitions(first) == {0, 1, 2, 3}, "the first member takes over", 40, step)
    first.close()


@checks.case("commit and resume")
def _():
    topic = create_topic(1)
    group = unique("resume")
    produce_all(producer(), [(topic, {"value": str(n).encode()}) for n in range(50)])
    reader = consumer(group)
    reader.subscribe([topic])
    received = read(reader, 20)
    where = TopicPartition(topic, 0, received[19].offset() + 1, metadata="twenty")
    committed = reader.commit(offsets=[where], asynchronous=False)
    equal(committed[0].error, None, "commit error")
    reader.close()
    reader = consumer(group)
    stored = reader.committed([TopicPartition(topic, 0)], timeout=30)[0]
    equal((stored.offset, stored.metadata), (20, "twenty"), "committed offset and metadata")
    reader.subscribe([topic])
    equal([int(message.value()) for message in read(reader, 30)], list(range(20, 50)), "values after the commit")
    reader.close()


@checks.case("a group without commits has no offset")
def _():
    topic = create_topic(1)
    reader = consumer(unique("fresh"))
    equal(reader.committed([TopicPartition(topic, 0)], timeout=30)[0].offset, -1001, "committed offset")
    reader.close()


@checks.case("list offsets")
def _():
    topic = create_topic(1)
    start = 1_700_000_000_000
    records = [(topic, {"value": b"x", "timestamp": start + 1000 * n}) for n in range(10)]
    for record in records:
        produce_all(producer(), [record])
    equal(offset_of(topic, 0, OffsetSpec.earliest())[0], 0, "earliest")
    equal(offset_of(topic, 0, OffsetSpec.latest())[0], 10, "latest")
    equal(offset_of(topic, 0, OffsetSpec.for_timestamp(start + 3000)), (3, start + 3000), "exact time")
    equal(offset_of(topic, 0, OffsetSpec.for_timestamp(start + 3001)), (4, start + 4000), "between two")
    equal(offset_of(topic, 0, OffsetSpec.for_timestamp(0)), (0, start), "before all")
    equal(offset_of(topic, 0, OffsetSpec.for_timestamp(start + 10_000_000)), (-1, -1), "after all")
    equal(offset_of(topic, 0, OffsetSpec.max_timestamp()), (9, start + 9000), "largest timestamp")


@checks.case("list offsets inside a batch")
def _():
    topic = create_topic(1)
    start = 1_700_000_000_000
    records = [(topic, {"value": b"x", "timestamp": start + 10 * n}) for n in range(100)]
    produce_all(producer(linger_ms=200, compression_type="lz4"), records)
    reader = consumer(unique("times"))
    found = reader.offsets_for_times([TopicPartition(topic, 0, start + 555)], timeout=30)[0]
    equal(found.offset, 56, "offset for time")
    late = reader.offsets_for_times([TopicPartition(topic, 0, start + 10_000_000)], timeout=30)[0]
    require(late.offset < 0, f"offset {late.offset} for a time after the last record")
    equal(reader.get_watermark_offsets(TopicPartition(topic, 0), timeout=30), (0, 100), "watermarks")
    reader.close()


@checks.case("offset out of range")
def _():
    topic = create_topic(1)
    produce_all(producer(), [(topic, {"value": b"x"})])
    reader = consumer(unique("range"), auto_offset_reset="error")
    reader.assign([TopicPartition(topic, 0, 1000)])
    codes = []

    def step():
        message = reader.poll(0.2)
        if message is not None:
            codes.append(message.error() and message.error().code())

    wait_until(lambda: codes, "an error", 30, step)
    equal(codes[0], KafkaError._AUTO_OFFSET_RESET, "error")
    reader.close()


@checks.case("unknown topic")
def _():
    name = unique("missing")
    reader = consumer(unique("unknown"), allow_auto_create_topics=False)
    reader.subscribe([name])
    codes = []

    def step():
        message = reader.poll(0.2)
        if message is not None and message.error():
            codes.append(message.error().code())

    wait_until(lambda: codes, "an error", 30, step)
    equal(codes[0], KafkaError.UNKNOWN_TOPIC_OR_PART, "error")
    reader.close()
    require(name not in admin.list_topics(timeout=30).topics, "a consumer created the topic")


@checks.case("producing creates the topic")
def _():
    topic = unique("created")
    produce_all(producer(), [(topic, {"value": b"first"})])
    equal(read_assigned(topic, 1)[0].value(), b"first", "value")


@checks.case("delete topic")
def _():
    topic = create_topic(2)
    produce_all(producer(), [(topic, {"value": b"old", "partition": 0})])
    admin.delete_topics([topic])[topic].result(30)
    wait_until(lambda: topic not in admin.list_topics(timeout=30).topics, "the topic is gone")
    equal(kafka_code(admin.delete_topics([topic])[topic]), KafkaError.UNKNOWN_TOPIC_OR_PART, "delete again")
    create_topic(1, name=topic)
    wait_until(lambda: topic in admin.list_topics(timeout=30).topics, "the topic is back")
    equal(offset_of(topic, 0, OffsetSpec.latest())[0], 0, "end of the new topic")
    produce_all(producer(), [(topic, {"value": b"new", "partition": 0})])
    equal(read_assigned(topic, 1)[0].value(), b"new", "value")


if checks.can_restart:

    @checks.case("records, groups and configurations survive kill and restart")
    def _():
        topic = create_topic(2, {"retention.ms": "987654321"})
        group = unique("survivor")
        source = producer()
        for number in range(300):
            source.produce(topic, value=str(number).encode(), partition=number % 2)
        equal(source.flush(30), 0, "messages still in the producer")
        reader = consumer(group)
        places = [TopicPartition(topic, 0, 70), TopicPartition(topic, 1, 30)]
        reader.commit(offsets=places, asynchronous=False)
        reader.close()
        checks.restart_broker()
        resource = ConfigResource(ResourceType.TOPIC, topic)
        config = admin.describe_configs([resource])[resource].result(30)
        equal(config["retention.ms"].value, "987654321", "retention.ms")
        reader = consumer(group)
        reader.subscribe([topic])
        messages = read(reader, 80 + 120, 60)
        for partition, start in [(0, 70), (1, 30)]:
            offsets = [message.offset() for message in messages if message.partition() == partition]
            equal(offsets, list(range(start, 150)), f"offsets of partition {partition}")
        for message in messages:
            equal(int(message.value()), message.offset() * 2 + message.partition(), "value")
        produce_all(source, [(topic, {"value": b"after", "partition": 0})])
        equal(read(reader, 1)[0].offset(), 150, "offset after the restart")
        reader.close()


checks.finish()
