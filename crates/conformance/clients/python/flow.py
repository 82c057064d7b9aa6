"""The flow that the README shows: orders from Kafka to everybody, sensors from MQTT to Kafka, AMQP to both.

Called as `flow.py kafka=HOST:PORT amqp=HOST:PORT mqtt=HOST:PORT http=HOST:PORT`; the environment variable POSTHASTE
names the program whose command line creates the topics.
"""

import os
import subprocess
import threading

import paho.mqtt.client as mqtt
import pika
from confluent_kafka import Consumer, Producer
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from check import Checks, equal, host_port, require, wait_until

checks = Checks(None)
KAFKA, AMQP, MQTT = (checks.addresses[name] for name in ["kafka", "amqp", "mqtt"])
SERVER = f"http://{checks.addresses['http']}"
CUSTOMERS, ORDERS, DEVICES, READINGS = 8, 200, 5, 40


def posthaste(*arguments):
    """Runs a client command of the program under test."""
    command = [os.environ["POSTHASTE"], *arguments, "--server", SERVER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    require(done.returncode == 0, f"{' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Group(threading.Thread):
    """One member of a Kafka consumer group; collects what it reads."""

    def __init__(self, topic, group):
        super().__init__(daemon=True)
        self.records, self.stopping = [], threading.Event()
        self.consumer = Consumer(
            {
                "bootstrap.servers": KAFKA,
                "broker.address.family": "v4",
                "group.id": group,
                "auto.offset.reset": "earliest",
            }
        )
        self.consumer.subscribe([topic])
        self.start()

    def run(self):
        while not self.stopping.is_set():
            record = self.consumer.poll(0.1)
            if record is not None and record.error() is None:
                self.records.append(record)
        self.consumer.close()

    def stop(self):
        self.stopping.set()
        self.join()


class Worker(threading.Thread):
    """One of several AMQP consumers that share a queue."""

    def __init__(self, queue):
        super().__init__(daemon=True)
        self.deliveries, self.stopping, self.queue = [], threading.Event(), queue
        self.ready = threading.Event()
        self.start()

    def run(self):
        host, port = host_port(AMQP)
        connection = pika.BlockingConnection(pika.ConnectionParameters(host, port))
        channel = connection.channel()
        channel.basic_qos(prefetch_count=5)

        def on_message(_channel, method, properties, body):
            self.deliveries.append((method.routing_key, properties, body))
            channel.basic_ack(method.delivery_tag)

        channel.basic_consume(self.queue, on_message)
        self.ready.set()
        while not self.stopping.is_set():
            connection.process_data_events(0.1)
        connection.close()

    def stop(self):
        self.stopping.set()
        self.join()


def mqtt_client():
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.messages, client.subscribed = [], threading.Event()
    client.on_message = lambda _client, _userdata, message: client.messages.append(message)
    client.on_subscribe = lambda *_: client.subscribed.set()
    client.connect(*host_port(MQTT))
    client.loop_start()
    return client


def in_order_per(key, items):
    """Fails unless the numbers of each key rise; `items` are `KEY NUMBER` texts."""
    last = {}
    for item in items:
        name, number = item.split()
        require(int(number) > last.get(name, -1), f"{key} {name}: {number} after {last.get(name)}")
        last[name] = int(number)


# Topics, the queue and its binding by command line; the subscription by MQTT.

host, port = host_port(AMQP)
connection = pika.BlockingConnection(pika.ConnectionParameters(host, port))
channel = connection.channel()
live = mqtt_client()


@checks.case("topics, queue and subscription")
def _():
    posthaste("topic", "create", "orders", "--partitions", "4")
    posthaste("topic", "create", "sensors", "--partitions", "4", "--capture", "sensors.#")
    posthaste("queue", "create", "work")
    posthaste("binding", "create", "--exchange", "amq.topic", "--queue", "work", "--key", "orders.#")
    topics = posthaste("topic", "list")
    require("orders" in topics and "sensors" in topics, f"topics are not listed: {topics}")
    require("work" in posthaste("queue", "list"), "the queue is not listed")
    channel.queue_declare("work", passive=True)
    live.subscribe("orders/#", qos=1)
    require(live.subscribed.wait(10), "no SUBACK")


# Orders: produced once by Kafka, read by a Kafka group, by two AMQP workers that share the queue, and live by MQTT.

members = [Group("orders", "billing"), Group("orders", "billing")]
workers = [Worker("work"), Worker("work")]
orders = [f"customer-{number % CUSTOMERS} {number}" for number in range(ORDERS)]


@checks.case("orders are produced by Kafka")
def _():
    require(all(worker.ready.wait(10) for worker in workers), "the workers do not consume")
    producer = Producer({"bootstrap.servers": KAFKA, "broker.address.family": "v4", "acks": "all"})
    failures = []
    for order in orders:
        producer.produce(
            "orders",
            key=order.split()[0],
            value=order,
            headers={"content-type": "text/plain", "correlation-id": f"order {order}", "region": "eu"},
            on_delivery=lambda error, _message: failures.append(error) if error else None,
        )
    equal(producer.flush(30), 0, "records not acknowledged")
    equal(failures, [], "failed deliveries")


@checks.case("a Kafka group reads all orders, in order per customer")
def _():
    wait_until(lambda: sum(len(member.records) for member in members) >= ORDERS, "all orders", 60)
    values = [record.value().decode() for member in members for record in member.records]
    equal(sorted(values), sorted(orders), "orders")
    for member in members:
        in_order_per("customer", [record.value().decode() for record in member.records])
        for record in member.records:
            equal(record.key().decode(), record.value().decode().split()[0], "key")
            require(("region", b"eu") in record.headers(), f"headers {record.headers()}")
    require(len({record.partition() for member in members for record in member.records}) > 1, "one partition only")


@checks.case("two AMQP workers share all orders")
def _():
    wait_until(lambda: sum(len(worker.deliveries) for worker in workers) >= ORDERS, "all orders", 60)
    deliveries = [delivery for worker in workers for delivery in worker.deliveries]
    equal(sorted(body.decode() for _key, _properties, body in deliveries), sorted(orders), "orders")
    require(all(worker.deliveries for worker in workers), "one worker received nothing")
    for key, properties, body in deliveries:
        equal(key, "orders", "routing key")
        equal(properties.content_type, "text/plain", "content type")
        equal(properties.correlation_id, f"order {body.decode()}", "correlation id")
        equal(properties.headers.get("region"), "eu", "header")
    for worker in workers:
        in_order_per("customer", [body.decode() for _key, _properties, body in worker.deliveries])


@checks.case("an MQTT subscriber sees all orders live")
def _():
    wait_until(lambda: len(live.messages) >= ORDERS, "all orders", 60)
    equal(sorted(message.payload.decode() for message in live.messages), sorted(orders), "orders")
    in_order_per("customer", [message.payload.decode() for message in live.messages])
    for message in live.messages:
        equal(message.topic, "orders", "topic")
        equal(message.properties.ContentType, "text/plain", "content type")
        equal(message.properties.CorrelationData, f"order {message.payload.decode()}".encode(), "correlation data")
        require(("region", "eu") in message.properties.UserProperty, f"properties {message.properties}")
    live.messages.clear()


# Sensors: published by MQTT devices, read by Kafka through a topic that captures their subjects.

readings = Group("sensors", "analytics")


@checks.case("a Kafka consumer reads what MQTT devices publish, in order per device")
def _():
    device = mqtt_client()
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = "text/plain"
    properties.CorrelationData = b"\x00\x01batch"
    properties.UserProperty = ("unit", "celsius")
    sent = [f"device-{number % DEVICES} {number}" for number in range(READINGS)]
    for reading in sent:
        topic = f"sensors/{reading.split()[0]}/temperature"
        device.publish(topic, reading, qos=1, properties=properties).wait_for_publish(10)
    wait_until(lambda: len(readings.records) >= READINGS, "all readings", 60)
    equal(sorted(record.value().decode() for record in readings.records), sorted(sent), "readings")
    in_order_per("device", [record.value().decode() for record in readings.records])
    home = {}
    for record in readings.records:
        name = record.value().decode().split()[0]
        equal(home.setdefault(name, record.partition()), record.partition(), f"partition of {name}")
        headers = dict(record.headers())
        equal(headers.get("content-type"), b"text/plain", "content type")
        equal(headers.get("correlation-id"), b"\x00\x01batch", "correlation id")
        equal(headers.get("unit"), b"celsius", "user property")
    readings.records.clear()
    device.loop_stop()


# The other ways: AMQP to MQTT and to Kafka, MQTT to AMQP.


@checks.case("an AMQP publish reaches MQTT and Kafka")
def _():
    properties = pika.BasicProperties(
        content_type="application/json", correlation_id="c-1", headers={"region": "us"}, delivery_mode=2
    )
    channel.confirm_delivery()
    channel.basic_publish("amq.topic", "orders.express", b'{"order": 1}', properties)
    channel.basic_publish("amq.topic", "sensors.gate.open", b'{"open": true}', properties)
    wait_until(lambda: live.messages, "the MQTT message")
    message = live.messages[0]
    equal((message.topic, message.payload), ("orders/express", b'{"order": 1}'), "message")
    equal(message.properties.ContentType, "application/json", "content type")
    equal(message.properties.CorrelationData, b"c-1", "correlation data")
    require(("region", "us") in message.properties.UserProperty, f"properties {message.properties}")
    wait_until(lambda: readings.records, "the Kafka record")
    record = readings.records[0]
    headers = dict(record.headers())
    equal(record.value(), b'{"open": true}', "value")
    equal(headers.get("content-type"), b"application/json", "content type")
    equal(headers.get("correlation-id"), b"c-1", "correlation id")
    equal(headers.get("region"), b"us", "header")


@checks.case("an MQTT publish reaches the AMQP queue")
def _():
    before = sum(len(worker.deliveries) for worker in workers)
    device = mqtt_client()
    properties = Properties(PacketTypes.PUBLISH)
    properties.ContentType = "text/plain"
    properties.CorrelationData = b"m-1"
    properties.UserProperty = ("region", "apac")
    device.publish("orders/shop/7", b"by hand", qos=2, properties=properties).wait_for_publish(10)
    wait_until(lambda: sum(len(worker.deliveries) for worker in workers) > before, "the AMQP delivery")
    found = [delivery for worker in workers for delivery in worker.deliveries if delivery[0] == "orders.shop.7"]
    equal(len(found), 1, "deliveries")
    _key, received, body = found[0]
    equal((body, received.content_type, received.correlation_id), (b"by hand", "text/plain", "m-1"), "delivery")
    equal(received.headers.get("region"), "apac", "header")
    device.loop_stop()


for part in [*members, *workers, readings]:
    part.stop()
checks.finish()
