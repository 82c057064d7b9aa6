"""confluent-kafka, pika, paho-mqtt and http.client log in by every mechanism of their protocols, over TLS."""

import base64
import http.client
import os
import ssl
import threading

import paho.mqtt.client as mqtt
import pika
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from check import Checks, equal, host_port, require, unique, wait_until

checks = Checks("kafka")
FOLDER = os.environ["CONFORMANCE_CREDENTIALS"]


def path(name):
    return os.path.join(FOLDER, name)


def text(name):
    with open(path(name), encoding="ascii") as file:
        return file.read()


# The user, and what its client shows.
PASSWORD = ("ann", "ann-password")
TOKEN = ("tom", text("token"))


def context(certificate=None):
    made = ssl.create_default_context(cafile=path("authority.pem"))
    if certificate:
        made.load_cert_chain(path(f"{certificate}.pem"), path(f"{certificate}.key"))
    return made


# Kafka


def kafka_settings(**more):
    settings = {
        "bootstrap.servers": checks.addresses["kafka"],
        "broker.address.family": "v4",
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": path("authority.pem"),
        "socket.timeout.ms": 10000,
        "log_level": 0,
    }
    settings.update({key.replace("_", "."): value for key, value in more.items()})
    return settings


def sasl(mechanism, user, password):
    return kafka_settings(sasl_mechanism=mechanism, sasl_username=user, sasl_password=password)


def bearer(name):
    import time

    settings = kafka_settings(sasl_mechanism="OAUTHBEARER")
    settings["oauth_cb"] = lambda _config: (text(name), time.time() + 3600)
    return settings


def certificate(name):
    return {
        **kafka_settings(ssl_certificate_location=path(f"{name}.pem"), ssl_key_location=path(f"{name}.key")),
        "security.protocol": "SSL",
    }


def create(admin, topic):
    future = admin.create_topics([NewTopic(topic, 1, 1)], request_timeout=20)[topic]
    future.result(30)


def is_let_in(settings, user):
    """Creates a topic that only this user may, and is refused another's."""
    admin = AdminClient(settings)
    # OAUTHBEARER's token is asked for by a poll.
    admin.poll(0.5)
    create(admin, unique(f"{user}-topic"))
    try:
        create(admin, unique("other"))
    except KafkaException as error:
        equal(error.args[0].code(), KafkaError.TOPIC_AUTHORIZATION_FAILED, "the code for a topic of nobody's")
    else:
        require(False, "it may create every topic")


def is_kept_out(settings):
    failure = threading.Event()
    reasons = []

    def on_error(error):
        reasons.append(str(error))
        if error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL):
            failure.set()

    admin = AdminClient({**settings, "error_cb": on_error})
    wait_until(failure.is_set, f"a refusal, was {reasons}", 30, lambda: admin.poll(0.1))


for name in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]:

    @checks.case(f"confluent-kafka: {name}")
    def _(name=name):
        is_let_in(sasl(name, *PASSWORD), "ann")


# Each failure is answered later than the one before: some of each kind are enough.
@checks.case("confluent-kafka: a wrong password is refused")
def _():
    is_kept_out(sasl("PLAIN", "ann", "wrong"))
    is_kept_out(sasl("SCRAM-SHA-512", "ann", "wrong"))


@checks.case("confluent-kafka: OAUTHBEARER")
def _():
    is_let_in(bearer("token"), "tom")


@checks.case("confluent-kafka: OAUTHBEARER with another issuer's token is refused")
def _():
    is_kept_out(bearer("wrong.token"))


@checks.case("confluent-kafka: a client certificate")
def _():
    is_let_in(certificate("mia"), "mia")


# AMQP


def amqp_parameters(credentials, name=None):
    host, port = host_port(checks.addresses["amqp"])
    options = pika.SSLOptions(context(name), host)
    return pika.ConnectionParameters(host, port, credentials=credentials, ssl_options=options)


def amqp_is(parameters, user):
    connection = pika.BlockingConnection(parameters)
    connection.channel().queue_declare(unique(f"{user}-queue"), durable=False)
    try:
        connection.channel().queue_declare(unique("other"), durable=False)
    except pika.exceptions.ChannelClosedByBroker as error:
        equal(error.reply_code, 403, "the code for a queue of nobody's")
    else:
        require(False, "it may create every queue")
    connection.close()


def amqp_is_kept_out(parameters):
    try:
        pika.BlockingConnection(parameters)
    except (pika.exceptions.ProbableAuthenticationError, pika.exceptions.AuthenticationError):
        return
    require(False, "it was let in")


@checks.case("pika: PLAIN")
def _():
    amqp_is(amqp_parameters(pika.PlainCredentials(*PASSWORD)), "ann")


@checks.case("pika: PLAIN with a token")
def _():
    amqp_is(amqp_parameters(pika.PlainCredentials(*TOKEN)), "tom")


@checks.case("pika: EXTERNAL")
def _():
    amqp_is(amqp_parameters(pika.credentials.ExternalCredentials(), "mia"), "mia")


@checks.case("pika: wrong credentials are refused")
def _():
    amqp_is_kept_out(amqp_parameters(pika.PlainCredentials("ann", "wrong")))
    amqp_is_kept_out(amqp_parameters(pika.PlainCredentials("tom", text("wrong.token"))))
    amqp_is_kept_out(amqp_parameters(pika.credentials.ExternalCredentials(), "stranger"))
    amqp_is_kept_out(amqp_parameters(pika.credentials.ExternalCredentials()))


# MQTT


def mqtt_connect(version, user=None, password=None, name=None):
    """The reason codes of CONNACK, and of SUBACK for a topic of the user and one of nobody's."""
    host, port = host_port(checks.addresses["mqtt"])
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, unique("log-in"), protocol=version)
    client.tls_set_context(context(name))
    if user:
        client.username_pw_set(user, password)
    connected, subscribed = [], []
    client.on_connect = lambda _c, _u, _f, reason, _p: connected.append(reason.value)
    client.on_subscribe = lambda _c, _u, _m, reasons, _p: subscribed.extend(reason.value for reason in reasons)
    client.connect(host, port)
    client.loop_start()
    wait_until(lambda: connected, "CONNACK")
    if connected[0] == 0:
        client.subscribe([(f"{user or name}/a", 1), ("other/a", 1)])
        wait_until(lambda: len(subscribed) == 2, "SUBACK")
    client.disconnect()
    client.loop_stop()
    return connected[0], subscribed


for version, refused in [(mqtt.MQTTv311, 128), (mqtt.MQTTv5, 135)]:

    @checks.case(f"paho-mqtt: password, token and certificate (version {version})")
    def _(version=version, refused=refused):
        for user, password, name in [(*PASSWORD, None), (*TOKEN, None), (None, None, "mia")]:
            equal(mqtt_connect(version, user, password, name), (0, [1, refused]), f"{user or name}")


@checks.case("paho-mqtt: wrong credentials are refused")
def _():
    for version, user, password, code in [
        (mqtt.MQTTv5, "ann", "wrong", 134),
        (mqtt.MQTTv311, "tom", text("wrong.token"), 134),
        (mqtt.MQTTv5, None, None, 135),
    ]:
        equal(mqtt_connect(version, user, password)[0], code, f"{user}")


# HTTP


def http_status(path_, authorization=None, name=None):
    host, port = host_port(checks.addresses["http"])
    connection = http.client.HTTPSConnection(host, port, timeout=30, context=context(name))
    headers = {"Content-Type": "application/json", **({"Authorization": authorization} if authorization else {})}
    connection.request("POST", "/v1/queues", '{"name": "%s"}' % path_, headers)
    status = connection.getresponse().status
    connection.close()
    return status


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@checks.case("http.client: Basic, Bearer and a certificate")
def _():
    for user, authorization, name in [
        ("ann", basic(*PASSWORD), None),
        ("tom", "Bearer " + text("token"), None),
        ("mia", None, "mia"),
    ]:
        equal(http_status(unique(f"{user}-queue"), authorization, name), 201, user)
        equal(http_status(unique("other"), authorization, name), 403, f"{user} elsewhere")


@checks.case("http.client: wrong credentials are refused")
def _():
    for authorization in [basic("ann", "wrong"), "Bearer " + text("wrong.token"), None]:
        equal(http_status("ann-queue", authorization), 401, f"{authorization}")


checks.finish()
