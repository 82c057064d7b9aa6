"""paho-mqtt: MQTT 3.1.1 and 5, every feature a session has."""

import socket
import struct
import time

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from check import Checks, equal, host_port, require, unique, wait_until

checks = Checks("mqtt")
HOST, PORT = host_port(checks.address)
V3, V5 = mqtt.MQTTv311, mqtt.MQTTv5
VERSIONS = {"3.1.1": V3, "5": V5}


class Client:
    """One client with its callbacks collected in lists; its network loop runs on a thread of its own."""

    def __init__(self, version=V5, identifier=None, clean=True, expiry=None, keepalive=60, will=None, **connect):
        self.version = version
        self.messages, self.granted, self.acknowledged, self.disconnects = [], {}, {}, []
        self.unsubscribed = {}
        self.connack = None
        settings = {} if version == V5 else {"clean_session": clean}
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=unique("paho") if identifier is None else identifier,
            protocol=version,
            reconnect_on_failure=False,
            **settings,
        )
        self.client.on_connect = self._on_connect
        self.client.on_message = lambda _c, _u, message: self.messages.append(message)
        self.client.on_subscribe = lambda _c, _u, mid, codes, _p: self.granted.update({mid: codes})
        self.client.on_unsubscribe = lambda _c, _u, mid, codes, _p: self.unsubscribed.update({mid: codes})
        self.client.on_publish = lambda _c, _u, mid, code, _p: self.acknowledged.update({mid: code})
        self.client.on_disconnect = lambda _c, _u, _f, code, _p: self.disconnects.append(code)
        self.client.max_inflight_messages_set(50)
        if will is not None:
            self.client.will_set(**will)
        if version == V5:
            properties = Properties(PacketTypes.CONNECT)
            if expiry is not None:
                properties.SessionExpiryInterval = expiry
            for name, value in connect.items():
                setattr(properties, name, value)
            settings = {"clean_start": clean, "properties": properties}
        else:
            settings = {}
        self.client.connect(HOST, PORT, keepalive, **settings)
        self.client.loop_start()
        wait_until(lambda: self.connack is not None, "CONNACK", 15)

    def _on_connect(self, _client, _userdata, flags, code, properties):
        self.connack = (flags, code, properties)

    @property
    def session_present(self):
        return self.connack[0].session_present

    def subscribe(self, *filters, qos=1, **options):
        """Subscribes and returns the granted codes as numbers."""
        if options.get("properties") is None:
            options.pop("properties", None)
        if self.version == V5 and "options" not in options:
            topics = [(name, SubscribeOptions(qos=qos)) for name in filters]
        elif self.version == V5:
            topics = [(name, options.pop("options")) for name in filters]
        else:
            topics = [(name, qos) for name in filters]
        _result, mid = self.client.subscribe(topics, **options)
        wait_until(lambda: mid in self.granted, "SUBACK", 15)
        return [code.value for code in self.granted[mid]]

    def unsubscribe(self, name):
        _result, mid = self.client.unsubscribe(name)
        wait_until(lambda: mid in self.unsubscribed, "UNSUBACK", 15)

    def publish(self, topic, payload=b"", qos=1, retain=False, **properties):
        """Publishes, and waits for PUBACK or PUBCOMP; returns the reason code."""
        extra = {}
        if properties:
            extra["properties"] = Properties(PacketTypes.PUBLISH)
            for name, value in properties.items():
                setattr(extra["properties"], name, value)
        info = self.client.publish(topic, payload, qos, retain, **extra)
        info.wait_for_publish(15)
        require(info.is_published(), "no acknowledgement")
        if qos == 0:
            return None
        wait_until(lambda: info.mid in self.acknowledged, "acknowledgement", 15)
        return self.acknowledged[info.mid].value

    def take(self, count, seconds=15):
        """Waits for `count` messages and removes them."""
        try:
            wait_until(lambda: len(self.messages) >= count, f"{count} messages", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; {len(self.messages)} came") from error
        taken, self.messages[:count] = self.messages[:count], []
        return taken

    def payloads(self, count):
        return [message.payload for message in self.take(count)]

    def nothing_more(self):
        """Fails if more messages came before a marker that this client sends to itself."""
        marker = unique("marker")
        self.subscribe(marker, qos=1)
        self.publish(marker, b"marker")
        wait_until(lambda: any(message.topic == marker for message in self.messages), "the marker", 15)
        self.unsubscribe(marker)
        others = [message.topic for message in self.messages if message.topic != marker]
        self.messages.clear()
        equal(others, [], "further messages")

    def disconnect(self):
        self.client.disconnect()
        self.client.loop_stop()

    def drop(self):
        """Loses the connection without a DISCONNECT."""
        self.client._sock.shutdown(socket.SHUT_RDWR)
        self.client.loop_stop()


def both(name):
    """The check once with each protocol version."""

    def run(function):
        for label, version in VERSIONS.items():
            checks.case(f"{name} ({label})")(lambda version=version: function(version))

    return run


@both("quality of service in both directions")
def _(version):
    receiver, sender = Client(version), Client(version)
    for level in [0, 1, 2]:
        topic = unique("qos")
        equal(receiver.subscribe(topic, qos=level), [level], "granted")
        for outgoing in [0, 1, 2]:
            for number in range(20):
                sender.publish(topic, f"{outgoing}-{number}", outgoing)
            messages = receiver.take(20)
            equal([message.payload.decode() for message in messages], [f"{outgoing}-{n}" for n in range(20)], "payloads")
            equal({message.qos for message in messages}, {min(level, outgoing)}, "delivered at")
            equal({message.retain for message in messages}, {False}, "retain flag")
    receiver.nothing_more()
    receiver.disconnect()
    sender.disconnect()


@both("many messages in flight keep their order")
def _(version):
    receiver, sender = Client(version), Client(version)
    topic = unique("flight")
    receiver.subscribe(topic, qos=2)
    for qos in [1, 2]:
        infos = [sender.client.publish(topic, str(number), qos) for number in range(500)]
        for info in infos:
            info.wait_for_publish(30)
        numbers = [int(message.payload) for message in receiver.take(500, 30)]
        equal(numbers, list(range(500)), f"payloads at {qos}")
    receiver.disconnect()
    sender.disconnect()


@both("wildcards")
def _(version):
    root = unique("wild")
    topics = ["a", "a/b", "a/b/c", "b", "a//c", "/a"]
    expected = {
        "#": topics,
        "a/#": ["a", "a/b", "a/b/c", "a//c"],
        "a/+": ["a/b"],
        "+/b": ["a/b"],
        "+": ["a", "b"],
        "a/+/c": ["a/b/c", "a//c"],
        "/a": ["/a"],
        "/+": ["/a"],
    }
    sender = Client(version)
    receivers = {}
    for name in expected:
        receivers[name] = Client(version)
        receivers[name].subscribe(f"{root}/{name}")
    for topic in topics:
        sender.publish(f"{root}/{topic}", topic)
    for name, wanted in expected.items():
        equal([payload.decode() for payload in receivers[name].payloads(len(wanted))], wanted, f"topics for {name}")
        receivers[name].nothing_more()
        receivers[name].disconnect()
    sender.disconnect()


@both("wildcards do not reach topics that start with $")
def _(version):
    receiver, sender = Client(version), Client(version)
    name = unique("$hidden")
    receiver.subscribe("#", "+/x")
    sender.publish(f"{name}/x", b"hidden", qos=0)
    sender.publish(f"{name[1:]}/x", b"shown")
    payloads = []
    wait_until(lambda: payloads.extend(receiver.messages) or b"shown" in [m.payload for m in payloads], "a message")
    require(b"hidden" not in [message.payload for message in payloads], "the hidden topic was delivered")
    receiver.disconnect()
    sender.disconnect()


@both("unsubscribe")
def _(version):
    client = Client(version)
    topic = unique("leave")
    client.subscribe(topic)
    client.publish(topic, b"1")
    equal(client.payloads(1), [b"1"], "payloads")
    client.unsubscribe(topic)
    client.publish(topic, b"2")
    client.nothing_more()
    client.disconnect()


@both("big payload")
def _(version):
    client = Client(version)
    topic = unique("big")
    client.subscribe(topic, qos=2)
    body = bytes(range(256)) * 4096
    for qos in [0, 1, 2]:
        client.publish(topic, body, qos)
        require(client.payloads(1)[0] == body, "the payload changed")
    client.publish(topic, b"")
    equal(client.payloads(1), [b""], "empty payload")
    client.disconnect()


@both("retained messages")
def _(version):
    root = unique("kept")
    sender = Client(version)
    sender.publish(f"{root}/a", b"old", retain=True)
    sender.publish(f"{root}/a", b"new", retain=True)
    sender.publish(f"{root}/b/c", b"deep", qos=0, retain=True)
    sender.publish(f"{root}/d", b"not kept")
    sender.publish(f"{root}/b/c", b"passing", qos=1, retain=False)
    receiver = Client(version)
    receiver.subscribe(f"{root}/a")
    message = receiver.take(1)[0]
    equal((message.payload, message.retain, message.qos), (b"new", True, 1), "retained message")
    receiver.subscribe(f"{root}/#")
    found = {message.topic: (message.payload, message.retain) for message in receiver.take(2)}
    equal(found, {f"{root}/a": (b"new", True), f"{root}/b/c": (b"deep", True)}, "retained messages")
    sender.publish(f"{root}/a", b"live", retain=True)
    # Two overlapping filters may deliver once or twice.
    message = receiver.take(1)[0]
    equal((message.payload, message.retain), (b"live", False), "live message of a retained topic")
    sender.publish(f"{root}/a", b"", retain=True)
    sender.publish(f"{root}/b/c", b"", retain=True)
    late = Client(version)
    late.subscribe(f"{root}/#")
    late.nothing_more()
    for client in [sender, receiver, late]:
        client.disconnect()


@both("will")
def _(version):
    topic = unique("will")
    watcher = Client(version)
    watcher.subscribe(topic)
    will = {"topic": topic, "payload": b"lost", "qos": 1}
    polite = Client(version, will=will)
    polite.disconnect()
    watcher.nothing_more()
    watcher.subscribe(topic)
    Client(version, will=will).drop()
    equal(watcher.payloads(1), [b"lost"], "will")
    kept = {"topic": topic, "payload": b"kept", "qos": 1, "retain": True}
    Client(version, will=kept).drop()
    equal(watcher.payloads(1), [b"kept"], "retained will")
    late = Client(version)
    late.subscribe(topic)
    equal([(m.payload, m.retain) for m in late.take(1)], [(b"kept", True)], "retained will later")
    watcher.publish(topic, b"", retain=True)
    watcher.disconnect()
    late.disconnect()


@both("persistent session receives what came while it was away")
def _(version):
    name, topic = unique("session"), unique("away")
    client = Client(version, name, clean=True, expiry=0)
    client.disconnect()
    client = Client(version, name, clean=False, expiry=3600)
    equal(client.session_present, False, "session present at first")
    client.subscribe(f"{topic}/#", qos=2)
    client.disconnect()
    sender = Client(version)
    for number in range(60):
        sender.publish(f"{topic}/{number % 3}", str(number), qos=1 + number % 2)
    client = Client(version, name, clean=False, expiry=3600)
    equal(client.session_present, True, "session present")
    messages = client.take(60)
    # paho hands a QoS 2 message over at PUBREL, so order holds within each level.
    for qos in [1, 2]:
        numbers = [int(message.payload) for message in messages if message.qos == qos]
        equal(numbers, list(range(qos - 1, 60, 2)), f"payloads at {qos}")
    sender.publish(f"{topic}/live", b"live")
    equal(client.payloads(1), [b"live"], "payload after the resume")
    client.disconnect()
    client = Client(version, name, clean=True, expiry=0)
    equal(client.session_present, False, "session present after a clean start")
    sender.publish(f"{topic}/0", b"nobody")
    client.nothing_more()
    client.disconnect()
    client = Client(version, name, clean=False, expiry=0)
    equal(client.session_present, False, "session present after the clean session ended")
    client.disconnect()
    sender.disconnect()


def packet(kind, body):
    size, length = len(body), b""
    while True:
        size, low = size >> 7, size & 127
        length += bytes([low | (128 if size else 0)])
        if not size:
            return bytes([kind]) + length + body


def text(value):
    return struct.pack("!H", len(value)) + value.encode()


class Raw:
    """MQTT 3.1.1 byte by byte, for what a well-behaved client cannot do."""

    def __init__(self, identifier, clean=False, connect=True):
        self.socket = socket.create_connection((HOST, PORT), 15)
        if connect:
            flags = 2 if clean else 0
            self.send(0x10, text("MQTT") + bytes([4, flags, 0, 60]) + text(identifier))
            kind, body = self.receive()
            equal((kind, body[1]), (0x20, 0), "CONNACK")
            self.session_present = bool(body[0] & 1)

    def send(self, kind, body):
        self.socket.sendall(packet(kind, body))

    def exactly(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            require(part, "the broker closed the connection")
            data += part
        return data

    def receive(self):
        kind, size, shift = self.exactly(1)[0], 0, 0
        while True:
            byte = self.exactly(1)[0]
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return kind, self.exactly(size)

    def closed(self):
        self.socket.settimeout(15)
        try:
            while self.socket.recv(4096):
                pass
        except ConnectionResetError:
            pass

    def close(self):
        self.socket.close()


def publish_body(topic, identifier, payload):
    return text(topic) + struct.pack("!H", identifier) + payload


def parse_publish(kind, body):
    size = struct.unpack("!H", body[:2])[0]
    identifier = struct.unpack("!H", body[2 + size : 4 + size])[0] if kind & 6 else None
    return identifier, body[size + (4 if kind & 6 else 2) :]


@checks.case("unacknowledged deliveries come again with DUP")
def _():
    name, topic = unique("dup"), unique("dup")
    raw = Raw(name)
    raw.send(0x82, struct.pack("!H", 1) + text(topic) + b"\x02")
    raw.receive()
    sender = Client(V3)
    sender.publish(topic, b"one", qos=1)
    sender.publish(topic, b"two", qos=2)
    first, second = raw.receive(), raw.receive()
    equal((first[0] & 0x08, second[0] & 0x08), (0, 0), "DUP of first deliveries")
    raw.close()
    raw = Raw(name)
    equal(raw.session_present, True, "session present")
    again, more = raw.receive(), raw.receive()
    equal((again[0] & 0x08, more[0] & 0x08), (8, 8), "DUP of later deliveries")
    equal(parse_publish(*again), parse_publish(*first), "packet identifier and payload")
    equal(parse_publish(*more), parse_publish(*second), "packet identifier and payload")
    identifier = struct.pack("!H", parse_publish(*more)[0])
    raw.send(0x40, struct.pack("!H", parse_publish(*again)[0]))
    raw.send(0x50, identifier)
    equal(raw.receive(), (0x62, identifier), "PUBREL")
    raw.close()
    raw = Raw(name)
    equal(raw.receive(), (0x62, identifier), "PUBREL again")
    raw.send(0x70, identifier)
    raw.send(0xC0, b"")
    equal(raw.receive(), (0xD0, b""), "PINGRESP, and nothing before it")
    raw.close()
    Raw(name, clean=True).close()
    sender.disconnect()


@checks.case("a repeated QoS 2 PUBLISH is delivered once")
def _():
    name, topic = unique("exactly"), unique("once")
    receiver = Client(V3)
    receiver.subscribe(topic, qos=2)
    raw = Raw(name)
    raw.send(0x34, publish_body(topic, 7, b"only"))
    equal(raw.receive(), (0x50, b"\x00\x07"), "PUBREC")
    raw.close()
    raw = Raw(name)
    raw.send(0x3C, publish_body(topic, 7, b"only"))
    equal(raw.receive(), (0x50, b"\x00\x07"), "PUBREC again")
    raw.send(0x62, b"\x00\x07")
    equal(raw.receive(), (0x70, b"\x00\x07"), "PUBCOMP")
    raw.send(0x34, publish_body(topic, 7, b"next"))
    equal(raw.receive(), (0x50, b"\x00\x07"), "PUBREC of the next")
    raw.send(0x62, b"\x00\x07")
    equal(raw.receive(), (0x70, b"\x00\x07"), "PUBCOMP of the next")
    equal(receiver.payloads(2), [b"only", b"next"], "payloads")
    receiver.nothing_more()
    raw.close()
    Raw(name, clean=True).close()
    receiver.disconnect()


@checks.case("protocol errors close the connection")
def _():
    cases = {
        "no CONNECT first": (False, packet(0xC0, b"")),
        "second CONNECT": (True, packet(0x10, text("MQTT") + bytes([4, 2, 0, 60]) + text("x"))),
        "reserved packet type": (True, packet(0x00, b"")),
        "reserved SUBSCRIBE flags": (True, packet(0x80, struct.pack("!H", 1) + text("a") + b"\x00")),
        "QoS 3": (True, packet(0x36, publish_body("a", 1, b""))),
        "topic with a wildcard": (True, packet(0x30, text("a/#") + b"")),
        "empty SUBSCRIBE": (True, packet(0x82, struct.pack("!H", 1))),
        "length of five bytes": (True, b"\x30\xff\xff\xff\xff\x01"),
        "string past the end": (True, packet(0x30, struct.pack("!H", 500) + b"abc")),
        "garbage": (False, b"GET / HTTP/1.1\r\n\r\n"),
    }
    for name, (connect, data) in cases.items():
        raw = Raw(unique("error"), clean=True, connect=connect)
        raw.socket.sendall(data)
        try:
            raw.closed()
        except TimeoutError as error:
            raise AssertionError(f"{name}: the connection stayed open") from error


@checks.case("unsupported protocol level")
def _():
    raw = Raw("", connect=False)
    raw.send(0x10, text("MQTT") + bytes([9, 2, 0, 60]) + text("x"))
    kind, body = raw.receive()
    equal(kind, 0x20, "packet type")
    require(body[1] in (1, 0x84), f"code {body[1]}")
    raw.closed()


@both("session takeover")
def _(version):
    name, topic = unique("taken"), unique("taken")
    first = Client(version, name, clean=False, expiry=3600)
    first.subscribe(topic)
    second = Client(version, name, clean=False, expiry=3600)
    equal(second.session_present, True, "session present")
    wait_until(lambda: first.disconnects, "the first connection ends", 15)
    if version == V5:
        # [MQTT-3.1.4-3]; Mosquitto 2.0.11 closes without a DISCONNECT.
        equal(first.disconnects[0].value, 0x8E, "reason")
    sender = Client(version)
    sender.publish(topic, b"x")
    equal(second.payloads(1), [b"x"], "payloads")
    second.disconnect()
    Client(version, name, clean=True, expiry=0).disconnect()
    sender.disconnect()


@both("shared subscriptions")
def _(version):
    topic, share = unique("work"), unique("share")
    members = [Client(version) for _ in range(3)]
    for member in members:
        member.subscribe(f"$share/{share}/{topic}/+")
    other, plain = Client(version), Client(version)
    other.subscribe(f"$share/{unique('other')}/{topic}/#")
    plain.subscribe(f"{topic}/#")
    sender = Client(version)
    for number in range(90):
        sender.publish(f"{topic}/{number}", str(number))
    equal([int(payload) for payload in plain.payloads(90)], list(range(90)), "the plain subscription")
    equal(sorted(int(payload) for payload in other.payloads(90)), list(range(90)), "the other share")
    wait_until(lambda: sum(len(member.messages) for member in members) >= 90, "all messages")
    numbers = sorted(int(message.payload) for member in members for message in member.messages)
    equal(numbers, list(range(90)), "the share")
    require(all(member.messages for member in members), "a member received nothing")
    for member in members:
        member.messages.clear()
    members.pop().disconnect()
    for number in range(30):
        sender.publish(f"{topic}/{number}", str(number))
    wait_until(lambda: sum(len(member.messages) for member in members) >= 30, "all messages after one left")
    for client in [*members, other, plain, sender]:
        client.disconnect()


@both("keep-alive")
def _(version):
    topic = unique("alive")
    client = Client(version, keepalive=2)
    client.subscribe(topic)
    time.sleep(6)
    equal(client.disconnects, [], "disconnects")
    client.publish(topic, b"x")
    equal(client.payloads(1), [b"x"], "payloads")
    client.disconnect()


@checks.case("a silent client is disconnected, and its will sent")
def _():
    topic = unique("silent")
    watcher = Client(V3)
    watcher.subscribe(topic)
    raw = Raw("", connect=False)
    body = text("MQTT") + bytes([4, 0x06, 0, 1]) + text(unique("silent")) + text(topic) + text("gone")
    raw.send(0x10, body)
    equal(raw.receive()[0], 0x20, "CONNACK")
    raw.closed()
    equal(watcher.payloads(1), [b"gone"], "will")
    watcher.disconnect()


@checks.case("empty client identifier")
def _():
    client = Client(V5, "")
    require(getattr(client.connack[2], "AssignedClientIdentifier", ""), "no assigned client identifier")
    client.disconnect()
    raw = Raw("", connect=False)
    raw.send(0x10, text("MQTT") + bytes([4, 0, 0, 60]) + text(""))
    equal(raw.receive(), (0x20, b"\x00\x02"), "CONNACK of 3.1.1 without clean session")


@checks.case("properties travel with the message (5)")
def _():
    topic = unique("properties")
    client = Client(V5)
    client.subscribe(topic)
    pairs = [("a", "1"), ("b", "2"), ("a", "3"), ("leer", "")]
    client.publish(
        topic,
        b"{}",
        UserProperty=pairs,
        CorrelationData=b"\x00\x01corr",
        ResponseTopic="answers/here",
        ContentType="application/json",
        PayloadFormatIndicator=1,
        MessageExpiryInterval=600,
    )
    received = client.take(1)[0].properties
    equal(received.UserProperty, pairs, "user properties")
    equal(received.CorrelationData, b"\x00\x01corr", "correlation data")
    equal(received.ResponseTopic, "answers/here", "response topic")
    equal(received.ContentType, "application/json", "content type")
    equal(received.PayloadFormatIndicator, 1, "payload format indicator")
    require(590 <= received.MessageExpiryInterval <= 600, f"message expiry {received.MessageExpiryInterval}")
    client.disconnect()


@checks.case("request and response (5)")
def _():
    question, answer = unique("question"), unique("answer")
    server, client = Client(V5), Client(V5)
    server.subscribe(question)
    client.subscribe(answer)
    client.publish(question, b"ping", ResponseTopic=answer, CorrelationData=b"42")
    request = server.take(1)[0]
    server.publish(request.properties.ResponseTopic, b"pong", CorrelationData=request.properties.CorrelationData)
    response = client.take(1)[0]
    equal((response.payload, response.properties.CorrelationData), (b"pong", b"42"), "response")
    server.disconnect()
    client.disconnect()


@checks.case("message expiry (5)")
def _():
    name, topic = unique("expiry"), unique("expiry")
    client = Client(V5, name, clean=True, expiry=3600)
    client.subscribe(topic)
    client.disconnect()
    sender = Client(V5)
    sender.publish(topic, b"short", MessageExpiryInterval=1)
    sender.publish(topic, b"long", MessageExpiryInterval=100)
    time.sleep(2.5)
    client = Client(V5, name, clean=False, expiry=0)
    message = client.take(1)[0]
    equal(message.payload, b"long", "payload")
    require(message.properties.MessageExpiryInterval <= 98, f"expiry {message.properties.MessageExpiryInterval}")
    client.nothing_more()
    client.disconnect()
    sender.disconnect()


@checks.case("session expiry (5)")
def _():
    name = unique("expires")
    client = Client(V5, name, clean=True, expiry=1)
    client.subscribe(unique("topic"))
    client.disconnect()
    time.sleep(2.5)
    client = Client(V5, name, clean=False, expiry=0)
    equal(client.session_present, False, "session present")
    client.disconnect()


@checks.case("subscription options (5)")
def _():
    topic = unique("options")
    sender = Client(V5)
    sender.publish(f"{topic}/r", b"kept", retain=True)
    client = Client(V5)
    client.subscribe(f"{topic}/local", options=SubscribeOptions(qos=1, noLocal=True))
    client.publish(f"{topic}/local", b"own")
    sender.publish(f"{topic}/local", b"foreign")
    equal(client.payloads(1), [b"foreign"], "payloads with No Local")
    never = SubscribeOptions(qos=1, retainHandling=2)
    client.subscribe(f"{topic}/r", options=never)
    client.nothing_more()
    published = SubscribeOptions(qos=1, retainAsPublished=True, retainHandling=1)
    other = Client(V5)
    other.subscribe(f"{topic}/r", options=published)
    equal([message.payload for message in other.take(1)], [b"kept"], "retained message of a new subscription")
    other.subscribe(f"{topic}/r", options=published)
    other.nothing_more()
    sender.publish(f"{topic}/r", b"live", retain=True)
    equal([(m.payload, m.retain) for m in other.take(1)], [(b"live", True)], "Retain As Published")
    sender.publish(f"{topic}/r", b"", retain=True)
    for item in [sender, client, other]:
        item.disconnect()


@checks.case("subscription identifier (5)")
def _():
    topic = unique("identified")
    client = Client(V5)
    properties = Properties(PacketTypes.SUBSCRIBE)
    properties.SubscriptionIdentifier = 4711
    client.subscribe(f"{topic}/#", properties=properties)
    client.publish(f"{topic}/a", b"x")
    equal(client.take(1)[0].properties.SubscriptionIdentifier, [4711], "identifier")
    client.disconnect()


@checks.case("topic alias towards the broker (5)")
def _():
    topic = unique("alias")
    client = Client(V5)
    require(getattr(client.connack[2], "TopicAliasMaximum", 0) > 0, "no topic alias maximum")
    client.subscribe(topic)
    client.publish(topic, b"1", TopicAlias=1)
    client.publish("", b"2", TopicAlias=1)
    equal([(m.topic, m.payload) for m in client.take(2)], [(topic, b"1"), (topic, b"2")], "messages")
    client.disconnect()


@checks.case("receive maximum limits what is in flight (5)")
def _():
    # [MQTT-3.3.4-9]; Mosquitto 2.0.11 exceeds it after the first acknowledgement.
    name, topic = unique("window"), unique("window")
    client = Client(V5, name, clean=True, expiry=3600, ReceiveMaximum=3)
    client.subscribe(topic)
    client.client.manual_ack_set(True)
    sender = Client(V5)
    for number in range(10):
        sender.publish(topic, str(number))
    wait_until(lambda: len(client.messages) == 3, "three messages")
    time.sleep(0.5)
    equal(len(client.messages), 3, "messages in flight")
    for count in range(4, 11):
        message = client.messages[count - 4]
        client.client.ack(message.mid, message.qos)
        wait_until(lambda count=count: len(client.messages) == count, f"message {count}")
    equal([int(message.payload) for message in client.messages], list(range(10)), "payloads")
    client.disconnect()
    Client(V5, name, clean=True, expiry=0).disconnect()
    sender.disconnect()


@checks.case("maximum packet size of the client (5)")
def _():
    topic = unique("size")
    client, sender = Client(V5, MaximumPacketSize=2000), Client(V5)
    client.subscribe(topic)
    sender.publish(topic, b"x" * 5000)
    sender.publish(topic, b"small")
    equal(client.payloads(1), [b"small"], "payloads")
    client.disconnect()
    sender.disconnect()


@checks.case("will delay (5)")
def _():
    name, topic = unique("delay"), unique("delay")
    watcher = Client(V5)
    watcher.subscribe(topic)
    properties = Properties(PacketTypes.WILLMESSAGE)
    properties.WillDelayInterval = 2
    properties.UserProperty = ("from", "will")
    will = {"topic": topic, "payload": b"late", "qos": 1, "properties": properties}
    Client(V5, name, clean=True, expiry=3600, will=will).drop()
    back = Client(V5, name, clean=False, expiry=3600, will=will)
    time.sleep(3)
    equal(len(watcher.messages), 0, "wills though the session came back in time")
    back.drop()
    message = watcher.take(1)[0]
    equal((message.payload, message.properties.UserProperty), (b"late", [("from", "will")]), "will")
    Client(V5, name, clean=True, expiry=0).disconnect()
    watcher.disconnect()


@checks.case("no matching subscribers (5)")
def _():
    client = Client(V5)
    code = client.publish(unique("nobody"), b"x")
    require(code in (0x00, 0x10), f"reason code {code}")
    client.disconnect()


@checks.case("invalid filters")
def _():
    for bad in ["a/#/b", "a#", "a+/b"]:
        raw = Raw(unique("filter"), clean=True)
        raw.send(0x82, struct.pack("!H", 1) + text(bad) + b"\x00")
        try:
            kind, body = raw.receive()
        except (AssertionError, ConnectionResetError):
            continue
        equal((kind, body[2]), (0x90, 0x80), f"answer to {bad}")


if checks.can_restart:

    @both("sessions and retained messages survive kill and restart")
    def _(version):
        name, topic = unique("survivor"), unique("survivor")
        client = Client(version, name, clean=True, expiry=0)
        client.disconnect()
        client = Client(version, name, clean=False, expiry=3600)
        client.subscribe(f"{topic}/#", qos=2)
        client.disconnect()
        sender = Client(version)
        for number in range(50):
            sender.publish(f"{topic}/{number % 2}", str(number), qos=1 + number % 2)
        sender.publish(f"{topic}/kept", b"kept", qos=1, retain=True)
        checks.restart_broker()
        sender = Client(version)
        sender.publish(f"{topic}/0", b"50", qos=2)
        client = Client(version, name, clean=False, expiry=3600)
        equal(client.session_present, True, "session present")
        messages = client.take(52)
        for qos, expected in [(1, [*range(0, 50, 2), b"kept"]), (2, [*range(1, 50, 2), 50])]:
            payloads = [message.payload for message in messages if message.qos == qos]
            wanted = [value if isinstance(value, bytes) else str(value).encode() for value in expected]
            equal(payloads, wanted, f"payloads at {qos}")
        client.nothing_more()
        client.disconnect()
        late = Client(version)
        late.subscribe(f"{topic}/#")
        equal([(m.payload, m.retain) for m in late.take(1)], [(b"kept", True)], "retained message")
        sender.publish(f"{topic}/kept", b"", retain=True)
        late.disconnect()
        sender.disconnect()


checks.finish()
