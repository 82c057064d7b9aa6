"""aiokafka: the asyncio client, with a protocol implementation of its own."""

import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, UnknownTopicOrPartitionError

from check import Checks, equal, require, unique

checks = Checks("kafka")


def case(name):
    """A check whose body is a coroutine."""

    def run(coroutine):
        return checks.case(name)(lambda: asyncio.run(asyncio.wait_for(coroutine(), 80)))

    return run


async def create_topic(partitions=1):
    name = unique("aiokafka")
    admin = AIOKafkaAdminClient(bootstrap_servers=checks.address)
    await admin.start()
    try:
        response = await admin.create_topics([NewTopic(name, partitions, 1)])
        for error in response.topic_errors:
            equal(error[1], 0, f"error code for {error[0]}")
    finally:
        await admin.close()
    return name


async def produce(topic, messages, **config):
    async with AIOKafkaProducer(bootstrap_servers=checks.address, linger_ms=5, **config) as source:
        futures = [await source.send(topic, **message) for message in messages]
        return [await future for future in futures]


async def take(reader, count):
    messages = []
    while len(messages) < count:
        batch = await reader.getmany(timeout_ms=500, max_records=count - len(messages))
        messages.extend(message for part in batch.values() for message in part)
    return messages


@case("create and delete topic")
async def _():
    topic = await create_topic(3)
    admin = AIOKafkaAdminClient(bootstrap_servers=checks.address)
    await admin.start()
    try:
        described = await admin.describe_topics([topic])
        equal(len(described[0]["partitions"]), 3, "partitions")
        again = await admin.create_topics([NewTopic(topic, 1, 1)])
        equal(again.topic_errors[0][1], TopicAlreadyExistsError.errno, "error code")
        await admin.delete_topics([topic])
        while topic in await admin.list_topics():
            await asyncio.sleep(0.05)
        gone = await admin.delete_topics([topic])
        equal(gone.topic_error_codes[0][1], UnknownTopicOrPartitionError.errno, "error code")
    finally:
        await admin.close()


for codec in [None, "gzip", "snappy", "lz4", "zstd"]:

    @case(f"produce and consume {codec or 'none'}")
    async def _(codec=codec):
        topic = await create_topic()
        sent = [
            {
                "key": f"k{n}".encode(),
                "value": f"value {n} ".encode() * 30,
                "headers": [("n", str(n).encode()), ("same", b"1"), ("same", b"2")],
                "timestamp_ms": 1_700_000_000_000 + n,
            }
            for n in range(200)
        ]
        acknowledged = await produce(topic, sent, compression_type=codec, acks="all")
        equal([record.offset for record in acknowledged], list(range(200)), "acknowledged offsets")
        async with AIOKafkaConsumer(
            topic, bootstrap_servers=checks.address, auto_offset_reset="earliest"
        ) as reader:
            for message, fields in zip(await take(reader, 200), sent):
                equal(message.key, fields["key"], "key")
                equal(message.value, fields["value"], "value")
                equal(list(message.headers), fields["headers"], "headers")
                equal(message.timestamp, fields["timestamp_ms"], "timestamp")


for acks in [0, 1]:

    @case(f"produce with acks {acks}")
    async def _(acks=acks):
        topic = await create_topic()
        await produce(topic, [{"value": str(n).encode()} for n in range(50)], acks=acks)
        async with AIOKafkaConsumer(
            topic, bootstrap_servers=checks.address, auto_offset_reset="earliest"
        ) as reader:
            equal([int(message.value) for message in await take(reader, 50)], list(range(50)), "values")


@case("idempotent producer")
async def _():
    topic = await create_topic()
    await produce(topic, [{"value": str(n).encode()} for n in range(50)], enable_idempotence=True)
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=checks.address, auto_offset_reset="earliest"
    ) as reader:
        equal([int(message.value) for message in await take(reader, 50)], list(range(50)), "values")


@case("two group members share partitions")
async def _():
    topic = await create_topic(4)
    settings = {
        "bootstrap_servers": checks.address,
        "group_id": unique("group"),
        "auto_offset_reset": "earliest",
        "heartbeat_interval_ms": 300,
        "enable_auto_commit": False,
    }
    first = AIOKafkaConsumer(topic, **settings)
    await first.start()
    while len(first.assignment()) != 4:
        await asyncio.sleep(0.05)
    second = AIOKafkaConsumer(topic, **settings)
    await second.start()
    while len(first.assignment()) != 2 or len(second.assignment()) != 2:
        await asyncio.sleep(0.05)
    require(not first.assignment() & second.assignment(), "a partition has two owners")
    await produce(topic, [{"value": str(n).encode(), "partition": n % 4} for n in range(100)])
    values = await asyncio.gather(take(first, 50), take(second, 50))
    numbers = sorted(int(message.value) for part in values for message in part)
    equal(numbers, list(range(100)), "values")
    await second.stop()
    while len(first.assignment()) != 4:
        await asyncio.sleep(0.05)
    await first.stop()


@case("commit and resume")
async def _():
    topic = await create_topic()
    settings = {
        "bootstrap_servers": checks.address,
        "group_id": unique("resume"),
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
    }
    await produce(topic, [{"value": str(n).encode()} for n in range(40)])
    place = TopicPartition(topic, 0)
    async with AIOKafkaConsumer(topic, **settings) as reader:
        await take(reader, 15)
        await reader.commit({place: (15, "fifteen")})
    async with AIOKafkaConsumer(topic, **settings) as reader:
        equal(await reader.committed(place), 15, "committed offset")
        equal([int(message.value) for message in await take(reader, 25)], list(range(15, 40)), "values")


@case("list offsets")
async def _():
    topic = await create_topic()
    start = 1_700_000_000_000
    await produce(topic, [{"value": b"x", "timestamp_ms": start + 100 * n} for n in range(20)])
    place = TopicPartition(topic, 0)
    async with AIOKafkaConsumer(bootstrap_servers=checks.address) as reader:
        equal(await reader.beginning_offsets([place]), {place: 0}, "beginning")
        equal(await reader.end_offsets([place]), {place: 20}, "end")
        found = (await reader.offsets_for_times({place: start + 1050}))[place]
        equal((found.offset, found.timestamp), (11, start + 1100), "offset for time")
        late = (await reader.offsets_for_times({place: start + 1_000_000}))[place]
        equal(late, None, "offset for a time after the last record")


checks.finish()
