"""aio-pika: the asyncio client that most Python services use."""

import asyncio
import uuid

import aio_pika
from aio_pika import DeliveryMode, ExchangeType, Message
from aio_pika.exceptions import (
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    DeliveryError,
    ProbableAuthenticationError,
)

from check import Checks, equal, require, unique

checks = Checks("amqp")
URL = f"amqp://guest:guest@{checks.address}/"


def case(name):
    """A check whose body is a coroutine."""

    def run(coroutine):
        return checks.case(name)(lambda: asyncio.run(asyncio.wait_for(coroutine(), 80)))

    return run


async def take(queue, count):
    messages = []
    async with queue.iterator() as iterator:
        async for message in iterator:
            messages.append(message)
            await message.ack()
            if len(messages) == count:
                break
    return messages


@case("connect and refuse")
async def _():
    async with await aio_pika.connect(URL) as connection:
        await connection.channel()
    try:
        await aio_pika.connect(f"amqp://guest:wrong@{checks.address}/")
    except ProbableAuthenticationError:
        return
    raise AssertionError("a wrong password was accepted")


@case("publish, confirm, consume")
async def _():
    async with await aio_pika.connect(URL) as connection:
        channel = await connection.channel(publisher_confirms=True)
        queue = await channel.declare_queue(unique("aio"), durable=True)
        publishes = [
            channel.default_exchange.publish(
                Message(str(n).encode(), delivery_mode=DeliveryMode.PERSISTENT, message_id=str(n)), queue.name
            )
            for n in range(200)
        ]
        await asyncio.gather(*publishes)
        messages = await take(queue, 200)
        equal(sorted(int(message.body) for message in messages), list(range(200)), "bodies")
        require(all(message.body.decode() == message.message_id for message in messages), "message ids")
        await queue.delete()


@case("robust connection")
async def _():
    connection = await aio_pika.connect_robust(URL)
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=5)
        queue = await channel.declare_queue(exclusive=True)
        await channel.default_exchange.publish(Message(b"x"), queue.name)
        equal([message.body for message in await take(queue, 1)], [b"x"], "bodies")


@case("all exchange types")
async def _():
    async with await aio_pika.connect(URL) as connection:
        channel = await connection.channel()
        plans = [
            (ExchangeType.DIRECT, "key", None, "key", {}),
            (ExchangeType.FANOUT, "", None, "anything", {}),
            (ExchangeType.TOPIC, "a.*.#", None, "a.b.c", {}),
            (ExchangeType.HEADERS, "", {"x-match": "all", "kind": "x"}, "", {"kind": "x", "other": 1}),
        ]
        for kind, binding, arguments, key, headers in plans:
            exchange = await channel.declare_exchange(unique("aio"), kind, auto_delete=True)
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind(exchange, binding, arguments=arguments)
            await exchange.publish(Message(kind.value.encode(), headers=headers), key)
            equal((await take(queue, 1))[0].body, kind.value.encode(), f"body through {kind}")
            await queue.unbind(exchange, binding, arguments=arguments)


@case("exchange to exchange")
async def _():
    async with await aio_pika.connect(URL) as connection:
        channel = await connection.channel()
        source = await channel.declare_exchange(unique("aio"), ExchangeType.TOPIC, auto_delete=True)
        target = await channel.declare_exchange(unique("aio"), ExchangeType.FANOUT, auto_delete=True)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(target)
        await target.bind(source, "x.#")
        await source.publish(Message(b"through"), "x.y")
        equal((await take(queue, 1))[0].body, b"through", "body")


@case("missing and inequivalent")
async def _():
    async with await aio_pika.connect(URL) as connection:
        channel = await connection.channel()
        try:
            await channel.declare_queue(unique("missing"), passive=True)
        except ChannelNotFoundEntity:
            pass
        else:
            raise AssertionError("a missing queue was found")
        channel = await connection.channel()
        name = unique("aio")
        queue = await channel.declare_queue(name, durable=True)
        other = await connection.channel()
        try:
            await other.declare_queue(name, durable=True, arguments={"x-max-length": 5})
        except ChannelPreconditionFailed:
            pass
        else:
            raise AssertionError("an inequivalent declare was accepted")
        await queue.delete()


@case("mandatory return")
async def _():
    async with await aio_pika.connect(URL) as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        try:
            await channel.default_exchange.publish(Message(b"x"), unique("nobody"), mandatory=True)
        except DeliveryError as error:
            equal(error.message.delivery.reply_code, 312, "reply code")
        else:
            raise AssertionError("the message was not returned")


@case("reject to a dead-letter exchange")
async def _():
    async with await aio_pika.connect(URL) as connection:
        channel = await connection.channel()
        dead = await channel.declare_queue(exclusive=True)
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead.name}
        queue = await channel.declare_queue(exclusive=True, arguments=arguments)
        await channel.default_exchange.publish(Message(b"poison"), queue.name)
        message = await queue.get(timeout=10)
        await message.nack(requeue=True)
        again = await queue.get(timeout=10)
        equal(again.redelivered, True, "redelivered")
        await again.reject(requeue=False)
        letter = (await take(dead, 1))[0]
        equal(letter.headers["x-death"][0]["reason"], "rejected", "reason")


@case("request and reply")
async def _():
    async with await aio_pika.connect(URL) as connection:
        channel = await connection.channel()
        requests = await channel.declare_queue(exclusive=True)
        answers = await channel.declare_queue(exclusive=True)

        async def serve(message):
            async with message.process():
                answer = Message(message.body[::-1], correlation_id=message.correlation_id)
                await channel.default_exchange.publish(answer, message.reply_to)

        await requests.consume(serve)
        identity = str(uuid.uuid4())
        question = Message(b"abc", correlation_id=identity, reply_to=answers.name)
        await channel.default_exchange.publish(question, requests.name)
        answer = (await take(answers, 1))[0]
        equal((answer.body, answer.correlation_id), (b"cba", identity), "answer")


@case("headers with doubles and nested values")
async def _():
    async with await aio_pika.connect(URL) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        headers = {"double": 2.5, "deep": {"list": [1, "a", None, True]}, "bytes": bytearray(b"\x00\xff"), "none": None}
        await channel.default_exchange.publish(Message(b"", headers=headers), queue.name)
        received = (await take(queue, 1))[0].headers
        for key, value in headers.items():
            actual = received[key]
            equal(bytes(actual) if isinstance(value, bytearray) else actual, value, key)


@case("server-named queue goes away with its connection")
async def _():
    async with await aio_pika.connect(URL) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True, auto_delete=True)
        require(queue.name.startswith("amq.gen-"), f"name {queue.name}")
        name = queue.name
    async with await aio_pika.connect(URL) as connection:
        for _ in range(100):
            channel = await connection.channel()
            try:
                await channel.declare_queue(name, passive=True)
            except ChannelNotFoundEntity:
                return
            except aio_pika.exceptions.ChannelLockedResource:
                pass
            await asyncio.sleep(0.05)
        raise AssertionError("the queue is still there")


checks.finish()
