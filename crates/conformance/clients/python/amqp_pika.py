"""pika: the whole AMQP 0-9-1 surface, through the blocking connection."""

import datetime
import socket
import time
from decimal import Decimal

import pika
from pika import spec
from pika.exceptions import (
    AMQPConnectionError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    NackError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
    UnroutableError,
)

from check import Checks, equal, host_port, require, unique, wait_until

checks = Checks("amqp")
HOST, PORT = host_port(checks.address)
PERSISTENT = pika.BasicProperties(delivery_mode=2)


def connect(user="guest", password="guest", vhost="/", **settings):
    credentials = pika.PlainCredentials(user, password)
    settings.setdefault("blocked_connection_timeout", 30)
    return pika.BlockingConnection(
        pika.ConnectionParameters(HOST, PORT, virtual_host=vhost, credentials=credentials, **settings)
    )


connection = connect()


def reconnect():
    global connection
    if connection.is_closed:
        connection = connect()


checks.before = reconnect


def refused(code, operation):
    """Runs `operation(channel)`; the broker must close the channel with `code`. Returns the text."""
    channel = connection.channel()
    try:
        operation(channel)
        # A publish or an acknowledgement has no answer of its own: the next one brings the close.
        channel.basic_qos()
    except ChannelClosedByBroker as error:
        equal(error.reply_code, code, "reply code")
        return error.reply_text
    raise AssertionError(f"expected {code}")


def queue(channel, name="", **settings):
    settings.setdefault("exclusive", name == "")
    return channel.queue_declare(name, **settings).method.queue


def take(channel, name, count=1, auto_ack=True, seconds=15):
    """Gets `count` messages with basic.get."""
    messages = []

    def enough():
        method, properties, body = channel.basic_get(name, auto_ack=auto_ack)
        if method is not None:
            messages.append((method, properties, body))
        return len(messages) >= count

    wait_until(enough, f"{count} messages in {name}", seconds)
    return messages


def bodies(messages):
    return [message[2] for message in messages]


def ready(channel, name):
    return channel.queue_declare(name, passive=True).method.message_count


@checks.case("server properties")
def _():
    properties = connection._impl.server_properties
    for capability in [
        "publisher_confirms",
        "exchange_exchange_bindings",
        "basic.nack",
        "consumer_cancel_notify",
        "authentication_failure_close",
        "per_consumer_qos",
    ]:
        equal(properties["capabilities"].get(capability), True, capability)
    for name in ["product", "version", "platform"]:
        require(properties.get(name), f"no {name}")


@checks.case("wrong password")
def _():
    try:
        connect(password="wrong")
    except ProbableAuthenticationError as error:
        require("403" in str(error) and "ACCESS_REFUSED" in str(error), f"unexpected text {error}")
    else:
        raise AssertionError("the connection was accepted")


@checks.case("unknown virtual host")
def _():
    try:
        connect(vhost="no-such-vhost")
    except (ConnectionClosedByBroker, ProbableAccessDeniedError) as error:
        require("530" in str(error), f"unexpected error {error}")
    else:
        raise AssertionError("the connection was accepted")


@checks.case("not the protocol")
def _():
    with socket.create_connection((HOST, PORT), 10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        plain.settimeout(10)
        answer = b""
        while len(answer) < 8:
            part = plain.recv(8 - len(answer))
            require(part, f"closed after {answer!r}")
            answer += part
        equal(answer, b"AMQP\x00\x00\x09\x01", "answer")


@checks.case("default exchange")
def _():
    channel = connection.channel()
    name = queue(channel)
    channel.basic_publish("", name, b"hello")
    method, _properties, body = take(channel, name)[0]
    equal((method.exchange, method.routing_key, body), ("", name, b"hello"), "delivery")
    refused(403, lambda other: other.queue_bind(name, "", "key"))


@checks.case("direct exchange")
def _():
    channel = connection.channel()
    exchange, name = unique("direct"), queue(channel)
    channel.exchange_declare(exchange, "direct", auto_delete=True)
    channel.queue_bind(name, exchange, "red")
    channel.queue_bind(name, exchange, "green")
    for key in ["red", "blue", "green"]:
        channel.basic_publish(exchange, key, key.encode())
    equal(bodies(take(channel, name, 2)), [b"red", b"green"], "bodies")
    channel.queue_unbind(name, exchange, "red")
    channel.basic_publish(exchange, "red", b"red")
    channel.basic_publish(exchange, "green", b"last")
    equal(bodies(take(channel, name, 1)), [b"last"], "bodies after unbind")


@checks.case("fanout exchange")
def _():
    channel = connection.channel()
    exchange = unique("fanout")
    names = [queue(channel) for _ in range(3)]
    channel.exchange_declare(exchange, "fanout", auto_delete=True)
    for name in names:
        channel.queue_bind(name, exchange)
    channel.basic_publish(exchange, "ignored", b"all")
    for name in names:
        equal(bodies(take(channel, name)), [b"all"], "bodies")


@checks.case("topic exchange")
def _():
    channel = connection.channel()
    exchange = unique("topic")
    channel.exchange_declare(exchange, "topic", auto_delete=True)
    keys = ["a", "a.b", "a.b.c", "b", "b.a", "a..c", ""]
    expected = {
        "#": keys,
        "a.#": ["a", "a.b", "a.b.c", "a..c"],
        "a.*": ["a.b"],
        "*.b": ["a.b"],
        "#.a": ["a", "b.a"],
        "a.*.c": ["a.b.c", "a..c"],
        "*": ["a", "b"],
        "a.#.c": ["a.b.c", "a..c"],
    }
    names = {}
    for pattern in expected:
        names[pattern] = queue(channel)
        channel.queue_bind(names[pattern], exchange, pattern)
    for key in keys:
        channel.basic_publish(exchange, key, key.encode())
    for pattern, wanted in expected.items():
        received = bodies(take(channel, names[pattern], len(wanted)))
        equal(received, [key.encode() for key in wanted], f"keys for {pattern}")
        equal(ready(channel, names[pattern]), 0, f"messages left for {pattern}")


@checks.case("two matching bindings deliver once")
def _():
    channel = connection.channel()
    exchange, name = unique("once"), queue(channel)
    channel.exchange_declare(exchange, "topic", auto_delete=True)
    channel.queue_bind(name, exchange, "a.#")
    channel.queue_bind(name, exchange, "#.b")
    channel.basic_publish(exchange, "a.b", b"once")
    take(channel, name)
    equal(channel.basic_get(name)[0], None, "second copy")


@checks.case("headers exchange")
def _():
    channel = connection.channel()
    exchange = unique("headers")
    channel.exchange_declare(exchange, "headers", auto_delete=True)
    both, either = queue(channel), queue(channel)
    channel.queue_bind(both, exchange, "", {"x-match": "all", "kind": "report", "size": 3})
    channel.queue_bind(either, exchange, "", {"x-match": "any", "kind": "report", "size": 3})
    for headers in [{"kind": "report", "size": 3, "more": True}, {"kind": "report"}, {"kind": "letter", "size": 4}]:
        channel.basic_publish(exchange, "", repr(headers).encode(), pika.BasicProperties(headers=headers))
    channel.basic_publish(exchange, "", b"no headers")
    equal(len(take(channel, both, 1)), 1, "all")
    equal(len(take(channel, either, 2)), 2, "any")
    equal((ready(channel, both), ready(channel, either)), (0, 0), "messages left")


@checks.case("exchange to exchange binding")
def _():
    channel = connection.channel()
    source, target, name = unique("source"), unique("target"), queue(channel)
    channel.exchange_declare(source, "topic", auto_delete=True)
    channel.exchange_declare(target, "fanout", auto_delete=True)
    channel.exchange_bind(target, source, "x.*")
    channel.queue_bind(name, target)
    channel.basic_publish(source, "x.1", b"through")
    channel.basic_publish(source, "y.1", b"lost")
    equal(bodies(take(channel, name)), [b"through"], "bodies")
    channel.exchange_unbind(target, source, "x.*")
    equal(ready(channel, name), 0, "messages left")


@checks.case("predeclared exchanges")
def _():
    channel = connection.channel()
    for name, kind in [
        ("amq.direct", "direct"),
        ("amq.fanout", "fanout"),
        ("amq.topic", "topic"),
        ("amq.headers", "headers"),
        ("amq.match", "headers"),
    ]:
        channel.exchange_declare(name, kind, durable=True)
        channel.exchange_declare(name, passive=True)
    refused(403, lambda other: other.exchange_delete("amq.topic"))
    refused(403, lambda other: other.exchange_declare("amq.mine", "direct"))
    refused(403, lambda other: other.queue_declare("amq.mine"))


@checks.case("passive declare")
def _():
    channel = connection.channel()
    name = queue(channel)
    channel.basic_publish("", name, b"1")
    channel.basic_publish("", name, b"2")
    wait_until(lambda: ready(channel, name) == 2, "message count")
    channel.basic_consume(name, lambda *_: None)
    wait_until(lambda: channel.queue_declare(name, passive=True).method.consumer_count == 1, "consumer count")
    text = refused(404, lambda other: other.queue_declare(unique("missing"), passive=True))
    require(text.startswith("NOT_FOUND - no queue"), f"text {text}")
    text = refused(404, lambda other: other.exchange_declare(unique("missing"), passive=True))
    require(text.startswith("NOT_FOUND - no exchange"), f"text {text}")


@checks.case("declare again")
def _():
    channel = connection.channel()
    name, exchange = unique("again"), unique("again")
    channel.queue_declare(name, durable=True, arguments={"x-message-ttl": 60000})
    channel.queue_declare(name, durable=True, arguments={"x-message-ttl": 60000})
    text = refused(406, lambda other: other.queue_declare(name, durable=True))
    require("PRECONDITION_FAILED - inequivalent arg" in text, f"text {text}")
    refused(406, lambda other: other.queue_declare(name, durable=False, auto_delete=True))
    channel.exchange_declare(exchange, "direct", durable=True)
    channel.exchange_declare(exchange, "direct", durable=True)
    text = refused(406, lambda other: other.exchange_declare(exchange, "fanout", durable=True))
    require("inequivalent arg 'type'" in text, f"text {text}")
    channel.queue_delete(name)
    channel.exchange_delete(exchange)


@checks.case("invalid arguments")
def _():
    wrong = {"x-message-ttl": "soon"}
    refused(406, lambda other: other.queue_declare(unique("bad"), arguments=wrong))
    refused(406, lambda other: other.queue_declare(unique("bad"), arguments={"x-message-ttl": -1}))


@checks.case("unknown exchange type")
def _():
    other = connect()
    try:
        other.channel().exchange_declare(unique("odd"), "no-such-type")
    except ConnectionClosedByBroker as error:
        equal(error.reply_code, 503, "reply code")
    except ChannelClosedByBroker as error:
        equal(error.reply_code, 406, "reply code")
    else:
        raise AssertionError("the exchange was declared")


@checks.case("bind to what is missing")
def _():
    channel = connection.channel()
    name = queue(channel)
    refused(404, lambda other: other.queue_bind(name, unique("missing"), "key"))
    refused(404, lambda other: other.queue_bind(unique("missing"), "amq.direct", "key"))
    channel.queue_unbind(name, "amq.direct", "never bound")


@checks.case("delete and purge")
def _():
    channel = connection.channel()
    channel.confirm_delivery()
    name = unique("purge")
    channel.queue_declare(name)
    for _ in range(5):
        channel.basic_publish("", name, b"x")
    refused(406, lambda other: other.queue_delete(name, if_empty=True))
    equal(channel.queue_purge(name).method.message_count, 5, "purged")
    tag = channel.basic_consume(name, lambda *_: None)
    refused(406, lambda other: other.queue_delete(name, if_unused=True))
    channel.basic_cancel(tag)
    for _ in range(3):
        channel.basic_publish("", name, b"x")
    equal(channel.queue_delete(name).method.message_count, 3, "messages in the deleted queue")
    equal(channel.queue_delete(name).method.message_count, 0, "deleting again")
    refused(404, lambda other: other.queue_purge(name))


@checks.case("delete exchange")
def _():
    channel = connection.channel()
    exchange, name = unique("gone"), queue(channel)
    channel.exchange_declare(exchange, "direct")
    channel.queue_bind(name, exchange, "key")
    refused(406, lambda other: other.exchange_delete(exchange, if_unused=True))
    channel.exchange_delete(exchange)
    channel.exchange_delete(exchange)
    text = refused(404, lambda other: other.basic_publish(exchange, "key", b"x"))
    require("no exchange" in text, f"text {text}")


@checks.case("auto-delete exchange")
def _():
    channel = connection.channel()
    exchange, name = unique("auto"), queue(channel)
    channel.exchange_declare(exchange, "fanout", auto_delete=True)
    channel.queue_bind(name, exchange)
    channel.queue_unbind(name, exchange)
    refused(404, lambda other: other.exchange_declare(exchange, passive=True))


@checks.case("mandatory return")
def _():
    channel = connection.channel()
    returned = []
    channel.add_on_return_callback(lambda _channel, *message: returned.append(message))
    properties = pika.BasicProperties(message_id="m1", headers={"a": 1})
    channel.basic_publish("amq.direct", unique("nobody"), b"back", properties, mandatory=True)
    wait_until(lambda: returned, "the return", 15, lambda: connection.process_data_events(0.1))
    method, properties, body = returned[0]
    equal((method.reply_code, method.reply_text), (312, "NO_ROUTE"), "reply")
    equal((method.exchange, body, properties.message_id), ("amq.direct", b"back", "m1"), "message")


@checks.case("publisher confirms")
def _():
    channel = connection.channel()
    channel.confirm_delivery()
    name = unique("confirm")
    channel.queue_declare(name, durable=True)
    for number in range(100):
        channel.basic_publish("", name, str(number).encode(), PERSISTENT, mandatory=True)
    equal(bodies(take(channel, name, 100)), [str(n).encode() for n in range(100)], "bodies")
    channel.basic_publish("amq.direct", unique("nobody"), b"dropped")
    try:
        channel.basic_publish("", unique("nobody"), b"x", mandatory=True)
    except UnroutableError as error:
        equal(error.messages[0].body, b"x", "returned body")
    else:
        raise AssertionError("an unroutable mandatory message was confirmed without a return")
    channel.queue_delete(name)


@checks.case("reject-publish nacks")
def _():
    channel = connection.channel()
    channel.confirm_delivery()
    name = queue(channel, arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    refusals = 0
    for _ in range(10):
        try:
            channel.basic_publish("", name, b"x")
        except NackError:
            refusals += 1
    require(refusals > 0, "no publish was refused")
    require(ready(channel, name) <= 3, "the queue holds more than its length allows")


@checks.case("max-length drops the oldest")
def _():
    channel = connection.channel()
    channel.confirm_delivery()
    name = queue(channel, arguments={"x-max-length": 3})
    for number in range(6):
        channel.basic_publish("", name, str(number).encode())
    equal(bodies(take(channel, name, 3)), [b"3", b"4", b"5"], "bodies")


@checks.case("prefetch limits what is unacknowledged")
def _():
    channel = connection.channel()
    name = queue(channel)
    for number in range(6):
        channel.basic_publish("", name, str(number).encode())
    channel.basic_qos(prefetch_count=2)
    received = []
    channel.basic_consume(name, lambda _c, method, _p, body: received.append((method.delivery_tag, body)))
    step = lambda: connection.process_data_events(0.1)  # noqa: E731
    wait_until(lambda: len(received) == 2, "two messages", 15, step)
    connection.process_data_events(0.5)
    equal(len(received), 2, "messages in flight")
    channel.basic_ack(received[0][0])
    wait_until(lambda: len(received) == 3, "a third message", 15, step)
    channel.basic_ack(received[2][0], multiple=True)
    wait_until(lambda: len(received) == 5, "two more messages", 15, step)
    connection.process_data_events(0.3)
    equal([body for _tag, body in received], [b"0", b"1", b"2", b"3", b"4"], "bodies")


@checks.case("nack with requeue keeps the place")
def _():
    channel = connection.channel()
    name = queue(channel)
    for number in range(3):
        channel.basic_publish("", name, str(number).encode())
    first = take(channel, name, 1, auto_ack=False)[0]
    equal(first[0].redelivered, False, "redelivered")
    channel.basic_nack(first[0].delivery_tag, requeue=True)
    again = take(channel, name, 3)
    equal(bodies(again), [b"0", b"1", b"2"], "bodies")
    equal([method.redelivered for method, _p, _b in again], [True, False, False], "redelivered flags")


@checks.case("nack multiple with requeue")
def _():
    channel = connection.channel()
    name = queue(channel)
    for number in range(4):
        channel.basic_publish("", name, str(number).encode())
    messages = take(channel, name, 3, auto_ack=False)
    channel.basic_nack(messages[1][0].delivery_tag, multiple=True, requeue=True)
    channel.basic_ack(messages[2][0].delivery_tag)
    equal(bodies(take(channel, name, 3)), [b"0", b"1", b"3"], "bodies")


@checks.case("closing a channel returns its messages in order")
def _():
    channel, other = connection.channel(), connection.channel()
    name = queue(channel)
    for number in range(5):
        channel.basic_publish("", name, str(number).encode())
    take(other, name, 3, auto_ack=False)
    other.close()
    messages = take(channel, name, 5)
    equal(bodies(messages), [b"0", b"1", b"2", b"3", b"4"], "bodies")
    equal([method.redelivered for method, _p, _b in messages], [True] * 3 + [False] * 2, "redelivered flags")


@checks.case("recover requeues")
def _():
    channel = connection.channel()
    name = queue(channel)
    channel.basic_publish("", name, b"x")
    take(channel, name, 1, auto_ack=False)
    channel.basic_recover(requeue=True)
    method, _properties, _body = take(channel, name, 1)[0]
    equal(method.redelivered, True, "redelivered")


@checks.case("unknown delivery tag")
def _():
    text = refused(406, lambda channel: channel.basic_ack(99))
    require("unknown delivery tag 99" in text, f"text {text}")


@checks.case("rejected messages are dead-lettered")
def _():
    channel = connection.channel()
    dead = queue(channel)
    exchange = unique("dlx")
    channel.exchange_declare(exchange, "direct", auto_delete=True)
    channel.queue_bind(dead, exchange, "dead")
    arguments = {"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": "dead"}
    name = queue(channel, arguments=arguments)
    properties = pika.BasicProperties(headers={"mine": "kept"}, message_id="m7")
    channel.basic_publish("", name, b"poison", properties)
    method, _properties, _body = take(channel, name, 1, auto_ack=False)[0]
    channel.basic_reject(method.delivery_tag, requeue=False)
    method, properties, body = take(channel, dead)[0]
    equal((method.exchange, method.routing_key, body), (exchange, "dead", b"poison"), "delivery")
    equal((properties.headers["mine"], properties.message_id), ("kept", "m7"), "properties")
    death = properties.headers["x-death"][0]
    equal((death["queue"], death["reason"], death["count"]), (name, "rejected", 1), "x-death")
    equal((death["exchange"], death["routing-keys"]), ("", [name]), "x-death origin")
    require(isinstance(death["time"], datetime.datetime), "x-death has no time")
    equal(properties.headers["x-first-death-queue"], name, "x-first-death-queue")
    equal(properties.headers["x-first-death-reason"], "rejected", "x-first-death-reason")


@checks.case("expired messages are dead-lettered")
def _():
    channel = connection.channel()
    dead = queue(channel)
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead, "x-message-ttl": 100}
    name = queue(channel, arguments=arguments)
    channel.basic_publish("", name, b"late")
    _method, properties, body = take(channel, dead)[0]
    equal((body, properties.headers["x-death"][0]["reason"]), (b"late", "expired"), "dead letter")
    other = queue(channel, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})
    channel.basic_publish("", other, b"own", pika.BasicProperties(expiration="100"))
    _method, properties, body = take(channel, dead)[0]
    equal((body, properties.expiration), (b"own", None), "dead letter")
    equal(properties.headers["x-death"][0]["original-expiration"], "100", "original-expiration")


@checks.case("exclusive queue")
def _():
    other = connect()
    name = unique("exclusive")
    other.channel().queue_declare(name, exclusive=True)
    refused(405, lambda channel: channel.queue_declare(name, passive=True))
    refused(405, lambda channel: channel.basic_consume(name, lambda *_: None))
    other.close()

    def gone():
        try:
            connection.channel().queue_declare(name, passive=True)
        except ChannelClosedByBroker as error:
            return error.reply_code == 404
        return False

    wait_until(gone, "the queue is deleted with its connection")


@checks.case("exclusive consumer")
def _():
    channel = connection.channel()
    name = queue(channel)
    channel.basic_consume(name, lambda *_: None, exclusive=True)
    refused(403, lambda other: other.basic_consume(name, lambda *_: None))


@checks.case("auto-delete queue")
def _():
    channel = connection.channel()
    name = unique("auto")
    channel.queue_declare(name, auto_delete=True)
    channel.queue_declare(name, passive=True)
    tag = channel.basic_consume(name, lambda *_: None)
    channel.basic_cancel(tag)
    refused(404, lambda other: other.queue_declare(name, passive=True))


@checks.case("server-named queue")
def _():
    channel = connection.channel()
    names = {queue(channel) for _ in range(3)}
    equal(len(names), 3, "distinct names")
    require(all(name.startswith("amq.gen-") for name in names), f"names {names}")
    last = queue(channel)
    channel.queue_bind("", "amq.direct", "last-declared")
    channel.basic_publish("amq.direct", "last-declared", b"x")
    equal(bodies(take(channel, last)), [b"x"], "bodies")


@checks.case("consumer is told when its queue goes away")
def _():
    channel = connection.channel()
    name = unique("cancel")
    channel.queue_declare(name)
    cancelled = []
    channel.add_on_cancel_callback(cancelled.append)
    tag = channel.basic_consume(name, lambda *_: None)
    connection.channel().queue_delete(name)
    wait_until(lambda: cancelled, "basic.cancel", 15, lambda: connection.process_data_events(0.1))
    equal(cancelled[0].method.consumer_tag, tag, "consumer tag")


@checks.case("consumer tag in use")
def _():
    other = connect()
    channel = other.channel()
    name = queue(channel)
    channel.basic_consume(name, lambda *_: None, consumer_tag="tag")
    # pika itself refuses a tag that is in use; the broker has to as well.
    channel._impl._send_method(spec.Basic.Consume(queue=name, consumer_tag="tag"))
    try:
        wait_until(lambda: other.is_closed, "the connection closes", 15, lambda: other.process_data_events(0.1))
    except ConnectionClosedByBroker as error:
        equal(error.reply_code, 530, "reply code")


@checks.case("competing consumers share a queue")
def _():
    channel, other = connection.channel(), connection.channel()
    name = queue(channel)
    received = {1: [], 2: []}
    for key, member in [(1, channel), (2, other)]:
        member.basic_qos(prefetch_count=1)

        def on_message(_channel, method, _properties, body, key=key, member=member):
            received[key].append(body)
            member.basic_ack(method.delivery_tag)

        member.basic_consume(name, on_message)
    for number in range(40):
        channel.basic_publish("", name, str(number).encode())
    wait_until(
        lambda: len(received[1]) + len(received[2]) == 40,
        "all messages",
        20,
        lambda: connection.process_data_events(0.1),
    )
    equal(sorted(int(body) for part in received.values() for body in part), list(range(40)), "bodies")
    require(received[1] and received[2], "one consumer received nothing")


@checks.case("cancel keeps unacknowledged messages")
def _():
    channel = connection.channel()
    name = queue(channel)
    channel.basic_publish("", name, b"held")
    held = []
    tag = channel.basic_consume(name, lambda _c, method, _p, _b: held.append(method.delivery_tag))
    wait_until(lambda: held, "a delivery", 15, lambda: connection.process_data_events(0.1))
    # pika's own basic_cancel rejects what it holds; the plain method does not.
    channel._impl._rpc(spec.Basic.Cancel(consumer_tag=tag), None, [spec.Basic.CancelOk])
    connection.process_data_events(0.3)
    equal(ready(channel, name), 0, "messages returned by the cancel")
    channel.basic_ack(held[0])


@checks.case("basic.get of an empty queue")
def _():
    channel = connection.channel()
    name = queue(channel)
    equal(channel.basic_get(name), (None, None, None), "answer")
    channel.basic_publish("", name, b"1")
    channel.basic_publish("", name, b"2")
    wait_until(lambda: ready(channel, name) == 2, "message count")
    method, _properties, _body = channel.basic_get(name, auto_ack=True)
    equal(method.message_count, 1, "messages left")


for size in [0, 1, 131_064, 131_065, 1_000_000, 5_000_000]:

    @checks.case(f"body of {size} bytes to two queues")
    def _(size=size):
        channel = connection.channel()
        names = [queue(channel), queue(channel)]
        key = unique("size")
        for name in names:
            channel.queue_bind(name, "amq.direct", key)
        body = (bytes(range(251)) * (size // 251 + 1))[:size]
        channel.basic_publish("amq.direct", key, body)
        for name in names:
            require(take(channel, name)[0][2] == body, "the body changed")


@checks.case("small frames")
def _():
    other = connect(frame_max=8192)
    channel = other.channel()
    name = queue(channel)
    body = bytes(range(256)) * 400
    channel.basic_publish("", name, body)
    require(take(channel, name)[0][2] == body, "the body changed")
    other.close()


@checks.case("all properties")
def _():
    channel = connection.channel()
    name = queue(channel)
    sent = pika.BasicProperties(
        content_type="application/json",
        content_encoding="identity",
        headers={"a": 1},
        delivery_mode=2,
        priority=7,
        correlation_id="c-1",
        reply_to="answers",
        expiration="60000",
        message_id="id-1",
        timestamp=1_700_000_000,
        type="kind",
        user_id="guest",
        app_id="app",
        cluster_id="cluster",
    )
    channel.basic_publish("", name, b"{}", sent)
    _method, received, _body = take(channel, name)[0]
    for field in vars(sent):
        equal(getattr(received, field), getattr(sent, field), field)


@checks.case("user id must be the connection's user")
def _():
    properties = pika.BasicProperties(user_id="somebody-else")
    refused(406, lambda channel: channel.basic_publish("", "x", b"x", properties))


@checks.case("headers of all types")
def _():
    channel = connection.channel()
    name = queue(channel)
    headers = {
        "true": True,
        "false": False,
        "int": 42,
        "negative": -42,
        "long": 2**40,
        "most negative": -(2**63),
        "decimal": Decimal("12.34"),
        "text": "grün ☕",
        "empty": "",
        "bytes": b"\x00\xff\x01",
        "time": datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
        "none": None,
        "list": [1, "two", None, [3], {"four": 4}],
        "table": {"deep": {"deeper": {"deepest": [True]}}},
        "long text": "x" * 5000,
    }
    channel.basic_publish("", name, b"", pika.BasicProperties(headers=headers))
    _method, received, _body = take(channel, name)[0]
    for key, value in headers.items():
        actual = received.headers[key]
        if isinstance(actual, datetime.datetime):
            actual = actual.replace(tzinfo=datetime.timezone.utc)
        equal(actual, value, key)
    equal(len(received.headers), len(headers), "number of headers")


@checks.case("heartbeats keep an idle connection")
def _():
    other = connect(heartbeat=2)
    channel = other.channel()
    name = queue(channel)
    deadline = time.monotonic() + 7
    while time.monotonic() < deadline:
        other.process_data_events(0.5)
    require(other.is_open, "the connection closed")
    channel.basic_publish("", name, b"alive")
    equal(bodies(take(channel, name)), [b"alive"], "bodies")
    other.close()


@checks.case("a silent client is disconnected")
def _():
    other = connect(heartbeat=1)
    # From here on nothing is sent: nobody runs the connection's loop.
    plain = other._impl._transport._sock
    plain.setblocking(True)
    plain.settimeout(15)
    try:
        while plain.recv(4096):
            pass
    except ConnectionResetError:
        pass


@checks.case("many channels")
def _():
    other = connect()
    channels = [other.channel() for _ in range(100)]
    names = [queue(channel) for channel in channels]
    for name in names:
        channels[0].basic_publish("", name, name.encode())
    for channel, name in zip(channels, names):
        equal(bodies(take(channel, name)), [name.encode()], "bodies")
    other.close()


@checks.case("transient queue of another connection is visible until it closes")
def _():
    other = connect()
    name = unique("shared")
    other.channel().queue_declare(name, auto_delete=True)
    channel = connection.channel()
    channel.basic_publish("", name, b"x")
    equal(bodies(take(channel, name)), [b"x"], "bodies")
    other.close()
    channel.queue_delete(name)


if checks.can_restart:

    @checks.case("durable things survive kill and restart, others do not")
    def _():
        channel = connection.channel()
        channel.confirm_delivery()
        exchange, name, passing = unique("kept"), unique("kept"), unique("passing")
        channel.exchange_declare(exchange, "topic", durable=True)
        channel.queue_declare(name, durable=True, arguments={"x-max-length": 10000})
        channel.queue_bind(name, exchange, "k.#")
        channel.queue_declare(passing, durable=False, exclusive=True)
        for number in range(100):
            channel.basic_publish(exchange, "k.1", str(number).encode(), PERSISTENT)
        for _ in range(10):
            channel.basic_publish(exchange, "k.1", b"transient", pika.BasicProperties(delivery_mode=1))
        for method, _properties, _body in take(channel, name, 10, auto_ack=False):
            channel.basic_ack(method.delivery_tag)
        ready(channel, name)
        checks.restart_broker()
        try:
            connection.close()
        except AMQPConnectionError:
            pass
        reconnect()
        channel = connection.channel()
        channel.queue_declare(name, durable=True, arguments={"x-max-length": 10000})
        refused(404, lambda other: other.queue_declare(passing, passive=True))
        messages = take(channel, name, 90)
        numbers = [int(body) for body in bodies(messages)]
        require(numbers[-90:] == list(range(10, 100)), f"messages {numbers[:20]}")
        equal(channel.basic_get(name)[0], None, "transient message after the restart")
        channel.basic_publish(exchange, "k.2", b"bound")
        equal(bodies(take(channel, name)), [b"bound"], "binding after the restart")
        channel.queue_delete(name)
        channel.exchange_delete(exchange)


checks.finish()
