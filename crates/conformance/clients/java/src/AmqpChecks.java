package posthaste.conformance;

import static posthaste.conformance.Checks.equal;
import static posthaste.conformance.Checks.require;
import static posthaste.conformance.Checks.unique;
import static posthaste.conformance.Checks.waitUntil;

import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.AlreadyClosedException;
import com.rabbitmq.client.AuthenticationFailureException;
import com.rabbitmq.client.BuiltinExchangeType;
import com.rabbitmq.client.CancelCallback;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.GetResponse;
import com.rabbitmq.client.RpcClient;
import com.rabbitmq.client.RpcClientParams;
import com.rabbitmq.client.RpcServer;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.IOException;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Date;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CopyOnWriteArrayList;

/** The Java client of RabbitMQ. */
final class AmqpChecks {
    private static final List<BuiltinExchangeType> CORE_TYPES = List.of(
            BuiltinExchangeType.DIRECT,
            BuiltinExchangeType.FANOUT,
            BuiltinExchangeType.TOPIC,
            BuiltinExchangeType.HEADERS);

    private final ConnectionFactory factory = new ConnectionFactory();
    private Connection connection;

    private AmqpChecks(String address) {
        int colon = address.lastIndexOf(':');
        factory.setHost(address.substring(0, colon));
        factory.setPort(Integer.parseInt(address.substring(colon + 1)));
        factory.setAutomaticRecoveryEnabled(false);
    }

    /** A channel on the shared connection, which a failed check may have closed. */
    private Channel channel() throws Exception {
        if (connection == null || !connection.isOpen()) {
            connection = factory.newConnection("conformance");
        }
        return connection.createChannel();
    }

    static void run(Checks checks, String address) {
        AmqpChecks amqp = new AmqpChecks(address);
        checks.check("wrong password and unknown virtual host", amqp::refusedConnections);
        checks.check("all exchange types", amqp::exchangeTypes);
        checks.check("exchange to exchange", amqp::exchangeToExchange);
        checks.check("declare, passive, purge, delete", amqp::declare);
        checks.check("publisher confirms", amqp::confirms);
        checks.check("mandatory return", amqp::mandatory);
        checks.check("prefetch, ack, nack, reject", amqp::settle);
        checks.check("dead letters", amqp::deadLetters);
        checks.check("cancel notification", amqp::cancelled);
        checks.check("exclusive, auto-delete and server-named queues", amqp::lifetimes);
        checks.check("big message", amqp::bigMessage);
        checks.check("headers of all types", amqp::headers);
        checks.check("heartbeat", amqp::heartbeat);
        checks.check("request and reply over direct reply-to", amqp::rpc);
        checks.check("basic.recover", amqp::recover);
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static String text(GetResponse response) {
        return new String(response.getBody(), StandardCharsets.UTF_8);
    }

    private static GetResponse take(Channel channel, String queue, boolean autoAck) throws Exception {
        GetResponse[] found = new GetResponse[1];
        waitUntil(
                () -> {
                    found[0] = channel.basicGet(queue, autoAck);
                    return found[0] != null;
                },
                "a message in " + queue);
        return found[0];
    }

    private static String exclusive(Channel channel) throws IOException {
        return channel.queueDeclare().getQueue();
    }

    private interface Operation {
        void run(Channel channel) throws Exception;
    }

    private void refused(int code, Operation operation) throws Exception {
        Channel channel = channel();
        try {
            operation.run(channel);
        } catch (IOException error) {
            require(error.getCause() instanceof ShutdownSignalException, "unexpected " + error);
            AMQP.Channel.Close close =
                    (AMQP.Channel.Close) ((ShutdownSignalException) error.getCause()).getReason();
            equal(close.getReplyCode(), code, "reply code");
            return;
        } catch (AlreadyClosedException error) {
            equal(((AMQP.Channel.Close) error.getReason()).getReplyCode(), code, "reply code");
            return;
        }
        throw new AssertionError("expected " + code);
    }

    private void refusedConnections() throws Exception {
        ConnectionFactory wrong = factory.clone();
        wrong.setPassword("wrong");
        try {
            wrong.newConnection();
            throw new AssertionError("a wrong password was accepted");
        } catch (AuthenticationFailureException expected) {
            require(expected.getMessage().contains("ACCESS_REFUSED"), expected.getMessage());
        }
        ConnectionFactory missing = factory.clone();
        missing.setVirtualHost("no-such-vhost");
        try {
            missing.newConnection();
            throw new AssertionError("an unknown virtual host was accepted");
        } catch (IOException expected) {
            require(String.valueOf(expected.getCause()).contains("530"), "unexpected " + expected.getCause());
        }
    }

    private void exchangeTypes() throws Exception {
        try (Channel channel = channel()) {
            Map<String, Object> match = Map.of("x-match", "all", "kind", "x", "size", 3);
            for (BuiltinExchangeType type : CORE_TYPES) {
                String exchange = unique("java");
                channel.exchangeDeclare(exchange, type, false, true, null);
                String queue = exclusive(channel);
                boolean headers = type == BuiltinExchangeType.HEADERS;
                String key = type == BuiltinExchangeType.TOPIC ? "a.*.#" : "a.b";
                channel.queueBind(queue, exchange, key, headers ? match : null);
                AMQP.BasicProperties properties = headers
                        ? new AMQP.BasicProperties.Builder().headers(Map.of("kind", "x", "size", 3)).build()
                        : null;
                channel.basicPublish(exchange, "a.b", properties, bytes(type.getType()));
                equal(text(take(channel, queue, true)), type.getType(), "body");
                channel.queueUnbind(queue, exchange, key, headers ? match : null);
            }
        }
    }

    private void exchangeToExchange() throws Exception {
        try (Channel channel = channel()) {
            String source = unique("source");
            String target = unique("target");
            channel.exchangeDeclare(source, "topic", false, true, null);
            channel.exchangeDeclare(target, "fanout", false, true, null);
            String queue = exclusive(channel);
            channel.queueBind(queue, target, "");
            channel.exchangeBind(target, source, "x.*");
            channel.basicPublish(source, "x.1", null, bytes("through"));
            equal(text(take(channel, queue, true)), "through", "body");
            channel.exchangeUnbind(target, source, "x.*");
        }
    }

    private void declare() throws Exception {
        try (Channel channel = channel()) {
            String queue = unique("java");
            channel.queueDeclare(queue, true, false, false, Map.of("x-max-length", 100));
            refused(406, other -> other.queueDeclare(queue, true, false, false, null));
            refused(404, other -> other.queueDeclarePassive(unique("missing")));
            refused(404, other -> other.exchangeDeclarePassive(unique("missing")));
            refused(406, other -> other.exchangeDeclare("amq.topic", "fanout", true));
            refused(403, other -> other.queueDeclare("amq.mine", false, false, false, null));
            channel.confirmSelect();
            for (int number = 0; number < 4; number++) {
                channel.basicPublish("", queue, null, bytes("" + number));
            }
            channel.waitForConfirmsOrDie(10_000);
            equal(channel.messageCount(queue), 4L, "messages");
            equal(channel.consumerCount(queue), 0L, "consumers");
            refused(406, other -> other.queueDelete(queue, false, true));
            equal(channel.queuePurge(queue).getMessageCount(), 4, "purged");
            equal(channel.queueDelete(queue).getMessageCount(), 0, "deleted");
        }
    }

    private void confirms() throws Exception {
        try (Channel channel = channel()) {
            String queue = unique("java");
            channel.queueDeclare(queue, true, false, false, null);
            channel.confirmSelect();
            AMQP.BasicProperties persistent = new AMQP.BasicProperties.Builder().deliveryMode(2).build();
            for (int number = 0; number < 500; number++) {
                channel.basicPublish("", queue, true, persistent, bytes("" + number));
            }
            channel.waitForConfirmsOrDie(30_000);
            List<String> received = new CopyOnWriteArrayList<>();
            channel.basicQos(100);
            channel.basicConsume(queue, false, (tag, delivery) -> {
                received.add(new String(delivery.getBody(), StandardCharsets.UTF_8));
                channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
            }, tag -> { });
            waitUntil(() -> received.size() == 500, "all messages");
            for (int number = 0; number < 500; number++) {
                equal(received.get(number), "" + number, "body");
            }
            channel.queueDelete(queue);
        }
    }

    private void mandatory() throws Exception {
        try (Channel channel = channel()) {
            List<String> events = new CopyOnWriteArrayList<>();
            channel.confirmSelect();
            channel.addReturnListener(returned -> events.add(
                    "return " + returned.getReplyCode() + " " + new String(returned.getBody(), StandardCharsets.UTF_8)));
            channel.addConfirmListener((tag, many) -> events.add("ack " + tag), (tag, many) -> events.add("nack"));
            channel.basicPublish("amq.direct", unique("nobody"), true, null, bytes("back"));
            waitUntil(() -> events.size() == 2, "return and confirm");
            equal(events, List.of("return 312 back", "ack 1"), "events");
        }
    }

    private void settle() throws Exception {
        try (Channel channel = channel()) {
            String queue = exclusive(channel);
            for (int number = 0; number < 5; number++) {
                channel.basicPublish("", queue, null, bytes("" + number));
            }
            channel.basicQos(2);
            List<Delivery> received = new CopyOnWriteArrayList<>();
            String tag = channel.basicConsume(queue, false, (consumer, delivery) -> received.add(delivery), c -> { });
            waitUntil(() -> received.size() == 2, "two messages");
            Thread.sleep(300);
            equal(received.size(), 2, "messages in flight");
            channel.basicNack(received.get(0).getEnvelope().getDeliveryTag(), false, true);
            waitUntil(() -> received.size() == 3, "the message again");
            require(received.get(2).getEnvelope().isRedeliver(), "not flagged as redelivered");
            channel.basicAck(received.get(2).getEnvelope().getDeliveryTag(), true);
            waitUntil(() -> received.size() == 5, "two more messages");
            channel.basicReject(received.get(3).getEnvelope().getDeliveryTag(), false);
            channel.basicAck(received.get(4).getEnvelope().getDeliveryTag(), false);
            waitUntil(() -> received.size() == 6, "the last message");
            channel.basicCancel(tag);
            List<String> bodies = new ArrayList<>();
            received.forEach(delivery -> bodies.add(new String(delivery.getBody(), StandardCharsets.UTF_8)));
            equal(bodies, List.of("0", "1", "0", "2", "3", "4"), "bodies");
        }
    }

    private void deadLetters() throws Exception {
        try (Channel channel = channel()) {
            String dead = exclusive(channel);
            String queue = unique("java");
            channel.queueDeclare(
                    queue, false, true, true, Map.of("x-dead-letter-exchange", "", "x-dead-letter-routing-key", dead));
            channel.basicPublish("", queue, null, bytes("poison"));
            channel.basicReject(take(channel, queue, false).getEnvelope().getDeliveryTag(), false);
            GetResponse letter = take(channel, dead, true);
            Object deaths = letter.getProps().getHeaders().get("x-death");
            require(deaths instanceof List<?> list && list.get(0) instanceof Map<?, ?>, "x-death " + deaths);
            Map<?, ?> death = (Map<?, ?>) ((List<?>) deaths).get(0);
            equal(death.get("reason").toString(), "rejected", "reason");
            equal(death.get("queue").toString(), queue, "queue");
            equal(death.get("count"), 1L, "count");
            require(death.get("time") instanceof Date, "time " + death.get("time"));
        }
    }

    private void cancelled() throws Exception {
        try (Channel channel = channel()) {
            String queue = unique("java");
            channel.queueDeclare(queue, false, false, false, null);
            List<String> tags = new CopyOnWriteArrayList<>();
            CancelCallback cancel = tags::add;
            String tag = channel.basicConsume(queue, true, (consumer, delivery) -> { }, cancel);
            channel.queueDelete(queue);
            waitUntil(() -> !tags.isEmpty(), "the cancel");
            equal(tags, List.of(tag), "consumer tag");
        }
    }

    private void lifetimes() throws Exception {
        Connection other = factory.newConnection();
        String name = exclusive(other.createChannel());
        require(name.startsWith("amq.gen-"), "name " + name);
        refused(405, channel -> channel.queueDeclarePassive(name));
        other.close();
        waitUntil(
                () -> {
                    try {
                        refused(404, channel -> channel.queueDeclarePassive(name));
                        return true;
                    } catch (AssertionError still) {
                        return false;
                    }
                },
                "the exclusive queue is gone");
        try (Channel channel = channel()) {
            String auto = unique("auto");
            channel.queueDeclare(auto, false, false, true, null);
            String tag = channel.basicConsume(auto, true, (consumer, delivery) -> { }, c -> { });
            channel.basicCancel(tag);
            refused(404, again -> again.queueDeclarePassive(auto));
        }
    }

    private void bigMessage() throws Exception {
        for (int frame : new int[] {0, 8192}) {
            ConnectionFactory small = factory.clone();
            small.setRequestedFrameMax(frame);
            try (Connection other = small.newConnection(); Channel channel = other.createChannel()) {
                String queue = exclusive(channel);
                byte[] body = new byte[2_000_003];
                Arrays.fill(body, (byte) 'b');
                channel.basicPublish("", queue, null, body);
                equal(take(channel, queue, true).getBody(), body, "body");
            }
        }
    }

    private void headers() throws Exception {
        try (Channel channel = channel()) {
            String queue = exclusive(channel);
            Map<String, Object> headers = new HashMap<>();
            headers.put("boolean", true);
            headers.put("byte", (byte) -5);
            headers.put("short", (short) -300);
            headers.put("int", -70000);
            headers.put("long", 1L << 40);
            headers.put("float", 0.5f);
            headers.put("double", 2.25);
            headers.put("decimal", new BigDecimal("12.34"));
            headers.put("date", new Date(1_700_000_000_000L));
            headers.put("null", null);
            headers.put("list", Arrays.asList(1, true, null, 2.5));
            headers.put("table", Map.of("deep", Map.of("deeper", 1L)));
            headers.put("bytes", new byte[] {0, -1, 1});
            headers.put("text", "grün");
            AMQP.BasicProperties properties = new AMQP.BasicProperties.Builder().headers(headers).build();
            channel.basicPublish("", queue, properties, new byte[0]);
            Map<String, Object> received = take(channel, queue, true).getProps().getHeaders();
            equal(received.size(), headers.size(), "number of headers");
            for (Map.Entry<String, Object> header : headers.entrySet()) {
                Object actual = received.get(header.getKey());
                if (header.getValue() instanceof String) {
                    actual = String.valueOf(actual);
                }
                equal(actual, header.getValue(), header.getKey());
            }
        }
    }

    private void heartbeat() throws Exception {
        ConnectionFactory quick = factory.clone();
        quick.setRequestedHeartbeat(1);
        try (Connection other = quick.newConnection()) {
            equal(other.getHeartbeat(), 1, "heartbeat");
            Thread.sleep(4_000);
            require(other.isOpen(), "the connection closed");
        }
    }

    private void rpc() throws Exception {
        try (Channel channel = channel(); Channel serving = channel()) {
            String requests = exclusive(serving);
            RpcServer server = new RpcServer(serving, requests) {
                @Override
                public byte[] handleCall(Delivery request, AMQP.BasicProperties reply) {
                    return bytes(new String(request.getBody(), StandardCharsets.UTF_8) + " pong");
                }
            };
            Thread loop = new Thread(() -> {
                try {
                    server.mainloop();
                } catch (IOException closed) {
                    // The check is over.
                }
            });
            loop.setDaemon(true);
            loop.start();
            RpcClient client =
                    new RpcClient(new RpcClientParams().channel(channel).exchange("").routingKey(requests).timeout(20_000));
            equal(new String(client.primitiveCall(bytes("ping")), StandardCharsets.UTF_8), "ping pong", "answer");
            client.close();
            server.terminateMainloop();
        }
    }

    private void recover() throws Exception {
        try (Channel channel = channel()) {
            String queue = exclusive(channel);
            channel.basicPublish("", queue, null, bytes("x"));
            take(channel, queue, false);
            channel.basicRecover(true);
            require(take(channel, queue, true).getEnvelope().isRedeliver(), "not flagged as redelivered");
        }
    }
}
