"""One worker of the crash run: `crash_worker.py ROLE FOLDER PROTOCOL=HOST:PORT...`.

A worker publishes or reads without pause while the broker is killed and restarted, reconnects by itself, and writes
what it saw to FOLDER/ROLE.history in the words of history.rs. It prints `ready` once it is subscribed or publishes. The line
`stop` on standard input ends a worker: a producer first waits until all that it sent is acknowledged.
"""

import sys
import threading
import time
from pathlib import Path

from check import host_port

ROLE, FOLDER = sys.argv[1], Path(sys.argv[2])
ADDRESSES = dict(argument.split("=", 1) for argument in sys.argv[3:])
TOPICS = {"log": "crash-log", "exact": "crash-exact"}
QUEUE, HTTP_QUEUE, BUS_QUEUE, BALLAST_QUEUE = "crash-queue", "crash-http", "crash-bus", "crash-ballast"
LEVEL_TOPICS = {"qos1": "crash/qos1", "qos2": "crash/qos2"}
PARTITIONS = 4
KEYS = 16  # as in history.rs
WINDOW = 200  # messages that may wait for their acknowledgement
PAUSE_SECONDS = 0.002
HTTP_MESSAGES = 10  # in one request

stopping = threading.Event()


def watch_input():
    for line in sys.stdin:
        if line.strip() == "stop":
            break
    stopping.set()


class History:
    """Appends lines; they are in the file before the next step of the protocol."""

    def __init__(self, name=ROLE):
        self.file = open(FOLDER / f"{name}.history", "a", buffering=1)
        self.lock = threading.Lock()

    def write(self, *words):
        with self.lock:
            self.file.write(" ".join(str(word) for word in words) + "\n")


def payload(channel, sequence):
    """What a message must hold, whole: name, number and a filling that depends on the number."""
    return f"{channel} {sequence} ".encode() + bytes([97 + sequence % 26]) * (sequence % 700)


def sequence_of(channel, body, history):
    """The number in a payload; None, and a line in the history, if no producer wrote it so."""
    try:
        sequence = int(body.split(b" ", 2)[1])
    except (IndexError, ValueError):
        sequence = None
    if sequence is None or body != payload(channel, sequence):
        history.write("corrupt", channel, body[:60].hex())
        return None
    return sequence


# Kafka


def kafka_settings(**more):
    settings = {
        "bootstrap.servers": ADDRESSES["kafka"],
        "broker.address.family": "v4",
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 500,
        "socket.timeout.ms": 10000,
        "log.connection.close": False,
    }
    settings.update({key.replace("_", "."): value for key, value in more.items()})
    return settings


def produce_log(channel, **more):
    from confluent_kafka import Producer

    history = History()
    settings = kafka_settings(acks="all", linger_ms=2, message_timeout_ms=120000, retry_backoff_ms=50, **more)
    producer = Producer(settings)
    print("ready", flush=True)
    outstanding = 0

    def report(sequence):
        def on_delivery(error, message):
            nonlocal outstanding
            outstanding -= 1
            if error is None:
                history.write("acked", channel, sequence, message.partition(), message.offset())
            else:
                sys.stderr.write(f"{sequence}: {error}\n")

        return on_delivery

    sequence = 0
    while not stopping.is_set():
        if outstanding < WINDOW:
            history.write("sent", channel, sequence)
            key = str(sequence % KEYS).encode()
            outstanding += 1
            producer.produce(TOPICS[channel], payload(channel, sequence), key, on_delivery=report(sequence))
            sequence += 1
        producer.poll(PAUSE_SECONDS)
    left = producer.flush(100)
    if left:
        sys.exit(f"{left} messages were not acknowledged")


def consume_log():
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    history = History()
    consumer = Consumer(
        kafka_settings(
            group_id="crash",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=6000,
            heartbeat_interval_ms=300,
            fetch_wait_max_ms=100,
            topic_metadata_refresh_interval_ms=1000,
        )
    )

    channels = {topic: channel for channel, topic in TOPICS.items()}

    def on_assign(member, partitions):
        asked = time.monotonic_ns()
        try:
            for place in member.committed(partitions, timeout=10):
                if place.error is None and place.offset >= 0:
                    history.write("resumed", asked, channels[place.topic], place.partition, place.offset)
        except KafkaException as error:
            # The broker died while it was asked; the assignment will come again.
            sys.stderr.write(f"committed: {error}\n")

    def on_revoke(_member, partitions):
        # They are another member's by now: a commit of ours would be confirmed, and then taken back by its own.
        for place in partitions:
            places.pop((place.topic, place.partition), None)

    places, since = {}, time.monotonic()
    consumer.subscribe(list(channels), on_assign=on_assign, on_revoke=on_revoke, on_lost=on_revoke)
    print("ready", flush=True)
    while not stopping.is_set():
        message = consumer.poll(0.1)
        if message is not None and not message.error():
            channel = channels[message.topic()]
            sequence = sequence_of(channel, message.value(), history)
            if sequence is not None:
                history.write("received", channel, ROLE, sequence, "first")
            places[message.topic(), message.partition()] = message.offset() + 1
        if places and time.monotonic() - since > 0.2:
            offsets = [TopicPartition(*place, offset) for place, offset in places.items()]
            try:
                for place in consumer.commit(offsets=offsets, asynchronous=False):
                    if place.error is None:
                        channel = channels[place.topic]
                        history.write("committed", time.monotonic_ns(), channel, place.partition, place.offset)
            except KafkaException as error:
                sys.stderr.write(f"commit: {error}\n")
            places.clear()
            since = time.monotonic()
    consumer.close()


def audit():
    """Reads all logs once, from the beginning to their end."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    history = History()
    reader = Consumer(kafka_settings(group_id="crash-audit", enable_auto_commit=False))
    for channel, topic in TOPICS.items():
        for partition in range(PARTITIONS):
            place, end = reader.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)
            reader.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
            deadline = time.monotonic() + 60
            while place < end:
                if time.monotonic() > deadline:
                    sys.exit(f"{topic}/{partition}: at {place} of {end} after 60 s")
                message = reader.poll(1)
                if message is None or message.error():
                    continue
                sequence = sequence_of(channel, message.value(), history)
                if sequence is not None:
                    history.write("logged", channel, sequence, partition, message.offset())
                place = message.offset() + 1
    reader.close()


# AMQP


def amqp_parameters():
    import pika

    host, port = host_port(ADDRESSES["amqp"])
    return pika.ConnectionParameters(host, port, heartbeat=20, socket_timeout=5, connection_attempts=1)


def produce_queue():
    import pika
    from pika.adapters.select_connection import SelectConnection

    history = History()
    persistent = pika.BasicProperties(delivery_mode=2)
    state = {"sequence": 0}

    class Publisher:
        """One connection in confirm mode; what it could not confirm when it breaks is never sent again."""

        def __init__(self):
            self.waiting = {}
            self.tag = 0
            self.channel = None
            self.connection = SelectConnection(
                amqp_parameters(),
                on_open_callback=lambda connection: connection.channel(on_open_callback=self.on_channel),
                on_open_error_callback=self.on_end,
                on_close_callback=self.on_end,
            )

        def run(self):
            self.connection.ioloop.start()

        def on_end(self, _connection, _reason):
            self.connection.ioloop.stop()

        def on_channel(self, channel):
            self.channel = channel
            channel.confirm_delivery(self.on_confirm, callback=lambda _frame: self.publish())

        def on_confirm(self, frame):
            tag, accepted = frame.method.delivery_tag, frame.method.NAME == "Basic.Ack"
            tags = [tag] if not frame.method.multiple else [one for one in self.waiting if one <= tag]
            for one in tags:
                sequence = self.waiting.pop(one)
                if accepted:
                    history.write("acked", "queue", sequence)

        def publish(self):
            if stopping.is_set():
                if self.waiting:
                    self.connection.ioloop.call_later(PAUSE_SECONDS, self.publish)
                else:
                    self.connection.close()
                return
            for _ in range(5):
                if len(self.waiting) < WINDOW and self.channel.is_open:
                    sequence = state["sequence"]
                    state["sequence"] += 1
                    self.tag += 1
                    self.waiting[self.tag] = sequence
                    history.write("sent", "queue", sequence)
                    self.channel.basic_publish("", QUEUE, payload("queue", sequence), persistent)
            self.connection.ioloop.call_later(5 * PAUSE_SECONDS, self.publish)

    print("ready", flush=True)
    while not stopping.is_set():
        try:
            Publisher().run()
        except ValueError as error:
            note_reset(error)
        time.sleep(0.1)


def consume_queue(channel_name, source, queue):
    import pika
    from pika.exceptions import AMQPError

    history = History()
    announced = False
    while not stopping.is_set():
        try:
            connection = pika.BlockingConnection(amqp_parameters())
            channel = connection.channel()
            channel.basic_qos(prefetch_count=50)

            def on_message(_channel, method, _properties, body, channel=channel):
                sequence = sequence_of(source, body, history)
                if sequence is not None:
                    flag = "again" if method.redelivered else "first"
                    history.write("received", channel_name, ROLE, sequence, flag)
                channel.basic_ack(method.delivery_tag)

            channel.basic_consume(queue, on_message)
            if not announced:
                print("ready", flush=True)
                announced = True
            while not stopping.is_set():
                connection.process_data_events(0.1)
            connection.close()
        except (AMQPError, OSError) as error:
            sys.stderr.write(f"{error!r}\n")
            time.sleep(0.1)
        except ValueError as error:
            note_reset(error)
            time.sleep(0.1)


def note_reset(error):
    """pika raises a ValueError where a connection is reset just after it was made; any other is a fault."""
    if "Expected connected socket" not in str(error):
        raise error
    sys.stderr.write(f"{error!r}\n")


def fill_queue():
    """Publishes large messages until one is refused, which is how a publisher learns that there is no space."""
    import pika
    from pika.exceptions import NackError

    channel = pika.BlockingConnection(amqp_parameters()).channel()
    channel.confirm_delivery()
    persistent = pika.BasicProperties(delivery_mode=2)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            channel.basic_publish("", BALLAST_QUEUE, bytes(200_000), persistent)
        except NackError:
            return
    sys.exit("nothing was refused in 60 s")


# HTTP


def produce_http():
    """Publishes lists of messages; what was not answered when the connection breaks is never sent again."""
    import http.client
    import json

    history = History()
    connection = http.client.HTTPConnection(*host_port(ADDRESSES["http"]), timeout=30)
    sequence = 0
    print("ready", flush=True)
    while not stopping.is_set():
        numbers = range(sequence, sequence + HTTP_MESSAGES)
        sequence += HTTP_MESSAGES
        for number in numbers:
            history.write("sent", "http", number)
        body = json.dumps([{"body": payload("http", number).decode()} for number in numbers])
        try:
            path = f"/v1/queues/{HTTP_QUEUE}/messages"
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = json.loads(answer.read())
        except (OSError, http.client.HTTPException) as error:
            sys.stderr.write(f"{error!r}\n")
            connection.close()
            time.sleep(0.1)
            continue
        if answer.status == 507:
            time.sleep(0.1)
        elif answer.status != 200:
            sys.exit(f"{answer.status}: {said}")
        for number, result in zip(numbers, said.get("results", [])):
            if "error" not in result:
                history.write("acked", "http", number)
        time.sleep(HTTP_MESSAGES * PAUSE_SECONDS)


def refused():
    """Publishes by every other protocol while there is no space, and demands the error that each has for it."""
    import http.client
    import json

    import paho.mqtt.client as mqtt
    from confluent_kafka import KafkaError, Producer

    large = bytes(200_000)
    errors = []
    producer = Producer(kafka_settings(acks="all", retries=0))
    producer.produce(TOPICS["log"], large, on_delivery=lambda error, _message: errors.append(error))
    producer.flush(30)
    if [error and error.code() for error in errors] != [KafkaError.KAFKA_STORAGE_ERROR]:
        sys.exit(f"Kafka: {errors}")

    codes, told = [], threading.Event()
    # A session that outlives its connection would itself need space.
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.connect(*host_port(ADDRESSES["mqtt"]))
    client.on_publish = lambda _client, _userdata, _mid, code, _properties: (codes.append(code.value), told.set())
    client.loop_start()
    client.publish("crash/ballast", large, 1)
    if not told.wait(30) or codes != [0x97]:
        sys.exit(f"MQTT: {codes}")
    client.disconnect()
    client.loop_stop()

    connection = http.client.HTTPConnection(*host_port(ADDRESSES["http"]), timeout=30)
    body = json.dumps({"body": large.decode()})
    path = f"/v1/queues/{BALLAST_QUEUE}/messages"
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 507:
        sys.exit(f"HTTP: {answer.status} {answer.read()}")


# MQTT


def mqtt_client(name, version, history=None, channel=None):
    """A client with a session that outlives the broker, which reconnects by itself."""
    import paho.mqtt.client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion, MessageState
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    class Client(mqtt.Client):
        def __init__(self, *arguments, **settings):
            # Whoever publishes looks and publishes in one turn, within which Paho does not reconnect: what is published
            # between its CONNECT and the CONNACK would overtake what was not acknowledged.
            self.turn, self.connected = threading.Lock(), threading.Event()
            super().__init__(*arguments, **settings)

        def reconnect(self):
            with self.turn:
                self.connected.clear()
                return super().reconnect()

        def _messages_reconnect_reset_out(self):
            # With its second attempt to reconnect Paho forgets that a message had its PUBREC, and would publish it
            # anew, which [MQTT-4.3.3-1] forbids.
            for message in self._out_messages.values():
                if message.state == MessageState.MQTT_MS_RESEND_PUBREL:
                    message.state = MessageState.MQTT_MS_WAIT_FOR_PUBCOMP
            super()._messages_reconnect_reset_out()

        def _handle_connack(self):
            # Paho tells of a connection before it sends again what was not acknowledged: what is published in between
            # would overtake that.
            outcome = super()._handle_connack()
            if outcome == mqtt.MQTT_ERR_SUCCESS:
                self.connected.set()
            return outcome

    settings = {} if version == mqtt.MQTTv5 else {"clean_session": False}
    client = Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=version, **settings)
    client.reconnect_delay_set(0.1, 0.5)

    def on_connect(_client, _userdata, flags, code, _properties):
        if code.is_failure:
            sys.stderr.write(f"refused: {code}\n")
            return
        if history is not None:
            history.write("session", channel, "present" if flags.session_present else "new")

    client.on_connect = on_connect
    client.on_disconnect = lambda *_: client.connected.clear()
    host, port = host_port(ADDRESSES["mqtt"])
    if version == mqtt.MQTTv5:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        client.connect(host, port, 10, clean_start=False, properties=properties)
    else:
        client.connect(host, port, 10)
    return client


def produce_sessions(newest=None):
    import paho.mqtt.client as mqtt

    failures = []
    threads = [
        threading.Thread(target=produce_session, args=("qos1", 1, mqtt.MQTTv311, failures)),
        threading.Thread(target=produce_session, args=("qos2", 2, newest or mqtt.MQTTv5, failures)),
    ]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    for thread in threads:
        thread.join()
    if failures:
        sys.exit("; ".join(failures))


def produce_session(channel, qos, version, failures):
    history = History(f"{ROLE}-{channel}")
    client = mqtt_client(f"crash-producer-{channel}", version, history, f"{channel}-producer")
    waiting, early, lock = {}, set(), threading.Lock()

    def on_publish(_client, _userdata, mid, code, _properties):
        with lock:
            sequence = waiting.pop(mid, None)
            if sequence is None:
                # Acknowledged before publish() told its number.
                early.add(mid)
                return
        # After a restart "packet identifier not found" says that the exchange was complete [MQTT5 table 2-6].
        if not code.is_failure or code.value == 0x92:
            history.write("acked", channel, sequence)

    client.on_publish = on_publish
    client.loop_start()
    sequence = 0
    while not stopping.is_set():
        with client.turn:
            if client.connected.is_set() and len(waiting) < WINDOW:
                history.write("sent", channel, sequence)
                topic = f"{LEVEL_TOPICS[channel]}/{sequence % KEYS}"
                mid = client.publish(topic, payload(channel, sequence), qos).mid
                with lock:
                    if mid in early:
                        early.discard(mid)
                        history.write("acked", channel, sequence)
                    else:
                        waiting[mid] = sequence
                sequence += 1
        time.sleep(PAUSE_SECONDS)
    deadline = time.monotonic() + 100
    while waiting and time.monotonic() < deadline:
        time.sleep(0.05)
    client.disconnect()
    client.loop_stop()
    if waiting:
        failures.append(f"{channel}: {len(waiting)} messages were not acknowledged")


def consume_sessions():
    import paho.mqtt.client as mqtt

    clients = []
    for channel, qos, version in [("qos1", 1, mqtt.MQTTv311), ("qos2", 2, mqtt.MQTTv5)]:
        history = History(f"{ROLE}-{channel}")
        client = mqtt_client(f"crash-consumer-{channel}", version, history, channel)

        def on_message(_client, _userdata, message, channel=channel, history=history):
            sequence = sequence_of(channel, message.payload, history)
            if sequence is not None:
                history.write("received", channel, ROLE, sequence, "again" if message.dup else "first")

        subscribed = threading.Event()
        client.on_message = on_message
        client.on_subscribe = lambda *_, subscribed=subscribed: subscribed.set()
        client.loop_start()
        if not client.connected.wait(30):
            sys.exit("not connected")
        client.subscribe(f"{LEVEL_TOPICS[channel]}/#", qos)
        if not subscribed.wait(30):
            sys.exit("not subscribed")
        clients.append(client)
    print("ready", flush=True)
    stopping.wait()
    for client in clients:
        client.disconnect()
        client.loop_stop()


# The topology, and what must be left at the end


def setup():
    import pika
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient(kafka_settings())
    for created in admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in TOPICS.values()]).values():
        created.result(30)
    channel = pika.BlockingConnection(amqp_parameters()).channel()
    for queue in [QUEUE, HTTP_QUEUE, BUS_QUEUE, BALLAST_QUEUE]:
        channel.queue_declare(queue, durable=True)
    channel.queue_bind(BUS_QUEUE, "amq.topic", "crash.qos1.#")
    channel.queue_bind(BALLAST_QUEUE, "amq.topic", "crash.ballast")


def empty():
    """Everything was settled, so nothing may come back: neither from the queues nor from the sessions."""
    import paho.mqtt.client as mqtt
    import pika

    channel = pika.BlockingConnection(amqp_parameters()).channel()
    for queue in [QUEUE, HTTP_QUEUE, BUS_QUEUE]:
        count = channel.queue_declare(queue, passive=True).method.message_count
        if count:
            sys.exit(f"{queue} holds {count} messages after all were acknowledged")
    for name, version in [("qos1", mqtt.MQTTv311), ("qos2", mqtt.MQTTv5)]:
        client = mqtt_client(f"crash-consumer-{name}", version)
        messages, marked = [], threading.Event()
        client.on_message = lambda _c, _u, message, m=messages, e=marked: (
            e.set() if message.topic.endswith("/end") else m.append(message)
        )
        client.loop_start()
        client.publish(f"{LEVEL_TOPICS[name]}/end", b"end", 1)
        if not marked.wait(30):
            sys.exit(f"{name}: the session delivers nothing")
        client.disconnect()
        client.loop_stop()
        if messages:
            sys.exit(f"{name}: {len(messages)} messages came again after all were acknowledged")


if __name__ == "__main__":
    threading.Thread(target=watch_input, daemon=True).start()
    {
        # One request at a time keeps the order of a key when a request is repeated.
        "produce-log": lambda: produce_log(
            "log", enable_idempotence=False, max_in_flight_requests_per_connection=1
        ),
        "produce-exact": lambda: produce_log("exact", enable_idempotence=True),
        "produce-queue": produce_queue,
        "produce-http": produce_http,
        "produce-sessions": produce_sessions,
        # Paho goes on with PUBREL after a PUBREC that refuses, so that nobody learns of it; in this version the
        # connection ends instead, and it sends the message again.
        "produce-sessions-311": lambda: produce_sessions(newest=4),
        "consume-log-a": consume_log,
        "consume-log-b": consume_log,
        "consume-queue-a": lambda: consume_queue("queue", "queue", QUEUE),
        "consume-queue-b": lambda: consume_queue("queue", "queue", QUEUE),
        "consume-http": lambda: consume_queue("http", "http", HTTP_QUEUE),
        "consume-bus": lambda: consume_queue("bus", "qos1", BUS_QUEUE),
        "consume-sessions": consume_sessions,
        "setup": setup,
        "fill-queue": fill_queue,
        "refused": refused,
        "audit": audit,
        "empty": empty,
    }[ROLE]()
